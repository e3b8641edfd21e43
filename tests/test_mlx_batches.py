"""Batches of functions of MLX, also those that mx.vmap has wrong."""

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

from bridge import mlx2torch
from tests.mlx_functions import JACOBIANS, written


def test_quirk_a_batch_is_written_to_in_its_first_example():
    found = mx.vmap(written)(mx.ones((2, 3)))
    assert found[0].tolist() == [2, 0, 1]
    assert found[1].tolist() != [2, 0, 1]


GROUPED = mlx2torch(lambda x, w: mx.conv1d(x, w, groups=2))
INVERSE = mlx2torch(lambda x: mx.linalg.tri_inv(x, stream=mx.cpu))
DIVMOD = mlx2torch(lambda x: mx.divmod(x, x + 2)[1])
MISBATCHED = {
    "writing": (mlx2torch(written), (0,), [(4, 3)]),
    "weights of groups": (GROUPED, (None, 0), [(2, 6, 4), (3, 4, 3, 2)]),
    "half of a matrix": (INVERSE, (0,), [(4, 3, 3)]),
    "two results": (DIVMOD, (0,), [(4, 3)]),
    "no examples": (mlx2torch(written), (0,), [(0, 3)]),
    "another axis": (mlx2torch(written), (1,), [(3, 4)]),
}


@pytest.mark.parametrize(("f", "axes", "shapes"), MISBATCHED.values(), ids=MISBATCHED)
def test_batches_are_those_of_single_examples(f, axes, shapes):
    xs = [torch.randn(shape) + 0.3 for shape in shapes]
    rows = next(len(x.movedim(a, 0)) for x, a in zip(xs, axes, strict=True) if a is not None)
    at = lambda i: [x if a is None else x.select(a, i) for x, a in zip(xs, axes, strict=True)]
    found = torch.func.vmap(f, in_dims=axes)(*xs)
    assert len(found) == rows
    if rows:
        torch.testing.assert_close(found, torch.stack([f(*at(i)) for i in range(rows)]))
    if rows and f not in {INVERSE, DIVMOD}:  # which MLX cannot differentiate
        last = len(xs) - 1
        reverse, ahead = (jac(f, argnums=last)(*at(0)) for jac in JACOBIANS)
        torch.testing.assert_close(reverse, ahead)


# By name: in MLX, and the same in torch.
IN_BATCHES = {
    "an index into one": (lambda x: x[None][0] * x.mean(), lambda x: x * x.mean()),
    "an index behind": (
        lambda x: x.reshape(1, 3)[:, mx.array(0)] * x.sum(),
        lambda x: x[:1] * x.sum(),
    ),
    "an index into a stack": (
        lambda x: mx.stack([x, x * 2])[1] * x.sum(),
        lambda x: x * 2 * x.sum(),
    ),
    "checkpoint": (
        lambda x: mx.checkpoint(lambda z: mx.sin(z) * z)(x) * x.sum(),
        lambda x: x.sin() * x * x.sum(),
    ),
    "addmm": (
        lambda x: mx.addmm(x[0], x[None], mx.eye(3)) * x.sum(),
        lambda x: (x[0] + x[None]) * x.sum(),
    ),
    "convolution": (
        lambda x: mx.conv1d(x[None, :, None], x[None, :2, None]),
        lambda x: torch.nn.functional.conv1d(x[None, None], x[None, None, :2]).mT,
    ),
}


@pytest.mark.parametrize(("fn", "native"), IN_BATCHES.values(), ids=IN_BATCHES)
def test_batches_of_derivatives_in_any_order(fn, native):
    """MLX writes beyond memory for some, and has no batched form of others."""
    rows, many = torch.randn(4, 3), torch.randn(2, 4, 3)
    cotangents = torch.randn(2, 4, *native(rows[0]).shape)

    def nested(f):
        pulled = lambda x, c: torch.func.vjp(lambda x: torch.func.vmap(f)(x), x)[1](c)[0]
        return torch.func.vmap(pulled)(many, cotangents)

    total = lambda f: lambda x: f(x).sum()
    for use in (
        nested,
        lambda f: torch.func.vmap(f, in_dims=1)(rows.T),
        lambda f: torch.func.vmap(torch.func.grad(total(f)), in_dims=1)(rows.T),
        lambda f: torch.func.vmap(torch.func.jacrev(torch.func.jacrev(total(f))))(rows),
    ):
        torch.testing.assert_close(use(mlx2torch(fn)), use(native), rtol=1e-4, atol=1e-5)


def test_derivatives_of_what_is_written():
    native = lambda x: torch.stack([2 * x[0], 0 * x[1], x[2] * x[2]]).square().sum()
    f, x = mlx2torch(lambda x: mx.square(written(x)).sum()), torch.tensor([0.3, -1.25, 0.7])
    for outer in JACOBIANS:
        for inside in JACOBIANS:
            found, expected = (outer(inside(fn))(x) for fn in (f, native))
            torch.testing.assert_close(found, expected)
