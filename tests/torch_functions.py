"""Functions written with torch, with arguments for them."""

import torch
from torch.nn import functional as F  # noqa: N812

DOUBLE = torch.float64
_generator = torch.Generator().manual_seed(3)


def real(*shape):
    return torch.randn(shape, dtype=DOUBLE, generator=_generator)


def complex_(*shape):
    return torch.randn(shape, dtype=torch.complex128, generator=_generator)


def integers(high, *shape):
    return torch.randint(0, high, shape, generator=_generator)


class Undifferentiable(torch.autograd.Function):
    """Twice the argument, with a gradient that autograd cannot follow."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, g):
        return g.detach() * 2


def mlp(x, w, b, v):
    return torch.tanh(x @ w + b) @ v


def attention(q, k, v):
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1) @ v


def in_place(x, y):
    x += 1
    x[0] *= y[1]
    z = y.sin()
    z += x
    z[1] *= 3
    return x, z.sum()


def buffer(x):
    out = torch.zeros(3, x.shape[0], dtype=x.dtype)
    for i in range(3):
        out[i] = x * (i + 1)
    out[:, 0].mul_(2)
    return out


def aliases(x):
    y = x * 2
    return x, x, y, y.t(), y[0], y


CONSTANT = real(3)


def constants(x):
    return CONSTANT, x + CONSTANT, torch.tensor([1.0, 2.0]), torch.ones(2, 2, dtype=DOUBLE)


class StraightThrough(torch.autograd.Function):
    """A step with the gradient of the identity; as functions were written before torch 2."""

    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(scale)
        return torch.where(x > 0, 1.0, -1.0).to(x) * scale

    @staticmethod
    def backward(ctx, g):
        (scale,) = ctx.saved_tensors
        return g * scale, g.sum()


class Reversal(torch.autograd.Function):
    """The identity, whose gradient is reversed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, strength):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.strength = inputs[1]

    @staticmethod
    def backward(ctx, g):
        return -ctx.strength * g, None


class Clipped(torch.autograd.Function):
    """The identity, whose gradient is clipped; without a rule for vmap."""

    @staticmethod
    def forward(x):
        return x * 1

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-0.5, 0.5)


def frozen(x, w):
    with torch.no_grad():
        scale = w.abs().sum()
    return x * w / scale


def hooked(x):
    y = x * 2
    if y.requires_grad:
        y.register_hook(lambda g: g * 7)
    return y.sin()


def force(x):
    with torch.enable_grad():
        x = x.requires_grad_()
        energy = (x**3).sum() + x[0] * x[1]
        return torch.autograd.grad(energy, x, create_graph=True)[0]


lstm = torch.nn.LSTM(2, 3, dtype=DOUBLE)
NAMES = [name for name, _ in lstm.named_parameters()]


def recurrent(x, *parameters):
    state = dict(zip(NAMES, parameters, strict=True))
    y, (h, c) = torch.func.functional_call(lstm, state, (x,))
    return y, h, c


def batch_norm(x, mean, variance, w, b):
    y = F.batch_norm(x, mean, variance, w, b, training=True, momentum=0.3)
    return y, mean, variance


FUNCTIONS = {
    "sine": (torch.sin, [real(3, 4)]),
    "product": (lambda x, y: x * y, [real(3, 1), real(4)]),
    "0-d": (lambda x, y: (x * y, x.exp()), [real(), real()]),
    "zero size": (lambda x, w: (x @ w, x.sum()), [real(0, 3), real(3, 2)]),
    "mlp": (mlp, [real(5, 3), real(3, 4), real(4), real(4, 2)]),
    "linear of three axes": (F.linear, [real(2, 5, 3), real(4, 3), real(4)]),
    "layer norm": (
        lambda x, w, b: F.layer_norm(x, (4,), w, b),
        [real(3, 4), real(4), real(4)],
    ),
    "gelu": (lambda x: F.gelu(x) + F.silu(x), [real(7)]),
    "attention": (attention, [real(2, 5, 3), real(2, 4, 3), real(2, 4, 3)]),
    "convolution": (
        lambda x, w, b: F.conv2d(x, w, b, padding=1, stride=2),
        [real(2, 3, 5, 5), real(4, 3, 3, 3), real(4)],
    ),
    "pooling": (lambda x: F.max_pool2d(x, 2), [real(1, 2, 4, 4)]),
    "cross entropy": (F.cross_entropy, [real(4, 3), integers(3, 4)]),
    "embedding": (lambda i, w: F.embedding(i, w), [integers(5, 2, 3), real(5, 4)]),
    "fft": (lambda x: torch.fft.rfft(x).abs(), [real(9)]),
    "complex": (lambda z, w: (z * w.conj() / (1 + z * z), z.abs()), [complex_(4), complex_(4)]),
    "holomorphic": (lambda z: torch.exp(z) * z**3, [complex_(3)]),
    "conjugate": (lambda z: (z.conj(), z.conj().imag), [complex_(3)]),
    "solve": (
        lambda a, b: torch.linalg.solve(a @ a.mT + torch.eye(3, dtype=DOUBLE), b),
        [real(3, 3), real(3, 2)],
    ),
    "determinant": (lambda a: torch.linalg.slogdet(a)[1], [real(3, 3)]),
    "eigenvalues": (lambda a: torch.linalg.eigvalsh(a + a.mT), [real(3, 3)]),
    "sorting": (lambda x: torch.sort(x * 2), [real(6)]),
    "gathering": (lambda x, i: (x[i], x.cumsum(0)), [real(6), integers(6, 4)]),
    "scattering": (
        lambda x, i: torch.zeros(6, dtype=DOUBLE).index_add(0, i, x),
        [real(4), integers(6, 4)],
    ),
    "integers": (lambda x, n: (x * n, n + 1, n > 1), [real(3), integers(4, 3)]),
    "in place": (in_place, [real(3), real(3)]),
    "buffer": (buffer, [real(4)]),
    "aliases": (aliases, [real(3, 3)]),
    "constants": (constants, [real(3)]),
    "views": (lambda x: (x.t(), x.expand(2, 3, 4), x[1:, ::2], x.unfold(0, 2, 1)), [real(3, 4)]),
    "strided": (lambda x: torch.as_strided(x * 2, (2, 2), (1, 2)), [real(6)]),
    "channels last": (
        lambda x: (x.to(memory_format=torch.channels_last) * 2).sin(),
        [real(2, 3, 4, 4)],
    ),
    "detached": (lambda x: x * x.detach() + x.data, [real(3)]),
    "frozen": (frozen, [real(3), real(3)]),
    "hooked": (hooked, [real(3)]),
    "force": (force, [real(3)]),
    "straight-through": (StraightThrough.apply, [real(4), real()]),
    "reversal": (lambda x: Reversal.apply(x.sin(), 3.0) * x, [real(4)]),
    "clipped": (lambda x: Clipped.apply(x**2) * 3, [real(4)]),
    "lstm": (recurrent, [real(4, 2), *(p.detach().clone() for p in lstm.parameters())]),
    "numbers among results": (lambda x: [x * 2, 3, 0.5, True], [real(2)]),
}
NO_TANGENTS = {"clipped"}
PLAIN_ONLY = {"straight-through", "reversal", "clipped"}
# Tangents by torch.func.jvp ignore what holds gradients back.
NO_FORWARD_MODE = {"frozen", "hooked", "force"}
NO_VMAP = {"channels last"}
# aten::as_strided_scatter has no batching rule.
NO_VMAP_OF_HALVES = {"strided"}
