"""Operators of torch by families: functions of the same arguments, one result or several each."""

import torch
from torch.nn import functional as F  # noqa: N812

from tests.torch_functions import complex_, integers, real
from tests.versions import OLDER_TORCH

X, Y, POSITIVE = real(3, 4), real(3, 4), real(3, 4).abs() + 0.3
UNIT = torch.tanh(real(3, 4)) * 0.9
Z, W = complex_(3, 4), complex_(3, 4)
N, M = integers(9, 3, 4) - 4, integers(5, 3, 4) + 1
SQUARE, HALF = real(2, 3, 3) + 2 * torch.eye(3), complex_(3, 3)
IMAGE, KERNEL = real(2, 4, 7, 6), real(6, 2, 3, 2)
SIGNAL, VOLUME = real(2, 4, 9), real(1, 2, 4, 5, 6)


def _functions(*names):
    return {name: getattr(torch, name) for name in names}


def _hermitian(a):
    return a + a.mH


def _gauge_free(q, *others):
    """What of a matrix of vectors does not depend on their phases."""
    return (q.abs() ** 2, *others)


FAMILIES = {
    "functions": (
        {
            **_functions("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp", "exp2", "expm1"),
            **_functions("atan", "asinh", "abs", "neg", "square", "sigmoid", "erf", "erfc"),
            **_functions("sign", "sgn", "frac", "floor", "ceil", "round", "trunc", "relu"),
            "silu": F.silu,
            "gelu": F.gelu,
            "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"),
            "softplus": F.softplus,
            "elu": F.elu,
            "selu": F.selu,
            "celu": F.celu,
            "mish": F.mish,
            "leaky relu": F.leaky_relu,
            "hardswish": F.hardswish,
            "hardsigmoid": F.hardsigmoid,
            "hardtanh": F.hardtanh,
            "softsign": F.softsign,
            "logsigmoid": F.logsigmoid,
            "relu6": F.relu6,
            "nan_to_num": torch.nan_to_num,
            "decimals": lambda x: torch.round(x, decimals=2),
            "sinc": torch.sinc,
            "i0": torch.special.i0,
            "i1e": torch.special.i1e,
            "log_ndtr": torch.special.log_ndtr,
            "far below 0": lambda x: (
                torch.digamma(x - 12),
                *(torch.polygamma(n, x - 12) for n in (0, 1, 2)),
                torch.special.zeta(torch.tensor([2.0, 3, 2, 5]), x.detach() - 12),
            ),
        },
        [X],
    ),
    "functions of positive numbers": (
        {
            **_functions("log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal"),
            **_functions("lgamma", "digamma", "angle"),
            "power": lambda x: (x**2, x**3, x**0.5, x**-1, x**-2.5, 2**x),
            "polygamma": lambda x: torch.polygamma(2, x),
            "entr": torch.special.entr,
            "acosh": lambda x: torch.acosh(x + 1),
        },
        [POSITIVE],
    ),
    "functions of the unit interval": (
        {**_functions("asin", "acos", "atanh", "erfinv"), "logit": lambda x: torch.logit(x.abs())},
        [UNIT],
    ),
    "pairs": (
        {
            **_functions("add", "sub", "mul", "div", "maximum", "minimum", "fmax", "fmin"),
            **_functions("atan2", "hypot", "copysign", "logaddexp", "logaddexp2", "fmod"),
            **_functions("remainder", "rsub", "dist", "cosine_similarity"),
            "modes": lambda x, y: (
                torch.div(x, y, rounding_mode="floor"),
                torch.div(x, y, rounding_mode="trunc"),
                torch.floor_divide(x.detach(), y.detach()),
            ),
            "alpha": lambda x, y: (torch.add(x, y, alpha=3), torch.sub(x, 2, alpha=0.5)),
            "power": lambda x, y: x.abs() ** y,
            "addcmul": lambda x, y: torch.addcmul(x, y, x, value=2),
            "addcdiv": lambda x, y: torch.addcdiv(x, y, x + 5, value=2),
            "lerp": lambda x, y: (torch.lerp(x, y, 0.2), torch.lerp(x, y, 0.7), x.lerp(y, x * y)),
            "clamp": lambda x, y: (x.clamp(-0.5, 0.5), x.clamp(min=y), x.clamp_max(y)),
            "where": lambda x, y: (torch.where(x > y, x, y), torch.where(x > 0, 1.0, y)),
            "masked": lambda x, y: (x.masked_fill(y > 0, 2.0), x * (y > 0)),
            "xlogy": lambda x, y: torch.xlogy(x, y.abs()),
            "huber": F.huber_loss,
            "l1": F.l1_loss,
            "kl": lambda x, y: F.kl_div(x, y, reduction="batchmean"),
            "heaviside": lambda x, y: torch.heaviside(x.detach(), y.detach()),
        },
        [X, Y],
    ),
    "integers": (
        {
            **_functions("add", "sub", "mul", "div", "floor_divide", "remainder", "fmod", "gcd"),
            **_functions("lcm", "bitwise_and", "bitwise_or", "bitwise_xor", "maximum", "eq", "lt"),
            **_functions("logical_and", "logical_xor", "bitwise_left_shift"),
            "unary": lambda n, m: (~n, -n, n.abs(), n.sign(), n.square(), n.sqrt(), n.exp()),
            "trunc": lambda n, m: torch.div(n, m[0], rounding_mode="trunc"),
            "ranges": lambda n, m: (n, torch.arange(0, -7.9, -4.5, dtype=torch.int64)),
            "power": lambda n, m: (n**m, n**2, n**3, m ** torch.tensor(-1), n**0.5),
            "shift": lambda n, m: n >> m,
            "sums": lambda n, m: (n.sum(), n.prod(1), n.cumsum(0), n.bool().sum(), n.max()),
            "mixed": lambda n, m: (n * 0.5, n + 1.5, n / 2, n * torch.tensor(2.5), n > 0.5),
            "dtypes": lambda n, m: (n.int(), n.to(torch.uint8), n.bool(), n.float(), n.short()),
            "one hot": lambda n, m: F.one_hot(m, 6),
        },
        [N, M],
    ),
    "complex numbers": (
        {
            **_functions("mul", "div", "sub"),
            "functions": lambda z, w: (z.exp(), z.log(), z.sin(), z.tanh(), z.sqrt(), z.sigmoid()),
            "parts": lambda z, w: (z.real, z.imag, z.abs(), z.angle(), z.sgn(), z.conj()),
            "power": lambda z, w: (z**2, z**w, z**0.5, z.reciprocal()),
            "views": lambda z, w: (
                torch.view_as_real(z),
                torch.view_as_complex(z.real.unflatten(1, (2, 2)).clone()),
            ),
            "made": lambda z, w: (torch.complex(z.real, w.imag), torch.polar(z.abs(), w.real)),
            "sums": lambda z, w: (z.sum(0), z.mean(), z.prod(), z.cumprod(1), z.cumsum(1)),
            "norms": lambda z, w: (z.norm(), z.var(1), torch.linalg.vector_norm(z, 3, dim=0)),
            "products": lambda z, w: (z @ w.mH, torch.vdot(z[0], w[0]), torch.dot(z[0], w[0])),
            "questions": lambda z, w: (z == w, z.isfinite(), z.isreal()),
            "mixed": lambda z, w: (z * 2, z * 1j, z.real * w, z + 1),
        },
        [Z, W],
    ),
    "reductions": (
        {
            "sums": lambda x: (x.sum(), x.sum(1), x.sum((0, 1), keepdim=True), x.nansum(0)),
            "means": lambda x: (x.mean(), x.mean(1), x.prod(), x.prod(1), x[:, :0].prod(1)),
            "extremes": lambda x: (
                x.amax(1),
                x.amin(),
                x.max(),
                *(() if OLDER_TORCH else x.aminmax()),  # which has no derivative in 2.11
                x.argmax(),
                x.argmin(1),
            ),
            "spread": lambda x: (x.var(), x.std(1), x.var(0, correction=0), *torch.std_mean(x, 1)),
            "norms": lambda x: (
                *(
                    torch.linalg.vector_norm(x, n, dim=1)
                    for n in (0, 1, 2, 3.5, torch.inf, -torch.inf)
                ),
                torch.linalg.matrix_norm(x),
                x.norm(dim=0),
            ),
            "exponentials": lambda x: (
                x.logsumexp(1),
                x.softmax(0),
                x.log_softmax(1),
                F.softmin(x, 1),
            ),
            "running": lambda x: (x.cumsum(0), x.cumprod(1), x.logcumsumexp(1), x.diff()),
            "questions": lambda x: ((x > 0).all(1), (x > 0).any(), x.count_nonzero(0)),
            "wide": lambda x: (x.float().sum(dtype=torch.float64), x.detach().half().sum()),
            "trapezoid": lambda x: (torch.trapezoid(x), x.renorm(2, 0, 0.5)),
        },
        [X],
    ),
    "sorting": (
        {
            "sort": lambda x, n: (*torch.sort(x), *torch.sort(x, 0, descending=True)),
            "stable": lambda x, n: (
                *torch.sort(n, stable=True),
                n.sort(dim=0, descending=True, stable=True)[1],
            ),
            "topk": lambda x, n: (*torch.topk(x, 2), *torch.topk(x, 2, dim=0, largest=False)),
            "kth": lambda x, n: (*torch.kthvalue(x, 2), torch.argsort(x, 0)),
            "median": lambda x, n: (torch.median(x), *torch.median(x, 1)),
            # Torch 2.11 compares the values of quantiles.
            "quantile": lambda x, n: () if OLDER_TORCH else (torch.quantile(x, 0.3),),
            "running": lambda x, n: (*torch.cummax(x, 1), *torch.cummin(n, 0)),
            "search": lambda x, n: (
                torch.searchsorted(x.detach()[0].sort()[0], x.detach()),
                torch.searchsorted(x.detach().sort()[0], x.detach(), right=True),
                torch.bucketize(n, torch.tensor([-2, 0, 3])),
            ),
            "extremes": lambda x, n: (*x.max(1), *x.min(0, keepdim=True), *n.max(1)),
        },
        [X, N],
    ),
    "shapes": (
        {
            "views": lambda x, y: (x.view(4, 3), x.t(), x[None], x.mT.flatten(), x.view(2, 2, 3)),
            "parts": lambda x, y: (x[1], x[:, 1:3], x[::2, -1], x.narrow(1, 1, 2), x[..., None, 2]),
            "splits": lambda x, y: (*x.split(3, 1), *x.unbind(), *x.chunk(3, 1), *x.split([1, 2])),
            "joined": lambda x, y: (
                torch.cat([x, y], 1),
                torch.stack([x, y], 1),
                torch.hstack((x, y)),
            ),
            "turned": lambda x, y: (x.flip(1), x.roll(1), x.roll((1, -1), (0, 1)), x.rot90()),
            "repeated": lambda x, y: (
                x.repeat(2, 1, 2),
                x.expand(2, 3, 4),
                x.tile(2),
                x.repeat_interleave(2, 1),
            ),
            "diagonals": lambda x, y: (
                x.diagonal(),
                x.diagonal(1),
                torch.diag_embed(x),
                x.diag(),
                x[0].diag(),
            ),
            "triangles": lambda x, y: (
                x.tril(),
                x.triu(1),
                *torch.tril_indices(3, 3),
                *torch.triu_indices(3, 4),
            ),
            "windows": lambda x, y: (x.unfold(1, 2, 1), torch.as_strided(x * 2, (2, 2), (1, 3), 1)),
            "padded": lambda x, y: (
                F.pad(x, (1, 2, 0, 1), value=0.5),
                F.pad(x, (-1, 1)),
                F.pad(x[None], (1, 2), mode="reflect"),
                F.pad(x[None], (1, 2), mode="replicate"),
                F.pad(x[None], (1, 2), mode="circular"),
            ),
            "written": lambda x, y: (
                x.slice_scatter(y[:, :2], 1, 0, 4, 2),
                x.select_scatter(y[0], 0, 1),
                x.diagonal_scatter(y[:, 0]),
                # Its gradient, which torch has wrong, is held to differences in test_torch_faults.
                torch.as_strided_scatter(x * 1, y[:2, :2], (2, 2), (1, 3), 1).detach(),
            ),
            "squeezed": lambda x, y: (
                x[:, :1].squeeze(),
                x[:, :1].squeeze(1),
                x[None, :1].squeeze((0, 1)),
            ),
            "made": lambda x, y: (
                *(torch.zeros_like(x), torch.ones(2), torch.full((2, 2), 3.5), torch.eye(3, 4)),
                *(torch.arange(5), torch.arange(1, 2, 0.25), torch.arange(7, 1, -2)),
                *(torch.linspace(0, 1, 4), torch.logspace(0, 1, 3), x.new_full((2,), 2.0)),
            ),
            "grid": lambda x, y: (
                *torch.meshgrid(x[0], y[0], indexing="ij"),
                torch.cartesian_prod(x[0], y[0]),
            ),
            "bits": lambda x, y: (
                x.detach().view(torch.int64),
                x.detach().float().view(torch.uint8),
            ),
            "shuffled": lambda x, y: (F.pixel_shuffle(x.view(1, 4, 1, 3), 2), x.movedim(0, 1)),
        },
        [X, Y],
    ),
    "places": (
        {
            "index": lambda x, y, n, m: (
                x[n % 3, m % 4],
                x[:, m % 4],
                x[n % 3],
                x[n[0] % 3, :],
                x[-1],
            ),
            "negative": lambda x, y, n, m: x[:, (n % 4) - 4],
            "index apart": lambda x, y, n, m: x.expand(2, 3, 4)[n % 2, :, m % 4],
            "put": lambda x, y, n, m: (
                x.index_put((n[0] % 3,), y[0], accumulate=True),
                x.index_put((torch.tensor([2, 0]), torch.tensor([1, 3])), y[0, :2]),
            ),
            "masked": lambda x, y, n, m: (
                x.index_put((n > 0,), torch.tensor(2.0, dtype=x.dtype)),
                x.index_put((n[:, 0] > 0,), y[0, 0].detach(), accumulate=True),
                x.masked_scatter(n > 0, y.detach()),
            ),
            "select": lambda x, y, n, m: (
                x.index_select(1, m[0] % 4),
                torch.take(x, m),
                x.take_along_dim(m % 4, 1),
            ),
            "gather": lambda x, y, n, m: (x.gather(1, m % 4), x.gather(0, m[:2] % 3)),
            "scatter": lambda x, y, n, m: (
                x.scatter(1, torch.tensor([[3, 0], [1, 2]]), y[:2, :2]),
                x.scatter(0, torch.tensor([[2, 0, 1, 1]]), 1.5),
                x.scatter_add(0, m % 3, y),
                x.scatter_reduce(0, m % 3, y, "amax"),
                x.scatter_reduce(1, m % 4, y, "mean", include_self=False),
                x.detach().scatter_reduce(1, m % 4, y.detach(), "prod"),
                x.scatter_reduce(1, m % 4, y, "amin", include_self=False),
            ),
            "index_add": lambda x, y, n, m: (
                x.index_add(0, torch.tensor([1, 1, 2]), y, alpha=2),
                x.index_copy(0, torch.tensor([2, 0]), y[:2]),
                x.index_fill(1, torch.tensor([1, 3]), 0.5),
            ),
            "embedding": lambda x, y, n, m: (
                F.embedding(m % 3, x),
                F.embedding(m % 3, x, padding_idx=1),
            ),
        },
        [X, Y, N, M],
    ),
    "products": (
        {
            "matrices": lambda a, b, x: (x @ b, a @ a, a @ b[0], torch.einsum("bij,kj->bki", a, x)),
            "added": lambda a, b, x: (
                torch.addmm(x, x, b, beta=0.5, alpha=2),
                torch.baddbmm(a, a, a, beta=2),
                torch.addmv(b[0], b, b[1], alpha=3),
                torch.addr(b, b[0], b[1]),
                torch.addbmm(b, a, a),
            ),
            "linear": lambda a, b, x: (F.linear(a, b, b[0]), F.bilinear(b, b, a, b[0, :2])),
            "products": lambda a, b, x: (
                torch.outer(b[0], b[1]),
                torch.kron(b, x),
                torch.cross(b, x, dim=1),
            ),
            "attention": lambda a, b, x: (
                F.scaled_dot_product_attention(a[:, None], a[:, None], a[:, None], is_causal=True),
                F.scaled_dot_product_attention(a[:, None], a[:, None], a[:, None], attn_mask=x),
                F.scaled_dot_product_attention(a, a, a, scale=0.3),
            ),
            "distances": lambda a, b, x: (torch.cdist(b, x), torch.cdist(a, a + 1, p=1)),
        },
        [SQUARE, real(3, 3), real(3, 3)],
    ),
    "convolutions": (
        {
            "plain": lambda x, w, b, s, v: F.conv2d(x, w[:, :, :, :].repeat(1, 2, 1, 1), b),
            "all": lambda x, w, b, s, v: F.conv2d(x, w, b, (2, 1), (1, 2), (1, 2), groups=2),
            "one axis": lambda x, w, b, s, v: F.conv1d(
                s, w[:, :, 0], stride=2, padding=1, groups=2
            ),
            "one image": lambda x, w, b, s, v: F.conv2d(x[0], w, b, groups=2),
            "same": lambda x, w, b, s, v: F.conv2d(x, w[..., :1], padding="same", groups=2),
            "three axes": lambda x, w, b, s, v: F.conv3d(
                v, w[:, :, :, :, None].tile(1, 1, 1, 1, 2), padding=1
            ),
            "transposed": lambda x, w, b, s, v: (
                F.conv_transpose2d(x, w[:4], b[:4], (2, 1), (1, 0), (1, 0), 2, (1, 2)),
                F.conv_transpose1d(s, w[:4, :, 0], stride=3, padding=1, output_padding=1),
            ),
        },
        [IMAGE, KERNEL, real(6), SIGNAL, VOLUME],
    ),
    "pooling": (
        {
            "max": lambda x, s, v: (
                F.max_pool2d(x, 3, 2, 1),
                *F.max_pool2d(x, (2, 3), (2, 1), dilation=(1, 2), return_indices=True),
                F.max_pool2d(x, 2, ceil_mode=True),
                F.max_pool1d(s, 3, 2),
                F.max_pool3d(v, 2),
            ),
            "mean": lambda x, s, v: (
                F.avg_pool2d(x, 3, 2, 1),
                F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
                F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
                F.avg_pool2d(x, 2, divisor_override=3),
                F.avg_pool1d(s, 3),
                F.avg_pool3d(v, 2, padding=1),
            ),
            "adaptive": lambda x, s, v: (
                F.adaptive_avg_pool2d(x, (3, 4)),
                F.adaptive_avg_pool1d(s, 4),
                F.adaptive_avg_pool2d(x, 1),
                F.adaptive_avg_pool3d(v, 2),
                F.adaptive_max_pool2d(x.detach(), (7, 2)),
            ),
            "norms": lambda x, s, v: (F.lp_pool2d(x.abs(), 2, 2), F.local_response_norm(x, 2)),
            "resampled": lambda x, s, v: (
                F.interpolate(x, scale_factor=2),
                F.interpolate(x, size=(5, 9), mode="bilinear"),
                F.interpolate(x, size=(5, 9), mode="bicubic", align_corners=True),
                F.interpolate(s, size=4, mode="linear"),
                F.unfold(x, 2),
                F.fold(x[:, :, 0, :].tile(1, 2, 1)[:, :4], (3, 4), 2),
            ),
        },
        [IMAGE, SIGNAL, VOLUME],
    ),
    "networks": (
        {
            "layer norm": lambda x, w, b: (F.layer_norm(x, (4,), w, b), F.rms_norm(x, (4,), w)),
            "group norm": lambda x, w, b: F.group_norm(x[None].mT, 2, w, b),
            "batch norm": lambda x, w, b: (
                F.batch_norm(x, w.detach(), b.detach().abs(), w, b),
                F.batch_norm(x, None, None, w, b, training=True),
                F.instance_norm(x[None]),
            ),
            "losses": lambda x, w, b: (
                F.cross_entropy(x, torch.tensor([1, 0, 3]), label_smoothing=0.1),
                F.cross_entropy(x, x.softmax(1).detach(), weight=w.detach()),
                F.nll_loss(x, torch.tensor([1, -100, 3])),
                F.mse_loss(x, x.detach() + 1),
                F.smooth_l1_loss(x, x.detach() + w),
                F.binary_cross_entropy_with_logits(x, (x > 0).double()),
                F.poisson_nll_loss(x, x.detach().abs()),
                F.hinge_embedding_loss(x, (x > 0) * 2.0 - 1),
                F.triplet_margin_loss(x, x * w, x + b),
            ),
            "gated": lambda x, w, b: (F.glu(x), F.prelu(x, w.abs()), F.normalize(x)),
        },
        [X, real(4), real(4)],
    ),
    "fourier": (
        {
            "complex": lambda x, z: (
                torch.fft.fft(z),
                torch.fft.ifft2(z),
                torch.fft.fftn(z, norm="ortho"),
            ),
            "real": lambda x, z: (
                torch.fft.rfft(x),
                torch.fft.rfft2(x, norm="ortho"),
                torch.fft.fft(x),
            ),
            "inverse": lambda x, z: (
                torch.fft.irfft(z),
                torch.fft.irfft(z, 5),
                torch.fft.irfft2(z),
                torch.fft.ihfft(x),
            ),
            "hermitian": lambda x, z: (
                torch.fft.hfft(z),
                torch.fft.fftshift(z),
                torch.fft.fftfreq(5),
            ),
            "stft": lambda x, z: torch.stft(
                x.flatten(), 4, window=torch.ones(4, dtype=x.dtype), return_complex=True
            ),
        },
        [real(5, 6), complex_(3, 4)],
    ),
    "linear algebra": (
        {
            "solved": lambda a, z: (
                torch.linalg.solve(a, a[:, 0]),
                torch.linalg.solve(a, a.mT, left=False),
                torch.linalg.solve(z, z[0]),
                torch.linalg.inv(a),
                torch.linalg.inv(z),
            ),
            "determinants": lambda a, z: (
                *torch.linalg.slogdet(a),
                torch.linalg.det(a.mT),
                torch.linalg.det(z),
                torch.linalg.slogdet(z)[1],
                torch.linalg.det(a.mT.contiguous()),
            ),
            "cholesky": lambda a, z: (
                torch.linalg.cholesky(a @ a.mT + 1),
                torch.linalg.cholesky(z @ z.mH, upper=True),
                torch.cholesky_solve(a, torch.linalg.cholesky(a @ a.mT + 1)),
                torch.cholesky_inverse(torch.linalg.cholesky(a[0] @ a[0].mT)),
            ),
            "triangles": lambda a, z: (
                torch.linalg.solve_triangular(a, a.mT, upper=True),
                torch.linalg.solve_triangular(z, z.mH, upper=False, unitriangular=True, left=False),
            ),
            "lu": lambda a, z: (
                *torch.linalg.lu(a),
                *torch.linalg.lu_factor(z),
                torch.linalg.lu_solve(*torch.linalg.lu_factor(z), z.mT, adjoint=True),
                torch.linalg.lu_solve(*torch.linalg.lu_factor(z), z.mT, left=False),
            ),
            "qr": lambda a, z: (*torch.linalg.qr(a), torch.linalg.qr(z)[1].abs()),
            "singular values": lambda a, z: (
                torch.linalg.svdvals(a),
                _gauge_free(*torch.linalg.svd(a, full_matrices=False))[0],
                torch.linalg.pinv(a),
                torch.linalg.matrix_norm(a, 2),
                torch.linalg.cond(a),
            ),
            "eigenvalues": lambda a, z: (
                torch.linalg.eigvalsh(a),
                *_gauge_free(*torch.linalg.eigh(_hermitian(z))[::-1]),
                torch.linalg.eigvals(a).abs().sum(-1),
                torch.linalg.eigh(a, UPLO="U")[0],
            ),
            "powers": lambda a, z: (torch.linalg.matrix_exp(a), torch.linalg.matrix_power(a, 3)),
        },
        [SQUARE, HALF],
    ),
}
