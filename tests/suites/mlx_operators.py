"""Samples of all other operators of MLX, from indices and products to linear algebra."""

import mlx.core as mx

from tests.suites.mlx_elementwise import DIVIDENDS, DIVISORS, ELEMENTWISE
from tests.suites.mlx_samples import (
    ROWS,
    complex_,
    positive,
    real,
    sample,
    small,
    triangular,
)

CPU = mx.cpu
KEY = mx.random.key(3)
OPERATORS = ELEMENTWISE | {
    "divmod, the quotient": sample(lambda x, y: mx.divmod(x, y)[0], DIVIDENDS, DIVISORS),
    "divmod, the remainder": sample(lambda x, y: mx.divmod(x, y)[1], DIVIDENDS, DIVISORS),
    "full": sample(lambda v: mx.full((2, 3), v), real(3)),
    "full_like": sample(lambda v: mx.full_like(mx.zeros((2, 3)), v), real(3)),
    "addmm": sample(mx.addmm, real(3, 5), real(3, 4), real(4, 5)),
    "addmm with factors": sample(
        lambda c, a, b: mx.addmm(c, a, b, alpha=0.7, beta=-1.5), real(3, 5), real(3, 4), real(4, 5)
    ),
    "matmul": sample(mx.matmul, real(3, 4), real(4, 5)),
    "matmul of vectors": sample(mx.matmul, real(4), real(4)),
    "matmul of batches": sample(mx.matmul, real(2, 3, 4), real(4, 5)),
    "arange": sample(lambda x: x * mx.arange(4.0), real(3, 4)),
    "argpartition": sample(lambda x: mx.argpartition(x, 2), real(3, 4)),
    "partition": sample(lambda x: mx.sort(mx.partition(x, 2), axis=-1), real(3, 4)),
    "as_strided": sample(lambda x: mx.as_strided(x, (2, 3), (1, 2)), real(3, 4)),
    "as_strided, overlapping": sample(lambda x: mx.as_strided(x, (3, 2), (1, 1), 1), real(7)),
    "astype": sample(lambda x: x.astype(mx.complex64), real(3, 4)),
    "block_masked_mm, factors": sample(
        lambda a, b: mx.block_masked_mm(a, b, 32, MASK), real(64, 32), real(32, 64)
    ),
    "block_masked_mm, mask of the result": sample(
        lambda m: mx.block_masked_mm(WIDE, WIDE.T, 32, m), real(2, 2)
    ),
    "block_masked_mm, masks of factors": sample(
        lambda m, n: mx.block_masked_mm(WIDE, WIDE.T, 32, None, m, n), real(2, 1), real(1, 2)
    ),
    "block_masked_mm, all": sample(
        lambda a, b, m, n: mx.block_masked_mm(a, b, 32, MASK, m, n),
        real(64, 32),
        real(32, 64),
        real(2, 1),
        real(1, 2),
    ),
    "broadcast_to": sample(lambda x: mx.broadcast_to(x, (2, 3, 4)), real(3, 4)),
    "broadcast_arrays": sample(lambda x, y: mx.broadcast_arrays(x, y), real(3, 4), real(4)),
    "clip": sample(mx.clip, real(3, 4), mx.array(-0.5), mx.array(0.6)),
    "concatenate": sample(lambda x, y: mx.concatenate([x, y], 1), real(3, 4), real(3, 2)),
    "conv1d": sample(
        lambda x, w: mx.conv1d(x, w, stride=2, padding=1), real(2, 6, 3), real(4, 3, 3)
    ),
    "conv1d with groups": sample(
        lambda x, w: mx.conv1d(x, w, groups=2), real(2, 6, 4), real(4, 3, 2)
    ),
    "conv2d": sample(
        lambda x, w: mx.conv2d(x, w, stride=(2, 1), padding=1, dilation=(1, 2)),
        real(2, 5, 6, 3),
        real(4, 2, 3, 3),
    ),
    "conv2d with groups": sample(
        lambda x, w: mx.conv2d(x, w, groups=2), real(2, 5, 6, 4), real(4, 2, 3, 2)
    ),
    "conv3d": sample(lambda x, w: mx.conv3d(x, w), real(1, 3, 4, 3, 2), real(2, 2, 2, 2, 2)),
    "conv_general": sample(
        lambda x, w: mx.conv_general(x, w, padding=([1], [2]), input_dilation=2, flip=True),
        real(2, 5, 3),
        real(4, 3, 3),
    ),
    "conv_transpose1d": sample(
        lambda x, w: mx.conv_transpose1d(x, w, stride=2), real(2, 4, 3), real(4, 3, 3)
    ),
    "conv_transpose2d": sample(
        lambda x, w: mx.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1),
        real(1, 4, 3, 3),
        real(2, 3, 3, 3),
    ),
    "conv_transpose3d": sample(
        lambda x, w: mx.conv_transpose3d(x, w), real(1, 2, 3, 2, 2), real(2, 2, 2, 2, 2)
    ),
    "convolve": sample(mx.convolve, real(6), real(3)),
    "cumsum, reversed": sample(
        lambda x: mx.cumsum(x, axis=1, reverse=True, inclusive=False), real(3, 4)
    ),
    "cumprod, reversed": sample(
        lambda x: mx.cumprod(x, axis=1, reverse=True, inclusive=False), real(3, 4)
    ),
    "cumprod with a zero": sample(
        lambda x: mx.cumprod(x * mx.array([1.0, 0.0, 1.0, 1.0]), axis=1), real(3, 4)
    ),
    "cummax, reversed": sample(lambda x: mx.cummax(x, axis=1, reverse=True), real(3, 4)),
    "cummin along rows": sample(lambda x: mx.cummin(x, axis=1), real(3, 4)),
    "logcumsumexp, reversed": sample(
        lambda x: mx.logcumsumexp(x, axis=1, reverse=True), real(3, 4)
    ),
    "logcumsumexp, exclusive": sample(
        lambda x: mx.logcumsumexp(x, axis=1, inclusive=False)[:, 1:], real(3, 4)
    ),
    "depends": sample(lambda x, y: mx.depends([x * 2], [y])[0], real(3), real(3)),
    "diff": sample(mx.diff, real(3, 4)),
    "einsum": sample(lambda x, y: mx.einsum("ij,kj->ik", x, y), real(3, 4), real(2, 4)),
    "expand_dims": sample(lambda x: mx.expand_dims(x, 1), real(3, 4)),
    "from_fp8": sample(lambda x: mx.from_fp8(mx.to_fp8(x), mx.float32), real(3, 4)),
    "gather_mm": sample(lambda a, b: mx.gather_mm(a, b, None, ROWS), real(3, 2, 4), real(2, 4, 5)),
    "gather_mm by rows of both": sample(
        lambda a, b: mx.gather_mm(a, b, ROWS, ROWS), real(2, 2, 4), real(2, 4, 5)
    ),
    "gather_qmm": sample(
        lambda x: mx.gather_qmm(x, *QUANTIZED_ROWS, rhs_indices=ROWS), real(3, 2, 64)
    ),
    "hadamard_transform": sample(lambda x: mx.hadamard_transform(x, scale=0.3), real(3, 4)),
    "identity": sample(lambda x: x @ mx.identity(4), real(3, 4)),
    "linspace": sample(lambda x: x * mx.linspace(0, 1, 4), real(3, 4)),
    "matrix_norm": sample(
        mx.matrix_norm if hasattr(mx, "matrix_norm") else mx.linalg.norm, real(3, 4)
    ),
    "matrix_transpose": sample(lambda x: mx.swapaxes(x, -1, -2), real(3, 4)),
    "meshgrid": sample(lambda x, y: mx.meshgrid(x, y), real(3), real(4)),
    "moveaxis": sample(lambda x: mx.moveaxis(x, 0, 2), real(3, 4, 2)),
    "pad": sample(lambda x: mx.pad(x, ((1, 0), (0, 2)), constant_values=1.5), real(3, 4)),
    "pad by edges": sample(lambda x: mx.pad(x, ((1, 0), (0, 2)), mode="edge"), real(3, 4)),
    "put_along_axis": sample(
        lambda x, v: mx.put_along_axis(x, mx.array([[1], [0], [2]]), v, 1), real(3, 4), real(3, 1)
    ),
    "quantize, dequantize": sample(
        lambda s, b: mx.dequantize(QUANTIZED[0], s, b), QUANTIZED_SCALES := real(8, 1), real(8, 1)
    ),
    "quantized_matmul": sample(lambda x: mx.quantized_matmul(x, *QUANTIZED), real(3, 64)),
    "quantized_matmul, scales": sample(
        lambda x, s, b: mx.quantized_matmul(x, QUANTIZED[0], s, b),
        real(3, 64),
        real(8, 1),
        real(8, 1),
    ),
    "repeat": sample(lambda x: mx.repeat(x, 2, axis=0), real(3, 4)),
    "reshape": sample(lambda x: mx.reshape(x, (2, 6)), real(3, 4)),
    "roll": sample(lambda x: mx.roll(x, 2, axis=1), real(3, 4)),
    "round to digits": sample(lambda x: mx.round(x, 1), mx.array([0.31, -1.29, 2.5])),
    "searchsorted": sample(lambda x: mx.searchsorted(mx.array([-1.0, 0.0, 1.0]), x), real(3)),
    "segmented_mm": sample(
        lambda a, b: mx.segmented_mm(a, b, mx.array([[0, 2], [2, 4]], mx.uint32)),
        real(3, 4),
        real(4, 5),
    ),
    "slice": sample(lambda x: mx.slice(x, mx.array([1]), (0,), (2, 3)), real(3, 4)),
    "slice_update": sample(
        lambda x, y: mx.slice_update(x, y, mx.array([1]), (0,)), real(3, 4), real(2, 4)
    ),
    "softmax along columns": sample(lambda x: mx.softmax(x, axis=0), real(3, 4)),
    "split": sample(lambda x: mx.split(x, 2, axis=1), real(3, 4)),
    "squeeze": sample(lambda x: mx.squeeze(x, 1), real(3, 1, 4)),
    "stack": sample(lambda x, y: mx.stack([x, y], 1), real(3, 4), real(3, 4)),
    "swapaxes": sample(lambda x: mx.swapaxes(x, 0, 1), real(3, 4)),
    "take": sample(lambda x: mx.take(x, ROWS, axis=1), real(3, 4)),
    "take_along_axis": sample(
        lambda x: mx.take_along_axis(x, mx.array([[1, 1], [0, 3], [2, 0]]), 1), real(3, 4)
    ),
    "tensordot": sample(lambda x, y: mx.tensordot(x, y, 1), real(3, 4), real(4, 2)),
    "tile": sample(lambda x: mx.tile(x, (2, 1)), real(3, 4)),
    "topk": sample(lambda x: mx.sort(mx.topk(x, 2, axis=1), axis=1), real(3, 4)),
    "unflatten": sample(lambda x: mx.unflatten(x, 1, (2, 2)), real(3, 4)),
    "unstack": sample(lambda x: mx.unstack(x), real(3, 4)),
    "view": sample(lambda x: mx.view(x, mx.int32), real(3, 4)),
    "where": sample(lambda x, y: mx.where(x > y, x * x, y), real(3, 4), real(3, 4)),
    "max along rows": sample(lambda x: mx.max(x, axis=1), real(3, 4)),
    "prod along rows": sample(lambda x: mx.prod(x, axis=1), real(3, 4)),
    "prod with a zero": sample(
        lambda x: mx.prod(x * mx.array([1.0, 0.0, 1.0, 1.0]), axis=1), real(3, 4)
    ),
    "std along rows": sample(lambda x: mx.std(x, axis=1, ddof=1), real(3, 4)),
    "median along rows": sample(lambda x: mx.median(x, axis=1), real(3, 4)),
    "checkpoint": sample(mx.checkpoint(lambda x, y: mx.sin(x * y)), real(3), real(3)),
    "compile": sample(mx.compile(lambda x, y: mx.sin(x * y) + x), real(3), real(3)),
    # Indices.
    "index by slices": sample(lambda x: x[1:, ::2], real(3, 4)),
    "index by arrays": sample(lambda x: x[ROWS, mx.array([0, 3, 0])], real(3, 4)),
    "write to a slice": sample(lambda x, y: _written(x, y, slice(1, None)), real(3, 4), real(2, 4)),
    "write to rows": sample(lambda x, y: _written(x, y, mx.array([2, 0])), real(3, 4), real(2, 4)),
    "write to a mask": sample(lambda x, y: _written(x, y, x > 0), real(3, 4), real()),
    "at add": sample(lambda x, y: x.at[ROWS].add(y), real(3, 4), real(3, 4)),
    "at add to a slice": sample(lambda x, y: x.at[1:].add(y), real(3, 4), real(2, 4)),
    "at subtract": sample(lambda x, y: x.at[ROWS].subtract(y), real(3, 4), real(3, 4)),
    "at multiply": sample(lambda x, y: x.at[mx.array([2, 0])].multiply(y), real(3, 4), real(2, 4)),
    "at multiply, repeated": sample(lambda x, y: x.at[ROWS].multiply(y), real(3, 4), real(3, 4)),
    "at divide": sample(lambda x, y: x.at[mx.array([2, 0])].divide(y), real(3, 4), positive(2, 4)),
    "at maximum": sample(lambda x, y: x.at[ROWS].maximum(y), real(3, 4), real(3, 4)),
    "at minimum": sample(lambda x, y: x.at[ROWS].minimum(y), real(3, 4), real(3, 4)),
    # fast
    "fast.layer_norm": sample(
        lambda x, w, b: mx.fast.layer_norm(x, w, b, 1e-5), real(3, 8), real(8), real(8)
    ),
    "fast.rms_norm": sample(lambda x, w: mx.fast.rms_norm(x, w, 1e-5), real(3, 8), real(8)),
    "fast.rope": sample(
        lambda x: mx.fast.rope(x, 4, traditional=False, base=100.0, scale=0.5, offset=2),
        real(2, 3, 4),
    ),
    "fast.rope by frequencies": sample(
        lambda x, f: mx.fast.rope(x, 4, traditional=True, base=None, scale=0.5, offset=2, freqs=f),
        real(2, 3, 4),
        positive(2),
    ),
    "fast.scaled_dot_product_attention": sample(
        lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4),
        real(1, 4, 3, 8),
        real(1, 2, 5, 8),
        real(1, 2, 5, 8),
    ),
    "fast.scaled_dot_product_attention, causal": sample(
        lambda q, k, v: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, mask="causal"),
        real(1, 2, 5, 8),
        real(1, 2, 5, 8),
        real(1, 2, 5, 8),
    ),
    "fast.scaled_dot_product_attention, mask": sample(
        lambda q, k, v, m: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, mask=m),
        real(1, 2, 3, 8),
        real(1, 2, 5, 8),
        real(1, 2, 5, 8),
        real(3, 5),
    ),
    "fast.scaled_dot_product_attention, sinks": sample(
        lambda q, k, v, s: mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, sinks=s),
        real(1, 2, 3, 8),
        real(1, 2, 5, 8),
        real(1, 2, 5, 8),
        real(2),
    ),
    # fft
    "fft.fft": sample(mx.fft.fft, complex_(3, 4)),
    "fft.fft, cut": sample(lambda z: mx.fft.fft(z, 3), complex_(3, 4)),
    "fft.fft, padded, along columns": sample(lambda z: mx.fft.fft(z, 5, axis=0), complex_(3, 4)),
    "fft.fft of real numbers": sample(mx.fft.fft, real(3, 4)),
    "fft.ifft": sample(mx.fft.ifft, complex_(3, 4)),
    "fft.fft2": sample(mx.fft.fft2, complex_(3, 4)),
    "fft.ifft2": sample(mx.fft.ifft2, complex_(3, 4)),
    "fft.fftn": sample(mx.fft.fftn, complex_(2, 3, 4)),
    "fft.ifftn": sample(mx.fft.ifftn, complex_(2, 3, 4)),
    "fft.rfft": sample(mx.fft.rfft, real(3, 4)),
    "fft.rfft, odd": sample(mx.fft.rfft, real(3, 5)),
    "fft.rfft2": sample(mx.fft.rfft2, real(3, 4)),
    "fft.rfftn": sample(mx.fft.rfftn, real(2, 3, 5)),
    "fft.irfft": sample(mx.fft.irfft, complex_(3, 4)),
    "fft.irfft, odd": sample(lambda z: mx.fft.irfft(z, 5), complex_(3, 3)),
    "fft.irfft2": sample(mx.fft.irfft2, complex_(3, 4)),
    "fft.irfft2, odd": sample(lambda z: mx.fft.irfft2(z, (3, 5)), complex_(3, 3)),
    "fft.irfftn": sample(mx.fft.irfftn, complex_(2, 3, 4)),
    "fft.fftshift": sample(mx.fft.fftshift, real(3, 4)),
    "fft.ifftshift": sample(mx.fft.ifftshift, real(3, 5)),
    # linalg
    "linalg.norm": sample(mx.linalg.norm, real(3, 4)),
    "linalg.norm of order 3": sample(lambda x: mx.linalg.norm(x, 3, axis=1), real(3, 4)),
    "linalg.norm, greatest": sample(lambda x: mx.linalg.norm(x, float("inf"), axis=1), real(3, 4)),
    "linalg.norm, nuclear": sample(lambda x: mx.linalg.norm(x, "nuc", stream=CPU), real(3, 3)),
    "linalg.norm of complex numbers": sample(mx.linalg.norm, complex_(2) / 2),
    "linalg.cross": sample(mx.linalg.cross, real(4, 3), real(4, 3)),
    "linalg.inv": sample(lambda x: mx.linalg.inv(x, stream=CPU), triangular(3)),
    "linalg.tri_inv": sample(lambda x: mx.linalg.tri_inv(x, stream=CPU), triangular(3)),
    "linalg.tri_inv, upper": sample(
        lambda x: mx.linalg.tri_inv(x, upper=True, stream=CPU), triangular(3, upper=True)
    ),
    "linalg.pinv": sample(lambda x: mx.linalg.pinv(x, stream=CPU), real(3, 2)),
    "linalg.cholesky": sample(lambda x: mx.linalg.cholesky(x @ x.T, stream=CPU), triangular(3)),
    "linalg.cholesky_inv": sample(lambda x: mx.linalg.cholesky_inv(x, stream=CPU), triangular(3)),
    "linalg.qr": sample(lambda x: mx.linalg.qr(x, stream=CPU), real(3, 3)),
    "linalg.svd": sample(lambda x: mx.linalg.svd(x, compute_uv=False, stream=CPU), real(3, 3)),
    "linalg.eigh": sample(lambda x: mx.linalg.eigh(x + x.T, stream=CPU)[0], real(3, 3)),
    "linalg.eigvalsh": sample(lambda x: mx.linalg.eigvalsh(x + x.T, stream=CPU), real(3, 3)),
    "linalg.eig": sample(lambda x: mx.linalg.eig(x + x.T, stream=CPU)[0], real(3, 3)),
    "linalg.eigvals": sample(lambda x: mx.linalg.eigvals(x + x.T, stream=CPU), real(3, 3)),
    "linalg.lu": sample(lambda x: mx.linalg.lu(x, stream=CPU)[2], real(3, 3)),
    "linalg.lu_factor": sample(lambda x: mx.linalg.lu_factor(x, stream=CPU)[0], real(3, 3)),
    "linalg.solve": sample(
        lambda a, b: mx.linalg.solve(a, b, stream=CPU), triangular(3), real(3, 2)
    ),
    "linalg.solve_triangular": sample(
        lambda a, b: mx.linalg.solve_triangular(a, b, upper=False, stream=CPU),
        triangular(3),
        real(3, 2),
    ),
    "linalg.det": sample(lambda x: mx.linalg.det(x, stream=CPU), triangular(3)),
    "linalg.slogdet": sample(lambda x: mx.linalg.slogdet(x, stream=CPU)[1], triangular(3)),
    # random numbers that follow from a key and from arguments
    "random.normal": sample(
        lambda m, s: mx.random.normal((3,), loc=m, scale=s, key=KEY), real(3), positive(3)
    ),
    "random.uniform": sample(
        lambda low, high: mx.random.uniform(low, high + 2, (3,), key=KEY), small(3), positive(3)
    ),
    "random.laplace": sample(lambda x: x * mx.random.laplace((3,), key=KEY), real(3)),
    "random.gumbel": sample(lambda x: x + mx.random.gumbel((3,), key=KEY), real(3)),
    "random.truncated_normal": sample(
        lambda low, high: mx.random.truncated_normal(low - 2, high, (3,), key=KEY),
        small(3),
        positive(3),
    ),
    "random.bernoulli": sample(
        lambda p: mx.random.bernoulli(p, (3,), key=KEY), mx.array([0.2, 0.5, 0.8])
    ),
    "random.categorical": sample(lambda x: mx.random.categorical(x, key=KEY), real(3, 4)),
    "random.permutation": sample(lambda x: mx.random.permutation(x, key=KEY), real(4)),
    "random.multivariate_normal": sample(
        lambda m: mx.random.multivariate_normal(m, mx.eye(3), key=KEY, stream=CPU), real(3)
    ),
}


def _written(x, y, at):
    z = x * 1.0
    z[at] = y
    return z


WIDE = real(64, 32)
MASK = mx.array([[1.0, 0.5], [-2.0, 0.0]])
QUANTIZED = mx.quantize(real(8, 64))
QUANTIZED_ROWS = [mx.stack([x, x + 1]) for x in QUANTIZED]
