"""Backwards of users with masks, branches and writes in place, in batches."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
torch = pytest.importorskip("torch")

from torch.autograd import Function  # noqa: E402

from bridge import torch2jax  # noqa: E402
from tests.torch_ops import close, op  # noqa: E402

DOUBLE = torch.float64
X = torch.tensor([0.3, -0.7, 1.2], dtype=DOUBLE)
MANY = torch.stack([X, X + 1, -X])

pytestmark = pytest.mark.filterwarnings("ignore:.* cannot be captured as a graph")


def keep(ctx, x):
    ctx.save_for_backward(x)
    return x.clamp(min=0)


def masked(ctx, g):
    g = g.clone()
    g[ctx.saved_tensors[0] < 0] = 0
    return g


def masked_in_place(ctx, g):
    g[ctx.saved_tensors[0] < 0] = 0
    return g


def scaled_in_place(ctx, g):
    return g.mul_(ctx.saved_tensors[0] > 0)


def branching(ctx, g):
    if g.sum() == 0:
        return torch.zeros_like(g)
    return g * (ctx.saved_tensors[0] > 0)


def indexed(ctx, g):
    out, at = torch.zeros_like(g), (ctx.saved_tensors[0] > 0).nonzero(as_tuple=True)
    out[at] = g[at]
    return out


BACKWARDS = (masked, masked_in_place, scaled_in_place, branching, indexed)
every_backward = pytest.mark.parametrize("backward", BACKWARDS, ids=lambda f: f.__name__)


def relu(backward):
    members = {"forward": staticmethod(keep), "backward": staticmethod(backward)}
    return type("Relu", (Function,), members).apply


@every_backward
def test_batches_of_gradients_and_gradients_of_batches(backward):
    f = op(relu(backward), X, capture="auto")
    cotangents = MANY.cos()
    expected = [cotangents * (MANY > 0)]
    of_batch = f.derive("vmap", (0,), 3).derive("vjp", (0,), (0,))
    batch = f.derive("vjp", (0,), (0,)).derive("vmap", (0, 0), 3)
    close(of_batch.call(MANY, cotangents), expected)
    close(batch.call(MANY, cotangents), expected)
    close(f.derive("vjp", (0,), (0,)).call(X, X.cos()), [X.cos() * (X > 0)])


@every_backward
def test_jacobians_in_jax(backward):
    x = np.array([0.3, -0.7, 1.2], "float32")
    f = torch2jax(relu(backward))
    np.testing.assert_allclose(jax.jacrev(f)(x), np.diag(x > 0).astype("float32"))


@pytest.mark.parametrize("rank", [1, 2])
def test_masks_of_leading_and_of_last_axes(rank):
    def fn(x, mask):
        y = x.sin()
        if rank == 1:
            y[:, mask[0]] = 2.0
        else:
            y[mask] = torch.tensor(2.0, dtype=DOUBLE)
        y[mask[:, 0]] = -1.0
        return y

    x, mask = MANY, torch.tensor([[0, 1, 0], [1, 1, 0], [0, 0, 0]], dtype=torch.bool)
    batch = torch.stack([x, x.cos()])
    f = op(fn, x, mask)
    close(f.call(x, mask), [fn(x, mask)])
    close(
        f.derive("vmap", (0, None), 2).call(batch, mask),
        [torch.stack([fn(y, mask) for y in batch])],
    )


def test_a_batch_of_a_function_that_uses_torch_func():
    """Captured batches of a Hessian have another gradient: each example is computed alone."""
    f = lambda x: torch.func.hessian(lambda z: z.tanh().sum() ** 2)(x).trace()
    cotangents = MANY[:, 0].cos()
    expected = torch.func.vjp(torch.func.vmap(f), MANY)[1](cotangents)
    batch = op(f, X).derive("vmap", (0,), 3)
    close(batch.derive("vjp", (0,), (0,)).call(MANY, cotangents), expected)
