"""Derivatives that torch has wrong, and what becomes of them."""

import pytest

torch = pytest.importorskip("torch")

from bridge import NoRuleError  # noqa: E402
from tests.torch_ops import close, op  # noqa: E402

DOUBLE = torch.float64
_generator = torch.Generator().manual_seed(4)
X, S, A = (torch.randn(n, dtype=DOUBLE, generator=_generator) for n in ((7,), (2, 2), (3, 3)))


def along(f, xs, vs, step=1e-6):
    """The derivative of `f` along `vs`, by a difference."""
    above, below = (f(*(x + n * step * v for x, v in zip(xs, vs, strict=True))) for n in (1, -1))
    return (above - below) / (2 * step)


FUNCTIONS = {
    "function": lambda x, s: torch.as_strided_scatter(x, s, (2, 2), (1, 2)).sin(),
    "method": lambda x, s: x.as_strided_scatter(s, (2, 2), (1, 3), 1).sin(),
    "by name": lambda x, s: torch.as_strided_scatter(
        input=x, src=s, size=(2, 2), stride=(3, 1), storage_offset=1
    ).sin(),
    "in place": lambda x, s: (y := x.sin(), y.as_strided((2, 2), (1, 2)).mul_(s))[0],
    "inverse of a factor": lambda x, s: torch.cholesky_inverse(
        A.tril() + torch.outer(x, x)[:3, :3].tril()
    ),
}


@pytest.mark.parametrize("capture", ["require", "never"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_both_ways_agree_with_differences(name, capture):
    f = FUNCTIONS[name]
    vs, c = (X.cos(), S.sin()), torch.randn(f(X, S).shape, dtype=DOUBLE, generator=_generator)
    expected = (along(f, (X, S), vs) * c).sum()
    made = op(f, X, S, capture=capture)
    gradients = made.derive("vjp", (0, 1), (0,)).call(X, S, c)
    close(
        [sum((g * v).sum() for g, v in zip(gradients, vs, strict=True))],
        [expected],
        rtol=1e-6,
        atol=1e-8,
    )
    if (name, capture) != ("inverse of a factor", "never"):  # refused: torch.func alone is taken
        tangents = made.derive("jvp", (0, 1)).call(X, S, *vs)
        close([(tangents[0] * c).sum()], [expected], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("lower", ["ffi", "xla"])
def test_writing_by_strides_in_jax(lower):
    jax = pytest.importorskip("jax")
    from jax.test_util import check_grads

    from bridge import torch2jax

    f = torch2jax(FUNCTIONS["method"], lower=lower)
    with jax.enable_x64(True):
        check_grads(f, (X.numpy(), S.numpy()), order=2, atol=1e-6, rtol=1e-6)


def test_writing_by_strides_has_its_gradient_wrong():
    """Until torch has it right, which `_mended` is for."""
    f = lambda x: torch.as_strided_scatter(x, S, (2, 2), (1, 2))
    found = torch.func.vjp(f, X)[1](X.cos())[0] @ X.sin()
    assert abs(found - along(f, (X,), (X.sin(),)) @ X.cos()) > 0.01


def test_a_gradient_that_differences_contradict_is_refused(monkeypatch):
    """Of two ways of torch that disagree; here nothing stands in for the one that is wrong."""
    from bridge._sources.torch.capture import corrections

    monkeypatch.setattr(corrections, "_CORRECTED", {})
    f = op(lambda x: torch.as_strided_scatter(x, S, (2, 2), (1, 2)).sin(), X)
    with pytest.raises(NoRuleError, match="torch has the gradient of f wrong"):
        f.derive("jvp", (0,))
