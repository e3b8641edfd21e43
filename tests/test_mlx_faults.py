"""Derivatives and batches that MLX has wrong: refused by name, or computed by a right way."""

import subprocess
import sys

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import mlx.nn as nn
import torch

import bridge
from bridge import mlx2torch

V = torch.tensor([0.3, -1.25, 0.7])
W = torch.tensor([1.5, 0.4, 2.5])
BLOCKS = mx.random.normal((64, 32), key=mx.random.key(0))


def gradient(f, *xs):
    xs = [x.clone().requires_grad_() for x in xs]
    return torch.autograd.grad(mlx2torch(f)(*xs).sum(), xs)


REFUSED = {
    "full": (lambda v: mx.full((2, 3), v), "mx.full", "mx.broadcast_to"),
    "full_like": (lambda v: mx.full_like(mx.zeros((2, 3)), v), "mx.full_like", "mx.broadcast_to"),
    "full of something": (lambda v: mx.sin(mx.full((3,), v * v)), "mx.full", "mx.broadcast_to"),
    "full in a checkpoint": (
        mx.checkpoint(lambda v: mx.full((2, 3), v)),
        "mx.full",
        "mx.broadcast_to",
    ),
    "pad": (lambda v: mx.pad(v, 1, constant_values=v[0]), "mx.pad", r"mx\.pad\(x - value"),
    "pad by the constant alone": (
        lambda v: mx.pad(mx.ones(2), 1, constant_values=v[1]),
        "mx.pad",
        r"mx\.pad\(x - value",
    ),
    "pad in a checkpoint": (
        mx.checkpoint(lambda v: mx.pad(v, 1, constant_values=v[0])),
        "mx.pad",
        r"mx\.pad\(x - value",
    ),
    "divmod": (lambda v: mx.divmod(v, mx.array(0.4))[1], "remainder", "mx.remainder"),
    "divmod by the divisor": (lambda v: mx.divmod(mx.ones(3), v)[1], "remainder", "mx.remainder"),
    "mask of the result": (
        lambda v: mx.block_masked_mm(BLOCKS, BLOCKS.T, 32, v[:2] * mx.ones((2, 2))),
        "mask_out",
        "mx.repeat",
    ),
}


@pytest.mark.parametrize(("f", "what", "instead"), REFUSED.values(), ids=REFUSED)
def test_wrong_gradients_are_refused(f, what, instead):
    with pytest.raises(bridge.NoRuleError, match=rf"wrong derivatives of .*{what}.*{instead}"):
        gradient(f, V)


@pytest.mark.parametrize(
    "name", ["pad", "pad by the constant alone", "divmod", "mask of the result"]
)
def test_wrong_tangents_are_refused(name):
    f, what, instead = REFUSED[name]
    with pytest.raises(bridge.NoRuleError, match=rf"wrong derivatives of .*{what}.*{instead}"):
        torch.func.jvp(mlx2torch(f), (V,), (V,))


FINE = {
    "full of a constant": (lambda v: mx.full((2, 3), 2.0) * v, lambda v: 4.0 + 0 * v),
    "full of a stopped value": (lambda v: mx.full((3,), mx.stop_gradient(v)) * v, lambda v: v),
    "full of an index": (lambda v: mx.full((3,), mx.argmax(v)) * v, lambda v: 2.0 + 0 * v),
    "broadcast_to": (lambda v: mx.broadcast_to(v * v, (2, 3)), lambda v: 4 * v),
    "pad with a constant": (lambda v: mx.pad(v * v, 1, constant_values=2.0), lambda v: 2 * v),
    "pad as advised": (
        lambda v: mx.pad(v - v[0], 1) + v[0],
        lambda v: torch.tensor([3.0, 1.0, 1.0]),
    ),
    "quotient": (lambda v: mx.divmod(v, mx.array(0.4))[0] * v, lambda v: (v / 0.4).floor()),
    "remainder": (lambda v: v % mx.array(0.4), lambda v: 1 + 0 * v),
    "mask as advised": (
        lambda v: (BLOCKS @ BLOCKS.T) * mx.repeat(mx.repeat(v[:1, None], 64, 0), 64, 1),
        lambda v: torch.tensor([(BLOCKS @ BLOCKS.T).sum().item(), 0, 0]),
    ),
}


@pytest.mark.parametrize(("f", "expected"), FINE.values(), ids=FINE)
def test_what_is_right_beside_it_stays(f, expected):
    (slope,) = gradient(f, V)
    torch.testing.assert_close(slope, expected(V), rtol=1e-4, atol=1e-4)


def test_quirk_gradients_by_values_and_masks():
    v = mx.array(3.0)
    assert mx.grad(lambda v: mx.full((2,), v).sum())(v).item() == 6
    assert mx.grad(lambda v: mx.divmod(mx.array(5.5), v)[1])(mx.array(2.0)).item() == 0
    mask, by = mx.array([[0.0]]), mx.ones((32, 32))
    assert mx.grad(lambda m: mx.block_masked_mm(by, by, 32, m).sum())(mask).item() == 0


def test_quirk_a_pad_differentiated_by_its_constant_ends_the_process():
    code = """
import mlx.core as mx
mx.eval(mx.grad(lambda v: mx.pad(v, 1, constant_values=v[0]).sum())(mx.ones(2)))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert process.returncode < 0


# Functions of real numbers that look complex to nobody.

LOSSES = {
    "huber": (
        lambda x, y: nn.losses.huber_loss(x, y, reduction="sum"),
        lambda x, y: torch.nn.functional.huber_loss(x, y, reduction="sum"),
    ),
    "smooth_l1": (
        lambda x, y: nn.losses.smooth_l1_loss(x, y, reduction="sum"),
        lambda x, y: torch.nn.functional.smooth_l1_loss(x, y, reduction="sum"),
    ),
    "triplet": (
        lambda x, y: nn.losses.triplet_loss(x[None], y[None], (x * y)[None], reduction="sum"),
        lambda x, y: torch.relu(
            ((x - y).square().sum() + 1e-6).sqrt() - ((x - x * y).square().sum() + 1e-6).sqrt() + 1
        ),
    ),
    "abs beside a comparison": (
        lambda x, y: mx.where(mx.abs(x) > y, mx.abs(x) ** 3, x * x).sum(),
        lambda x, y: torch.where(x.abs() > y, x.abs() ** 3, x * x).sum(),
    ),
    "abs in a checkpoint": (
        mx.checkpoint(lambda x, y: ((mx.abs(x) > y) * mx.abs(x) ** 3).sum()),
        lambda x, y: ((x.abs() > y) * x.abs() ** 3).sum(),
    ),
    "sign and power, not dense": (
        lambda x, y: (mx.contiguous(mx.abs(x)) * (x > y) * x**2).sum(),
        lambda x, y: (x.abs() * (x > y) * x**2).sum(),
    ),
}


LOSSES["half precision, not dense"] = (
    lambda x, y: mx.contiguous(mx.cumprod(x.astype(mx.bfloat16).astype(mx.float32) * y)).sum(),
    lambda x, y: (x.bfloat16().float() * y).cumprod(0).sum(),
)


@pytest.mark.parametrize(("f", "native"), LOSSES.values(), ids=LOSSES)
def test_real_functions_have_second_derivatives(f, native):
    for derivative in (torch.func.hessian, lambda f: torch.func.jacrev(torch.func.jacrev(f))):
        found, expected = derivative(mlx2torch(f))(V, W), derivative(native)(V, W)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_complex_numbers_that_are_converted_are_still_refused():
    f = lambda x: mx.contiguous(mx.abs((x.astype(mx.complex64) + 1) ** 2)).sum()
    with pytest.raises(bridge.NoRuleError, match="wrong gradients of Power for complex numbers"):
        gradient(f, V)


def test_complex_numbers_in_a_checkpoint_are_still_refused():
    f = mx.checkpoint(lambda x: mx.real((mx.abs(x) + 1j * x) ** 2).sum())
    with pytest.raises(bridge.NoRuleError, match="wrong gradients of Power for complex numbers"):
        gradient(f, V)


# Batches.

BITS = torch.tensor([6, 3, 5], dtype=torch.int32)
BATCHES = {
    "not_equal": (mx.not_equal, torch.ne),
    "logical_xor": (mx.logical_xor, torch.logical_xor),
    "bitwise_and": (mx.bitwise_and, torch.bitwise_and),
    "bitwise_or": (mx.bitwise_or, torch.bitwise_or),
    "bitwise_xor": (mx.bitwise_xor, torch.bitwise_xor),
    "left_shift": (mx.left_shift, torch.bitwise_left_shift),
    "right_shift": (mx.right_shift, torch.bitwise_right_shift),
}


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 0), (None, 1)], ids=str)
@pytest.mark.parametrize(("f", "native"), BATCHES.values(), ids=BATCHES)
def test_batches_with_one_side_alone(f, native, axes):
    rows = torch.tensor([[6, 0, 1], [3, 3, 2], [1, 5, 0]], dtype=torch.int32)
    xs = [BITS if axis is None else rows for axis in axes]
    found = torch.func.vmap(mlx2torch(f), in_dims=axes)(*xs)
    assert found.equal(torch.func.vmap(native, in_dims=axes)(*xs))


def test_quirk_batches_with_one_side_alone():
    rows, row = mx.array([[6, 0, 1], [3, 3, 2]]), mx.array([6, 3, 5])
    found = mx.vmap(mx.not_equal, in_axes=(None, 0), out_axes=1)(row, rows)
    assert found.tolist() != (row != rows).T.tolist()
    found = mx.vmap(mx.bitwise_and, in_axes=(0, None))(rows, row)
    assert found.tolist() != [[6, 0, 1], [2, 3, 0]]
