"""What is kept of a function of MLX for its backward pass, and what is computed again."""

import functools
import gc

import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import torch

import bridge
from bridge import mlx2torch
from bridge._arrays.mlx import handles
from tests.mlx_functions import X, layer, leaf

CHOICES = {
    "small": ({}, 3, "recompute"),
    "large": ({}, 100_000, "save"),
    "small, asked for": ({"residuals": "save"}, 3, "save"),
    "large, forbidden": ({"residuals": "recompute"}, 100_000, "recompute"),
    "large, compiled": ({"compile": True}, 100_000, "recompute"),
}


@pytest.mark.parametrize(("how", "size", "way"), CHOICES.values(), ids=CHOICES)
def test_a_graph_is_kept_where_that_is_faster(how, size, way):
    f = mlx2torch(mx.sin, **how)
    f(torch.ones(size, requires_grad=True)).sum().backward()
    assert repr(f).endswith(f"derivatives so far: {way}>")


def test_options_that_exclude_each_other():
    with pytest.raises(bridge.OptionError, match=r"compile=True fuses.*Leave out one"):
        mlx2torch(mx.sin, compile=True, residuals="save")
    with pytest.raises(bridge.OptionError, match="residuals='some' is neither"):
        mlx2torch(mx.sin, residuals="some")


keeping = functools.partial(mlx2torch, residuals="save")


def kept():
    gc.collect()
    return len(handles._kept)


def test_a_second_backward_pass_recomputes():
    x = leaf()
    y = keeping(lambda x: layer(mx, x))(x)
    found = [torch.autograd.grad(y, x, c, retain_graph=True)[0] for c in (X, 2 * X, X + 1)]
    native = leaf()
    z = layer(torch, native)
    wanted = [torch.autograd.grad(z, native, c, retain_graph=True)[0] for c in (X, 2 * X, X + 1)]
    torch.testing.assert_close(found, wanted)


def test_the_graph_goes_with_the_tensor_that_stands_for_it():
    before = kept()
    x = leaf()
    y = keeping(lambda x: layer(mx, x))(x)
    assert kept() == before + 1
    y.sum().backward()
    assert kept() == before
    y = keeping(lambda x: layer(mx, x))(x)
    del y
    assert kept() == before


def test_hooks_that_copy_what_is_saved_make_it_recompute():
    x, native = leaf(), leaf()
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda t: t):
        y = keeping(lambda x: layer(mx, x))(x)
    y.sum().backward()
    layer(torch, native).sum().backward()
    torch.testing.assert_close(x.grad, native.grad)


def test_a_checkpoint_equals_native():
    x, native = leaf(), leaf()
    f = keeping(lambda x: layer(mx, x))
    torch.utils.checkpoint.checkpoint(f, x, use_reentrant=False).sum().backward()
    layer(torch, native).sum().backward()
    torch.testing.assert_close(x.grad, native.grad)


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_an_argument_changed_before_the_backward_pass_is_an_error(residuals):
    x = leaf()
    weight = torch.ones(3)
    y = mlx2torch(lambda x, w: x * x * w, residuals=residuals)(x, weight)
    weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_cotangents_of_some_outputs_are_no_zeros_for_the_others():
    """The derivative of sqrt at 0 is infinite: multiplied by a zero it would be no number."""
    x = torch.zeros(3, requires_grad=True)
    f = keeping(lambda x: (mx.sqrt(x), 3 * x))
    for _ in range(2):
        x.grad = None
        f(x)[1].sum().backward()
        assert x.grad.tolist() == [3.0] * 3


def test_a_gradient_for_one_of_two():
    x, w = leaf(), leaf(X + 2)
    y = keeping(lambda x, w: mx.sin(x) * w)(x, w)
    (found,) = torch.autograd.grad(y.sum(), w)
    torch.testing.assert_close(found, X.sin())
