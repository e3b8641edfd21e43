"""Tangents of functions of torch in low or in mixed precision: right, or refused."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from bridge import NoRuleError  # noqa: E402
from tests.torch_functions import Undifferentiable  # noqa: E402
from tests.torch_ops import cube, op  # noqa: E402

BFLOAT16, HALF, SINGLE, DOUBLE = torch.bfloat16, torch.float16, torch.float32, torch.float64
SHAPES = [(), (3,), (40,)]


def point(shape, dtype, seed=3):
    """Values away from 0 and 1, without any symmetry."""
    drawn, generator = dtype if dtype.is_complex else SINGLE, torch.Generator().manual_seed(seed)
    return (0.2 + 0.6 * torch.rand(shape, generator=generator, dtype=drawn)).to(dtype)


def check_tangents(fn, x, **settings):
    """Compare the tangents of the Op with those of `torch.func`."""
    dx = point(x.shape, x.dtype, seed=4)
    (found,) = op(fn, x, **settings).derive("jvp", (0,)).call(x, dx)
    y, expected = torch.func.jvp(fn, (x,), (dx,))
    assert found.dtype == y.dtype
    torch.testing.assert_close(found, expected.to(y.dtype))  # torch has float64 for scalars


def within(dtype):
    """A function that computes in another dtype than that of its argument."""

    def fn(x):
        y = (-x).to(dtype)
        y = y + y
        y = torch.sin(y + y) * y
        return y.to(x.dtype) + 0.3 * x * x

    return fn


MIXED = [
    (DOUBLE, SINGLE),
    (DOUBLE, BFLOAT16),
    (DOUBLE, HALF),
    (SINGLE, BFLOAT16),
    (SINGLE, HALF),
    (HALF, BFLOAT16),
    (torch.complex128, torch.complex64),
]


@pytest.mark.parametrize("capture", ["auto", "never"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("outside", "inside"), MIXED)
def test_lower_precision_within(outside, inside, shape, capture):
    check_tangents(within(inside), point(shape, outside), capture=capture)


def autocast_network(x):
    with torch.autocast("cpu", dtype=BFLOAT16):
        return torch.tanh(x @ x.mT + 0.1 * x.sum()).sin() @ x


@pytest.mark.parametrize("capture", ["auto", "never"])
def test_autocast(capture):
    check_tangents(autocast_network, point((6, 5), SINGLE), capture=capture)


with torch.random.fork_rng():
    torch.manual_seed(0)
    LAYERS = {
        "linear layers": (nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4)), (5, 8)),
        "attention": (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), (3, 2, 8)),
        "convolutions": (
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.SiLU()),
            (2, 2, 7, 7),
        ),
        "a chain of factors": (lambda x: x * 0.13 * 0.37 * 0.71 * 1.3 * 0.9 * 0.77 * 1.9 * 2.3, ()),
    }
ZERO = {  # derivatives that are 0, so that nothing but rounding is left
    "layer norm": (lambda x: nn.functional.layer_norm(x, (8,)).mean(), (5, 8)),
    "softmax": (lambda x: x.softmax(-1).mean(), (5, 8)),
    "squares": (lambda x: x.sin() ** 2 + x.cos() ** 2, (3,)),
}


@pytest.mark.parametrize("dtype", [BFLOAT16, HALF, SINGLE, DOUBLE])
@pytest.mark.parametrize("name", [*LAYERS, *ZERO])
def test_rounding_is_no_disagreement(name, dtype):
    fn, shape = {**LAYERS, **ZERO}[name]
    x = point(shape, dtype)
    if isinstance(fn, nn.Module):
        fn = copy.deepcopy(fn).to(dtype).requires_grad_(False)
    with sdpa_kernel([SDPBackend.MATH]):
        if name in ZERO:
            (found,) = op(fn, x).derive("jvp", (0,)).call(x, x)
            assert found.abs().max() <= 8 * torch.finfo(dtype).eps
        else:
            check_tangents(fn, x)


NO_TANGENTS = {  # with a gradient at x of weight times 3 * x**2
    "Function": (lambda x: 0.5 * Undifferentiable.apply(x**3), "auto"),
    "operator": (cube, "never"),
}


@pytest.mark.parametrize("kind", NO_TANGENTS)
@pytest.mark.parametrize("weight", [1, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [BFLOAT16, HALF, SINGLE, DOUBLE])
def test_a_term_without_tangents_is_no_rounding(dtype, shape, weight, kind):
    term, capture = NO_TANGENTS[kind]
    fn = lambda x: x.sin() + weight * term(x)
    x = point(shape, dtype)
    f = op(fn, x, capture=capture)
    (gradients,) = f.derive("vjp", (0,), (0,)).call(x, torch.ones_like(x))
    torch.testing.assert_close(gradients, x.cos() + weight * 3 * x**2, rtol=0.02, atol=0)
    with pytest.raises(NoRuleError, match="tangents and gradients disagree"):
        f.derive("jvp", (0,))


@pytest.mark.parametrize("inside", [HALF, BFLOAT16, SINGLE])
def test_a_term_without_tangents_beside_lower_precision(inside):
    x = point((3,), DOUBLE)
    fn = lambda x: within(inside)(x) + 0.1 * Undifferentiable.apply(x * x)
    with pytest.raises(NoRuleError, match="tangents and gradients disagree"):
        op(fn, x).derive("jvp", (0,))


@pytest.mark.parametrize("dtype", [SINGLE, DOUBLE])
def test_a_small_term_without_tangents_beside_random_numbers(dtype):
    x, seed = point((64,), dtype), torch.tensor(17)
    fn = lambda x, seed: nn.functional.dropout(x.sin()) + 0.001 * Undifferentiable.apply(x * x)
    with pytest.raises(NoRuleError, match="cannot be differentiated itself"):
        op(fn, x, seed, seed_argnum=1).derive("jvp", (0,))
