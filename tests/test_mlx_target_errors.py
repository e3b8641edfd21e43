"""Errors of functions that are called from MLX keep their types and texts."""

import pytest

from bridge import NoRuleError

mx = pytest.importorskip("mlx.core")
torch = pytest.importorskip("torch")
from bridge import torch2mlx  # noqa: E402
from tests.mlx_transforms import inner  # noqa: E402

X = mx.array([0.3, -1.25, 0.7])


class OwnError(Exception):
    pass


ATTEMPTS = {
    "value": lambda f: f(X),
    "grad": lambda f: inner(f)(X),
    "jvp": lambda f: mx.jvp(lambda x: [f(x)], [X], [X]),
    "vmap": lambda f: mx.vmap(f)(X),
    "vmap grad": lambda f: mx.vmap(mx.grad(f))(X),
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_exceptions_keep_type_and_text(attempt):
    def fails(x):
        raise OwnError("of mine")

    with pytest.raises(OwnError, match="of mine"):
        ATTEMPTS[attempt](torch2mlx(fails))


def test_exceptions_of_a_derivative_keep_type_and_text():
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, cotangent):
            raise OwnError("of mine")

    fails = torch2mlx(Fails.apply, capture="never")
    assert fails(X).tolist() == (2 * X).tolist()
    with pytest.raises(OwnError, match="of mine"):
        inner(fails)(X)
    assert inner(torch2mlx(torch.sin))(X).shape == X.shape  # nothing is left behind


def test_what_torch_cannot_do_has_a_name():
    class Old(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, cotangent):
            return cotangent * 2

    with pytest.raises(NoRuleError, match="torch has no jvp of Old"):
        mx.jvp(torch2mlx(Old.apply, capture="never"), (X,), (X,))
