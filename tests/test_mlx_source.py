"""Functions of MLX elsewhere: what is about MLX alone."""

import functools
import gc
import io
import re
import signal
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("mlx.core")
pytest.importorskip("torch")

import mlx.core as mx
import mlx.nn as nn
import torch

import bridge
from bridge import mlx2jax, mlx2torch
from bridge._arrays.mlx import handles
from bridge._sources.mlx.graph_summary import ALLOCATING

X = torch.tensor([0.3, -1.25, 0.7])
ROWS = torch.tensor([[0.3, -1.25, 0.7], [1.5, 0.5, -0.25]])
WAYS = {
    "keeps": {"residuals": "save"},
    "recomputes": {"residuals": "recompute"},
    "compiled": {"compile": True},
}
every_way = pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)


def leaf(x=X):
    return x.clone().requires_grad_()


def layer(xp, x):
    return xp.tanh(x * x) * x.sum() + xp.sin(x)


def scalar(xp, x):
    return (layer(xp, x) * x).sum()


TRANSFORMS = {
    "grad": lambda t, f: t.grad(f)(X),
    "hessian": lambda t, f: t.hessian(f)(X),
    "jacfwd of jacrev": lambda t, f: t.jacfwd(t.jacrev(f))(X),
    "jacrev of jacfwd": lambda t, f: t.jacrev(t.jacfwd(f))(X),
    "vmap of hessian": lambda t, f: t.vmap(t.hessian(f))(ROWS),
    "third order": lambda t, f: t.jacrev(t.jacrev(t.jacrev(f)))(X),
    "jvp of vmap": lambda t, f: t.jvp(t.vmap(f), (ROWS,), (ROWS.cos(),)),
}


@every_way
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transformations_equal_native_in_every_way(transform, how):
    found = transform(torch.func, mlx2torch(lambda x: scalar(mx, x), **how))
    expected = transform(torch.func, lambda x: scalar(torch, x))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@every_way
def test_autograd_equals_native_in_every_way(how):
    x, native = leaf(), leaf()
    f = mlx2torch(lambda x: (layer(mx, x), mx.exp(x)), **how)
    for function, point in ((f, x), (lambda x: (layer(torch, x), x.exp()), native)):
        first, second = function(point)
        (first * point.cos().detach()).sum().backward(retain_graph=True)
        (second.sum() + 2 * first.sum()).backward()
    torch.testing.assert_close(x.grad, native.grad)


@every_way
def test_torch_compile_equals_native_in_every_way(how):
    f = mlx2torch(lambda x: scalar(mx, x), **how)
    x, native = leaf(), leaf()
    torch.compile(lambda x: f(x * 2) + 1, fullgraph=True, backend="aot_eager")(x).backward()
    (scalar(torch, native * 2) + 1).backward()
    torch.testing.assert_close(x.grad, native.grad)


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


@pytest.mark.parametrize("convert", [mlx2torch, mlx2jax])
def test_an_error_of_the_function_keeps_its_type_and_text(convert):
    def failing(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        convert(failing)(X if convert is mlx2torch else np.ones(3, np.float32))


# The graph that is kept for the backward pass.


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


# Memory.


def test_results_and_gradients_own_their_memory():
    weight = mx.array([1.0, 2.0, 3.0])
    f = mlx2torch(lambda x, y: (weight, weight, x, x * 1, x + y))
    x, y = leaf(), leaf()
    results = f(x, y)
    (results[4]).sum().backward()
    tensors = [*results, x, y, x.grad, y.grad]
    assert len({t.data_ptr() for t in tensors}) == len(tensors)
    with torch.no_grad():
        for t in tensors:
            t.fill_(9)
    assert weight.tolist() == [1.0, 2.0, 3.0]


def kept_by_its_rule(x, kept):
    function = mx.custom_function(lambda x: x * 2)
    function.vjp(lambda x, cotangent, _: kept.append(cotangent * 2) or kept[-1])
    return function(x)


# Of x, y and what the function keeps.
GRADIENTS = {
    "one for both": lambda x, y, _: x + y,
    "one product for both": lambda x, y, _: mx.sin(x + y),
    "views of one": lambda x, y, _: x.reshape(1, 6) + y.reshape(6, 1).T,
    "one expression for both": lambda x, y, _: x @ mx.ones((3, 3)) + y @ mx.ones((3, 3)),
    "the cotangent": lambda x, y, _: mx.stack([x, y]),
    "kept by a rule": lambda x, y, kept: kept_by_its_rule(x, kept) * y,
    "kept by a rule, no value used": lambda x, y, kept: kept_by_its_rule(x, kept) + y,
    "a constant": lambda x, y, _: x * mx.array([1.0, 2.0, 3.0]) * y,
}


@every_way
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("function", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_own_their_memory(function, create_graph, how):
    kept = []
    f = mlx2torch(lambda x, y: function(x, y, kept), **how)
    for _ in range(2):
        x, y = leaf(ROWS), leaf(3 * ROWS)
        gradients = torch.autograd.grad(f(x, y).sum(), (x, y), create_graph=create_graph)
        held = [found for k in kept if (found := values(k)) is not None]
        with torch.no_grad():
            gradients[0].fill_(7)
            gradients[1].fill_(9)
            assert gradients[0].eq(7).all()
        assert [values(k) for k in kept if values(k) is not None] == held


def values(x):
    try:
        return x.tolist()
    except (RuntimeError, ValueError):  # what was kept of a graph without values
        return None


VIEWS = {
    "transposed": lambda rows: rows.T,
    "reversed": lambda rows: rows[:, ::-1],
    "part": lambda rows: rows[1:, 1:],
    "stretched": lambda rows: mx.broadcast_to(rows[0], (4, 3)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.bool_], ids=str)
def test_views_come_in_dense_memory_of_their_own(view, dtype):
    rows = mx.array(ROWS).astype(dtype)
    f = mlx2torch(lambda x: (view(rows), view(rows + x.astype(dtype)), rows))
    expected = np.array(view(rows).astype(mx.float32))
    for _ in range(2):  # the first call finds out that there are gaps
        results = f(torch.zeros(3))
        for found in results[:2]:
            assert found.is_contiguous()
            np.testing.assert_array_equal(found.float().numpy(), expected)
        assert len({y.untyped_storage().data_ptr() for y in results}) == 3
        results[0].zero_()
        results[2].zero_()
    assert mx.array_equal(rows, mx.array(ROWS).astype(dtype)).item()


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.complex64], ids=str)
def test_a_number_from_the_middle_of_an_array(dtype):
    f = mlx2torch(lambda x: (x + 1).astype(dtype)[2:3].reshape(()))
    assert f(torch.arange(4.0)).item() == 3
    x = torch.tensor(2.0, requires_grad=True)
    pair = mlx2torch(lambda x: mx.concatenate([mx.ones(1), -x.reshape(1)]))
    pair(x).backward(torch.tensor([1.0, 5.0]))
    assert x.grad == -5


def test_an_array_captured_by_the_function_is_a_constant():
    weight = mx.array([1.0, 2.0, 3.0])
    x = leaf()
    mlx2torch(lambda x: mx.sin(x) * weight)(x).sum().backward()
    torch.testing.assert_close(x.grad, X.cos() * torch.tensor([1.0, 2.0, 3.0]))


def test_a_captured_array_that_is_put_off():
    weight = mx.exp(mx.array([1.0, 2.0, 3.0]))
    torch.testing.assert_close(
        mlx2torch(lambda x: x * weight)(X), X * torch.tensor([1.0, 2.0, 3.0]).exp()
    )


# Functions that look at values.


@mlx2torch
def looking(x):
    return x * x if x.sum().item() > 0 else mx.sin(x)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_function_that_looks_at_values(sign):
    native = lambda x: x * x if x.sum() > 0 else x.sin()
    x, other = leaf(X * sign), leaf(X * sign)
    y, z = looking(x), native(other)
    torch.testing.assert_close(y, z)
    (g,), (h,) = (torch.autograd.grad(a, b, X, create_graph=True) for a, b in ((y, x), (z, other)))
    torch.testing.assert_close(g, h)
    torch.testing.assert_close(torch.autograd.grad(g.sum(), x), torch.autograd.grad(h.sum(), other))
    found, expected = (torch.func.jvp(f, (X * sign,), (X.cos(),)) for f in (looking, native))
    torch.testing.assert_close(found, expected)


def test_a_function_that_looks_at_values_is_batched_example_by_example():
    native = lambda x: x * x if x.sum() > 0 else x.sin()
    rows = torch.stack([X, -X, X.cos()])
    batch = torch.stack([native(x) for x in rows])
    torch.testing.assert_close(torch.func.vmap(looking)(rows), batch)
    found = torch.func.vmap(looking, in_dims=1, out_dims=1)(rows.mT)
    torch.testing.assert_close(found, batch.mT)
    for derivative in (torch.func.jacrev, torch.func.jacfwd, torch.func.hessian):
        torch.testing.assert_close(derivative(looking)(X), derivative(native)(X))
    gradient = torch.func.grad(lambda x: looking(x).sum())
    expected = [torch.func.grad(lambda x: native(x).sum())(x) for x in rows]
    torch.testing.assert_close(torch.func.vmap(gradient)(rows), torch.stack(expected))


def test_shapes_that_follow_from_values_are_refused():
    f = mlx2torch(lambda x: mx.array([v for v in x.tolist() if v > 0]))
    with pytest.raises(bridge.ArgumentError, match=r"returned \(float32\[2\]\).*\(float32\[3\]\)"):
        f(X)


def inner_slope(x):
    slope = mx.grad(lambda x: (x**3).sum())(x)
    mx.eval(slope)
    return slope


def test_a_derivative_that_the_function_evaluates_is_differentiated():
    """MLX alone gives 0 here: see the quirk below."""
    x = leaf()
    mlx2torch(inner_slope)(x).sum().backward()
    torch.testing.assert_close(x.grad, 6 * X)
    torch.testing.assert_close(
        torch.func.jvp(mlx2torch(inner_slope), (X,), (torch.ones(3),))[1], 6 * X
    )


# Forward mode.


def convolved(x, w):
    return torch.conv2d(x.permute(0, 3, 1, 2), w.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


PUSHED = {
    "convolution": (lambda x, w: mx.conv2d(x, w), convolved, [(1, 5, 5, 2), (3, 2, 2, 2)]),
    "irfft of odd size": (
        lambda x: mx.fft.irfft(x * (1 + 2j), 5),
        lambda x: torch.fft.irfft(x * (1 + 2j), 5),
        [(3,)],
    ),
    "cumprod": (mx.cumprod, lambda x: torch.cumprod(x, 0), [(4,)]),
    "cummax": (mx.cummax, lambda x: torch.cummax(x, 0)[0], [(4,)]),
    "scatter": (
        lambda x, y: x.at[mx.array([0, 0])].add(y),
        lambda x, y: x.index_add(0, torch.tensor([0, 0]), y),
        [(4,), (2,)],
    ),
}


@pytest.mark.parametrize(("function", "native", "shapes"), PUSHED.values(), ids=PUSHED)
def test_forward_mode_where_mlx_has_none_or_a_wrong_one(function, native, shapes):
    random = torch.Generator().manual_seed(0)
    xs, vs = ([torch.randn(s, generator=random) for s in shapes] for _ in range(2))
    found = torch.func.jvp(mlx2torch(function), tuple(xs), tuple(vs))
    torch.testing.assert_close(found, torch.func.jvp(native, tuple(xs), tuple(vs)))


@mx.custom_function
def straight(x):
    return mx.round(x)


@straight.vjp
def _(primals, cotangent, output):
    return 7 * cotangent


def test_forward_mode_of_a_custom_function_follows_its_gradient():
    f = mlx2torch(straight)
    x = leaf()
    f(x).sum().backward()
    assert x.grad.tolist() == [7.0] * 3
    assert torch.func.jvp(f, (X,), (torch.ones(3),))[1].tolist() == [7.0] * 3


# What MLX lacks or has wrong.

LACKING = {
    "Inverse": lambda x: mx.linalg.inv(x, stream=mx.cpu),
    "Cholesky": lambda x: mx.linalg.cholesky(x @ x.T + mx.eye(3), stream=mx.cpu),
    "SVD": lambda x: mx.linalg.svd(x, stream=mx.cpu)[1],
    "QRF": lambda x: mx.linalg.qr(x, stream=mx.cpu)[1],
    "Eigh": lambda x: mx.linalg.eigh(x + x.T, stream=mx.cpu)[0],
    "gather": lambda x: mx.linalg.solve(x, mx.ones((3,)), stream=mx.cpu),
}


@pytest.mark.parametrize("name", LACKING)
@pytest.mark.parametrize("order", ["reverse", "forward"])
def test_a_derivative_that_mlx_lacks_is_named(name, order):
    f, x = mlx2torch(LACKING[name]), torch.randn(3, 3)
    assert f(x).isfinite().all()
    attempt = {
        "reverse": lambda: f(x.requires_grad_()).sum().backward(),
        "forward": lambda: torch.func.jvp(f, (x,), (x,)),
    }
    with pytest.raises(bridge.NoRuleError, match=rf"cannot be had.*{name}.*mx\.custom_function"):
        attempt[order]()


def test_a_missing_derivative_in_jax_is_named_when_it_is_traced():
    jax = pytest.importorskip("jax")
    f = mlx2jax(LACKING["Inverse"])
    with pytest.raises(bridge.NoRuleError, match="no derivative of Inverse"):
        jax.jit(jax.grad(lambda x: f(x).sum())).lower(jax.numpy.eye(3))


Z = torch.tensor([1 + 2j, 0.5 - 1j])
POWERS = {
    "power": lambda z: z**2,
    "within": lambda z: mx.abs((mx.real(z) * 1j + 1) ** 2),
    "cumprod": mx.cumprod,
    "of a custom function": lambda z: straight(mx.abs(z)) * z**2,
}


@pytest.mark.parametrize("function", POWERS.values(), ids=POWERS)
def test_gradients_of_complex_powers_are_refused(function):
    with pytest.raises(bridge.NoRuleError, match=r"wrong gradients of (Power|CumProd) for complex"):
        mlx2torch(function)(leaf(Z)).abs().sum().backward()


def test_derivatives_of_complex_signs_are_refused():
    text = r"wrong gradients of Sign for complex.*Write mx\.sqrt"
    length = mlx2torch(mx.abs)
    z = leaf(Z)
    (slope,) = torch.autograd.grad(length(z).sum(), z, create_graph=True)
    torch.testing.assert_close(slope, Z / Z.abs())
    with pytest.raises(bridge.NoRuleError, match=text):
        slope.real.sum().backward()
    with pytest.raises(bridge.NoRuleError, match=text):
        torch.func.jvp(mlx2torch(mx.sign), (Z,), (Z,))
    again = mlx2torch(lambda z: mx.sqrt(mx.real(z * mx.conj(z))))
    curved = lambda f: torch.func.hessian(lambda x: f(x * Z).sum())(X[:2])
    torch.testing.assert_close(curved(again), curved(torch.abs))


def test_quirk_derivatives_of_complex_signs_are_zero():
    z = mx.array([1 + 2j])
    assert mx.vjp(lambda z: [mx.sign(z)], [z], [z])[1][0].item() == 0
    assert mx.jvp(lambda z: [mx.sign(z)], [z], [1j * z])[1][0].item() == 0


def test_values_and_tangents_of_complex_powers_are_right():
    found = torch.func.jvp(mlx2torch(lambda z: z**2), (Z,), (Z * 1j,))
    torch.testing.assert_close(found, (Z * Z, 2j * Z * Z))


def test_real_powers_in_complex_functions_have_gradients():
    z, native = leaf(Z), leaf(Z)
    mlx2torch(lambda z: mx.abs(z) ** 3)(z).sum().backward()
    (native.abs() ** 3).sum().backward()
    torch.testing.assert_close(z.grad, native.grad)


@pytest.mark.xfail(strict=True, reason="functions of float64 are those of float32: mlx#3047")
def test_functions_of_float64_are_accurate():
    found = mlx2torch(mx.sin)(X.double())
    torch.testing.assert_close(found, X.double().sin(), rtol=1e-12, atol=0)


def test_float64_is_kept_through_arithmetic():
    x = torch.tensor([1 / 3, -2 / 7], dtype=torch.float64, requires_grad=True)
    y = mlx2torch(lambda x: x * x * x)(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2, rtol=1e-14, atol=0)


# What MLX 0.32.4 does, and our source is there for. One of these fails when MLX changes it.

ONE = mx.ones(3)


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_quirk_an_output_that_is_stopped_shifts_cotangents(residuals):
    f = lambda x: [mx.stop_gradient(x), 2 * x]
    assert mx.vjp(f, [ONE], [5 * ONE, ONE])[1][0].tolist() == [10.0] * 3
    x = leaf()
    g = mlx2torch(lambda x: (mx.stop_gradient(x), 2 * x), residuals=residuals)
    stopped, twice = g(x)
    (5 * stopped + twice).sum().backward()
    assert x.grad.tolist() == [2.0] * 3


@pytest.mark.parametrize("residuals", ["save", "recompute"])
def test_quirk_the_second_cotangent_of_one_array_is_lost(residuals):
    def f(x):
        y = 2 * x
        return [y, y]

    assert mx.vjp(f, [ONE], [ONE, 10 * ONE])[1][0].tolist() == [2.0] * 3
    x = leaf()
    one, other = mlx2torch(f, residuals=residuals)(x)
    (one + 10 * other).sum().backward()
    assert x.grad.tolist() == [22.0] * 3


BLOCK = mx.array([[1.0, -2.0], [0.5, 3.0]])
OPERATIONS = {
    "Add": lambda x: x + 0,
    "AddMM": lambda x: mx.addmm(x, x, mx.eye(2), beta=0.0),
    "Divide": lambda x: x / 1,
    "Matmul": lambda x: x @ mx.eye(2),
    "Multiply": lambda x: x * 1,
    "Negative": lambda x: -x,
    "Select": lambda x: mx.where(mx.array([[True]]), x, x),
    "Subtract": lambda x: x - 0,
}


@pytest.mark.parametrize("name", sorted(ALLOCATING))
@pytest.mark.parametrize(
    "x", [BLOCK, BLOCK.T, mx.broadcast_to(BLOCK[0, 0], (2, 2))], ids=["rows", "columns", "one"]
)
def test_quirk_some_operations_never_share_memory(x, name):
    y, text = OPERATIONS[name](x), io.StringIO()
    mx.export_to_dot(text, y)
    assert re.findall(r'label ="(\w+)"', text.getvalue())[-1] == name
    mx.eval(x, y)
    assert not np.shares_memory(np.array(x, copy=False), np.array(y, copy=False))


def test_quirk_compiled_functions_return_one_array_twice():
    twice = mx.compile(lambda x: [x @ BLOCK, x @ BLOCK])
    y, z = (np.array(y, copy=False) for y in twice(BLOCK[0]))
    assert np.shares_memory(y, z)


def test_quirk_the_axis_of_one_array_is_moved_twice():
    twice = lambda x: (lambda y: (y, y))((x * 2)[mx.array([2])])
    assert [y.shape for y in mx.vmap(twice)(mx.array(ROWS))] == [(2, 1), (1, 2)]
    found = torch.func.vmap(mlx2torch(twice))(ROWS)
    expected = 2 * ROWS[:, 2:]
    torch.testing.assert_close(found, (expected, expected))


def test_quirk_integers_get_gradients():
    assert mx.vjp(lambda i: [i * 0.5], [mx.array([4])], [mx.ones(1)])[1][0].dtype == mx.int32
    x, i = leaf(), torch.tensor([2, 0, 1])
    y, n = mlx2torch(lambda x, i: (x[i] * i, i + 1))(x, i)
    assert not n.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 2.0]


def test_quirk_an_evaluated_derivative_has_none():
    assert mx.vjp(lambda x: [inner_slope(x)], [ONE], [ONE])[1][0].tolist() == [0.0] * 3


def test_quirk_forward_mode_knows_nothing_of_custom_gradients():
    tangent = mx.jvp(lambda x: [straight(x)], [ONE], [ONE])[1][0]
    assert tangent.tolist() != [7.0] * 3


def test_quirk_no_forward_mode_of_convolutions():
    x = mx.ones((1, 4, 1))
    with pytest.raises(ValueError, match="Primitive::jvp"):
        mx.jvp(lambda x: [mx.conv1d(x, mx.ones((1, 2, 1)))], [x], [x])


def test_quirk_forward_mode_of_irfft_of_odd_size():
    z = mx.array([1 + 2j, 0.5, 1j])
    (value,), (tangent,) = mx.jvp(lambda z: [mx.fft.irfft(z, 5)], [z], [z])
    assert (value.shape, tangent.shape) == ((5,), (4,))


def test_quirk_gradients_of_complex_powers():
    z = mx.array([1 + 2j])
    (found,) = mx.vjp(lambda z: [z**2], [z], [mx.ones(1).astype(mx.complex64)])[1]
    assert found.item() != pytest.approx(2 - 4j)


def test_quirk_compiled_gradients_are_computed_with_the_outputs():
    def both(x, c):
        return [*mx.vjp(lambda x: [mx.exp((x * mx.tanh(x)).sum())], [x], [c])]

    memory = np.zeros((), np.float32)
    cotangent = mx.array(memory)
    (output,), (gradient,) = mx.compile(both)(ONE, cotangent)
    mx.eval(output)
    np.asarray(cotangent)[...] = 1
    assert gradient.tolist() == [0.0] * 3


def test_results_that_change_from_call_to_call_are_found_out():
    kind = "as before"

    def f(x):
        y = mx.sin(x)
        return {"as before": y, "structure": (y, x * 2), "class": "no array"}[kind]

    bridged = mlx2torch(f)
    torch.testing.assert_close(bridged(X), X.sin())
    torch.testing.assert_close(bridged(X), X.sin())
    kind = "class"
    with pytest.raises(bridge.ArgumentError, match=r"result of f is a str, no array of mlx"):
        bridged(X)
    kind = "as before"
    torch.testing.assert_close(bridged(X), X.sin())
    kind = "structure"
    with pytest.raises(bridge.ArgumentError, match=r"f returned \(float32\[3\], float32\[3\]\)"):
        bridged(X)


def test_structure_of_results_may_follow_from_values():
    bridged = mlx2torch(lambda x: {"high" if x[0].item() > 0 else "low": x * 2})
    assert [*bridged(X), *bridged(-X), *bridged(X)] == ["high", "low", "high"]


def test_what_a_function_captures_keeps_its_gradient():
    """The gradient of an inner transformation has lost its mark, and evaluated its graph."""

    def outer(w):
        captured = mx.grad(lambda z: z * z * z)(w)
        there = mlx2torch(lambda x: x + captured if x.item() == 0 else x)
        assert there(torch.zeros(())).item() == 6.75
        return captured * 2

    assert mx.grad(outer)(mx.array(1.5)).item() == 18


def test_gradients_of_complex_functions_that_look_at_values_are_refused():
    """Nothing tells whether there is a power among them, whose gradient MLX has wrong."""
    f = mlx2torch(lambda z: mx.real(z**2) if mx.abs(z).item() > 0 else mx.imag(z))
    z = torch.tensor(1 + 2j, requires_grad=True)
    torch.testing.assert_close(f(z.detach()), torch.tensor(-3.0))
    with pytest.raises(bridge.NoRuleError, match=r"looks at values.*mx\.where"):
        torch.autograd.grad(f(z), z)


# Arrays without elements.


def test_quirk_a_gradient_of_an_indexed_array_without_elements_ends_the_process():
    code = """
import mlx.core as mx
mx.eval(mx.grad(lambda x: x[mx.array([1, 0])].sum())(mx.ones((2, 0))))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert process.returncode == -signal.SIGFPE


WAYS = [{}, {"residuals": "save"}, {"residuals": "recompute"}, {"compile": True}]
ROWS_OF_NOTHING = mx.array([1, 0, 1])


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize(
    "f",
    [lambda x, w: (x * w)[ROWS_OF_NOTHING], lambda x, w: (x * w).T[:, ROWS_OF_NOTHING]],
    ids=["rows", "columns"],
)
def test_gradients_of_arrays_without_elements(f, options):
    f = mlx2torch(f, **options)
    x, w = torch.ones(2, 0, requires_grad=True), torch.tensor(2.5, requires_grad=True)
    y = f(x, w)
    assert 0 in y.shape
    y.sum().backward()
    assert x.grad.shape == (2, 0)
    assert w.grad.item() == 0
    per_sample = torch.func.vmap(torch.func.grad(lambda x: f(x, w.detach()).sum()))
    assert per_sample(torch.ones(3, 2, 0)).shape == (3, 2, 0)


def test_what_would_end_the_process_is_refused():
    rows = mx.array([1, 0])
    write = mlx2torch(lambda x: x.at[rows].add(1.0))
    torch.testing.assert_close(write(torch.zeros(2, 3)), torch.ones(2, 3))
    with pytest.raises(bridge.NoRuleError, match="array without elements"):
        write(torch.zeros(2, 0))
    between = mlx2torch(lambda x: x[:, :0][rows].sum(axis=1))
    x = torch.ones(2, 3, requires_grad=True)
    y = between(x)
    torch.testing.assert_close(y.detach(), torch.zeros(2))
    with pytest.raises(bridge.NoRuleError, match="array without elements"):
        y.sum().backward()


# Batches that mx.vmap has wrong, and rules of custom functions.


def written(x):
    z = x * 1.0
    z[1] = 0.0
    z[2:] = z[2:] * x[2:]
    return z.at[:1].multiply(2.0)


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


JACOBIANS = torch.func.jacrev, torch.func.jacfwd


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


def closing_over_first(x):
    """A derivative that closes over `x`, then one by it."""
    fixed = mx.grad(lambda z: (z * z * x).sum())(mx.array([1.0, 2.0, 3.0]))
    return fixed + mx.grad(lambda z: (z**3).sum())(x)


def test_quirk_a_derivative_that_was_closed_over_before_has_none():
    x = mx.array([0.3, -1.25, 0.7])
    found = mx.grad(lambda x: closing_over_first(x).sum())(x)
    assert found.tolist() == [2, 4, 6]  # without 6 x


@pytest.mark.parametrize(
    "how", [{"residuals": "save"}, {"residuals": "recompute"}, {"compile": True}], ids=str
)
def test_derivatives_within_the_function_keep_theirs(how):
    f, x = mlx2torch(closing_over_first, **how), torch.tensor([0.3, -1.25, 0.7])
    expected = torch.tensor([2.0, 4.0, 6.0]) + 6 * x
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(f(leaf).sum(), leaf)[0], expected)
    torch.testing.assert_close(torch.func.jvp(f, (x,), (torch.ones(3),))[1], expected)
    twice = torch.func.grad(lambda x: torch.func.grad(lambda x: f(x).sum())(x).sum())(x)
    torch.testing.assert_close(twice, torch.full((3,), 6.0))


def test_derivatives_of_what_is_written():
    native = lambda x: torch.stack([2 * x[0], 0 * x[1], x[2] * x[2]]).square().sum()
    f, x = mlx2torch(lambda x: mx.square(written(x)).sum()), torch.tensor([0.3, -1.25, 0.7])
    for outer in JACOBIANS:
        for inside in JACOBIANS:
            found, expected = (outer(inside(fn))(x) for fn in (f, native))
            torch.testing.assert_close(found, expected)


def ruled(rule):
    fn = mx.custom_function(lambda x: x * x)
    fn.vjp(lambda _, cotangent, __: rule(cotangent))
    return lambda x: fn(x)


@pytest.mark.parametrize("how", [{"residuals": "save"}, {"residuals": "recompute"}], ids=str)
def test_a_batch_of_a_custom_function_keeps_its_gradient(how):
    f = mlx2torch(ruled(lambda cotangent: cotangent * 100), **how)
    x = torch.randn(3, 2, requires_grad=True)
    torch.func.vmap(f)(x).sum().backward()
    expected = torch.full((3, 2), 100.0)
    torch.testing.assert_close(x.grad, expected)
    x = x.detach()
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda x: f(x).sum()))(x), expected)
    ones = torch.ones(3, 2)
    torch.testing.assert_close(torch.func.jvp(torch.func.vmap(f), (x,), (ones,))[1], expected)


def clipped(cotangent):
    norm = mx.sqrt((cotangent * cotangent).sum()).item()
    return cotangent / norm if norm > 1 else cotangent


def evaluated(cotangent):
    half = cotangent / 6
    mx.eval(half)
    return half


@pytest.mark.parametrize("rule", [clipped, evaluated])
@pytest.mark.parametrize("how", [{}, {"residuals": "save"}, {"residuals": "recompute"}], ids=str)
def test_a_gradient_rule_may_look_at_its_cotangent(rule, how):
    x = torch.ones(4, requires_grad=True)
    mlx2torch(ruled(rule), **how)(x).backward(torch.full((4,), 3.0))
    torch.testing.assert_close(x.grad, torch.full((4,), 0.5))


# Arguments that are written to.


def test_a_function_may_write_to_its_arguments():
    def f(x, y):
        x *= y
        y += 1
        return mx.real(mx.fft.fft(x)) * y

    native = lambda x, y: torch.fft.fft(x * y).real * (y + 1)
    x, y = torch.tensor([0.3, -1.25, 0.7]), torch.tensor([1.1, 0.4, -0.6])
    found, expected = (torch.func.jvp(fn, (x, y), (y, x)) for fn in (mlx2torch(f), native))
    torch.testing.assert_close(found, expected)
    square = lambda fn: lambda x: fn(x, y).square().sum()
    found, expected = (torch.func.hessian(square(fn))(x) for fn in (mlx2torch(f), native))
    torch.testing.assert_close(found, expected)


def test_an_argument_of_mlx_is_what_it_was_when_the_function_was_called():
    def f(x, w):
        w *= 2
        return x * w * x

    for change in (False, True):
        w, x = mx.array([1.0, 2.0]), torch.ones(2, requires_grad=True)
        y = mlx2torch(f, residuals="recompute")(x, w)
        if change:
            w[0] = 50.0
        y.sum().backward()
        torch.testing.assert_close(x.grad, torch.tensor([4.0, 8.0]))


# Forward mode.


def test_forward_mode_of_sums_with_factors():
    c, a, b = torch.randn(2, 2), torch.randn(2, 3), torch.randn(3, 2)
    f = mlx2torch(lambda c, a, b: mx.addmm(c, a, b, alpha=2.0, beta=3.0))
    native = lambda c, a, b: torch.addmm(c, a, b, alpha=2.0, beta=3.0)
    found, expected = (torch.func.jacfwd(fn, argnums=(0, 1, 2))(c, a, b) for fn in (f, native))
    torch.testing.assert_close(found, expected)


COMPLEX_INSIDE = {
    "products": lambda x: mx.real(mx.cumprod(x * (1 + 2j) + 1j)),
    "a power beside what has no tangents": lambda x: (
        mx.imag((x[None, :, None] * (1 + 2j)) ** 2.5)
        + mx.conv1d(x[None, :, None], mx.ones((1, 1, 1)))
    ),
    "sums of exponentials": lambda x: mx.abs(mx.logcumsumexp(x * (1 + 2j))),
}


@pytest.mark.parametrize("f", COMPLEX_INSIDE.values(), ids=COMPLEX_INSIDE)
def test_derivatives_that_mlx_has_wrong_inside_are_refused(f):
    f, x = mlx2torch(f), torch.tensor([0.3, -1.25, 0.7])
    with pytest.raises(bridge.NoRuleError, match="wrong gradients"):
        torch.func.jvp(f, (x,), (x,))
    with pytest.raises(bridge.NoRuleError, match="wrong gradients"):
        torch.func.grad(lambda x: f(x).sum())(x)


def test_sums_of_exponentials_of_real_numbers():
    f, x = mlx2torch(mx.logcumsumexp), torch.tensor([0.3, -1.25, 0.7])
    native = lambda x: torch.logcumsumexp(x, 0)
    for jacobian in JACOBIANS:
        torch.testing.assert_close(jacobian(f)(x), jacobian(native)(x))


@pytest.mark.parametrize("how", [{}, {"compile": True}, {"residuals": "save"}], ids=str)
@pytest.mark.parametrize("after", [0, 200])
def test_what_fails_while_it_is_computed_raises(after, how):
    """Errors of MLX come where it is told to compute, or where it is waited for."""

    def inverse(x):
        y = mx.linalg.inv(x, stream=mx.cpu)
        for _ in range(after):
            y = y + 1
        return mx.stop_gradient(y) * x

    f = mlx2torch(inverse, **how)
    x = 2 * torch.eye(2)
    torch.testing.assert_close(f(x), x @ (torch.eye(2) / 2 + after) * torch.eye(2))
    for wanted in (False, True):
        with pytest.raises(RuntimeError, match="LU factorization failed"):
            f(torch.zeros(2, 2, requires_grad=wanted))
    torch.testing.assert_close(f(x), x @ (torch.eye(2) / 2 + after) * torch.eye(2))


# Functions that are not what they were when they were looked at.


def test_a_function_that_looks_at_values_draws_the_same_again():
    def noisy(x):
        return x * mx.random.bernoulli(0.5, x.shape) if x.sum().item() > -1e9 else x

    f, x = mlx2torch(noisy), torch.ones(40, requires_grad=True)
    y = f(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    torch.manual_seed(3)
    first = f(x)
    torch.manual_seed(3)
    torch.testing.assert_close(f(x), first)
    assert not torch.equal(f(x), first)


def test_draws_that_were_not_there_are_refused():
    drop = nn.Dropout(0.5)
    f, x = mlx2torch(lambda x: drop(x)), torch.ones(40, requires_grad=True)
    drop.eval()
    f(x)
    drop.train()
    with pytest.raises(bridge.ArgumentError, match=r"draws random numbers now.*rng="):
        f(x)
    y = f(x, rng=torch.tensor(3))
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())


def test_rules_that_draw_are_refused():
    f = mlx2torch(ruled(lambda cotangent: cotangent * mx.random.normal(cotangent.shape)))
    with pytest.raises(bridge.NoRuleError, match=r"rule of a custom function in .* draws"):
        f(torch.ones(3, requires_grad=True)).sum().backward()


CHANGES = {
    "shape": (lambda y: y[:2], r"returned \(float32\[.*2\]\) for these values, but"),
    "dtype": (lambda y: y.astype(mx.float16), r"returned \(float16\[.*4\]\) for"),
    "count": (lambda y: [y, y], r"returned \(float32\[.*4\], float32\[.*4\]\) for"),
    "nothing": (lambda _: [], r"returned \(\) for these values, but \(float32\[.*4\]\) for"),
    "draws": (lambda y: y * mx.random.uniform(shape=y.shape), "draws random numbers now"),
}
MOMENTS = {
    "forward": lambda f, x: lambda: f(x.detach()),
    "forward for a gradient": lambda f, x: lambda: f(x),
    "backward": lambda f, x: f(x).sum().backward,
    "jvp": lambda f, x: lambda: torch.func.jvp(f, (x.detach(),), (x.detach(),)),
    "vmap": lambda f, x: lambda: torch.func.vmap(f)(x.detach().repeat(2, 1)),
}


@pytest.mark.parametrize("residuals", ["recompute", "save"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("change", CHANGES)
def test_results_that_are_not_like_those_before_are_refused(change, moment, residuals):
    changed, text = CHANGES[change]
    now = [lambda y: y]
    f = mlx2torch(lambda x: now[0](mx.sin(x)), residuals=residuals)
    x = torch.tensor([0.3, -1.2, 2.0, 0.7], requires_grad=True)
    MOMENTS[moment](f, x)()
    ready = MOMENTS[moment](f, x)
    now[0] = changed
    if moment == "backward":  # as it was in the forward pass
        ready()
        torch.testing.assert_close(x.grad, 2 * x.detach().cos())
        return
    with pytest.raises(bridge.ArgumentError, match=text):
        ready()


def test_an_error_for_values_that_were_made_up_says_so():
    def checked(x):
        if x.min().item() < 1:
            raise ValueError("x must be at least 1")
        return x

    with pytest.raises(ValueError, match="at least 1") as caught:
        mlx2torch(checked)(torch.tensor([2.0, 3.0]))
    assert "made up" in caught.value.__notes__[0]
