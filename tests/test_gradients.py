"""First derivatives are those of the caller's own framework, for every kind of arithmetic."""

import numpy as np
import pytest

from tests.kits import assert_same
from tests.tensors import leaves

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(-1.5, 1.5, (3, 4)).astype("float32")
Y = RANDOM.uniform(0.3, 2.0, (3, 4)).astype("float32")
ROW = RANDOM.uniform(-2, 2, (4,)).astype("float32")
W = RANDOM.normal(size=(4, 2)).astype("float32")

# Each takes the namespace and arrays; the points are not symmetric, and no zeros of derivatives.
FUNCTIONS = {
    "identity": (lambda xp, x: x, (X,)),
    "elementwise": (lambda xp, x: xp.sin(x) * xp.exp(-x) + x**3, (X,)),
    "division": (lambda xp, x, y: x / (1 + y * y), (X, Y)),
    "logarithm": (lambda xp, y: xp.log(y) * xp.sqrt(y), (Y,)),
    "absolute": (lambda xp, x: xp.abs(x) * x, (X,)),
    "maximum": (lambda xp, x, y: xp.maximum(x, xp.sin(y)), (X, Y)),
    "where": (lambda xp, x: xp.where(x > 0, x * x, xp.sin(x)), (X,)),
    "sum of all": (lambda xp, x: (x * x * x).sum(), (X,)),
    "mean of an axis": (lambda xp, x: xp.tanh(x).mean(0), (X,)),
    "norm": (lambda xp, x: xp.sqrt((x * x).sum()), (X,)),
    "softmax by hand": (lambda xp, x: xp.exp(x) / xp.exp(x).sum(0), (X,)),
    "running sum": (lambda xp, x: xp.cumsum(xp.sin(x), 0), (X,)),
    "contraction": (lambda xp, x, w: xp.tanh(x @ w), (X, W)),
    "gram matrix": (lambda xp, x: x @ xp.tanh(x).T, (X,)),
    "broadcasting": (lambda xp, x, row: x * row + row, (X, ROW)),
    "outer product": (lambda xp, row: row[:, None] * xp.sin(row)[None, :], (ROW,)),
    "slices": (lambda xp, x: x[1:, ::2] * x[:-1, ::2], (X,)),
    "rows again": (lambda xp, x: xp.stack([x[2], x[0] * x[2], x[2]]), (X,)),
    "joined": (lambda xp, x, y: xp.concatenate([x, xp.cos(y) * x]), (X, Y)),
    "reshaped": (lambda xp, x: xp.swapaxes(x, 0, 1).reshape(-1) ** 2, (X,)),
    "input unused": (lambda xp, x, y: xp.sin(x), (X, Y)),
    "constant": (lambda xp, x: xp.zeros(3) + 2, (X,)),
}
every_function = pytest.mark.parametrize(("function", "points"), FUNCTIONS.values(), ids=FUNCTIONS)


def cotangent(target, y):
    """An array like `y`, different everywhere."""
    y = target.numpy(y)
    return target.array(np.random.default_rng(1).normal(size=y.shape).astype(y.dtype))


@every_function
def test_values_equal_native(kits, bridged, function, points):
    source, target = kits
    xs = [target.array(x) for x in points]
    there = bridged(lambda *xs: function(source.xp, *xs))
    assert_same(target, there(*xs), function(target.xp, *xs))


@every_function
def test_vjp_equals_native(kits, bridged, function, points):
    source, target = kits
    xs = [target.array(x) for x in points]
    here = lambda *xs: function(target.xp, *xs)
    there = bridged(lambda *xs: function(source.xp, *xs))
    given = cotangent(target, here(*xs))
    expected = target.vjp(here, xs, given)
    for found, true in zip(target.vjp(there, xs, given), expected, strict=True):
        assert_same(target, found, true)


@every_function
def test_jvp_equals_native(kits, bridged, function, points):
    source, target = kits
    xs = [target.array(x) for x in points]
    tangents = [cotangent(target, x) for x in xs]
    here = lambda *xs: function(target.xp, *xs)
    there = bridged(lambda *xs: function(source.xp, *xs))
    expected = target.jvp(here, tuple(xs), tuple(tangents))
    assert_same(target, target.jvp(there, tuple(xs), tuple(tangents)), expected)


@pytest.mark.parametrize("argnums", [0, 1])
def test_gradient_of_one_argument_equals_native(kits, bridged, argnums):
    source, target = kits
    function = lambda xp, x, y: (xp.sin(x) * y * y).sum()
    here = lambda *xs: function(target.xp, *xs)
    there = bridged(lambda *xs: function(source.xp, *xs))
    xs = target.array(X), target.array(Y)
    expected = target.grad(here, argnums)(*xs)
    assert_same(target, target.grad(there, argnums)(*xs), expected)


def two_outputs(xp, x, y):
    return xp.sin(x) * y, (x * y * y).sum(0)


COMBINATIONS = {
    "both": lambda a, b: (a * b).sum(),
    "first": lambda a, b: (a * a).sum(),
    "second": lambda a, b: (b * b).sum(),
}


@pytest.mark.parametrize("combine", COMBINATIONS.values(), ids=COMBINATIONS)
def test_gradient_through_several_outputs_equals_native(kits, bridged, combine):
    source, target = kits
    there = bridged(lambda *xs: two_outputs(source.xp, *xs))
    xs = target.array(X), target.array(Y)
    for argnums in (0, 1):
        expected = target.grad(lambda *xs: combine(*two_outputs(target.xp, *xs)), argnums)(*xs)
        found = target.grad(lambda *xs: combine(*there(*xs)), argnums)(*xs)
        assert_same(target, found, expected)


def test_gradient_between_native_operations_equals_native(kits, bridged):
    source, target = kits
    middle = lambda xp, x: xp.tanh(x @ x.T)
    there = bridged(lambda x: middle(source.xp, x))
    around = lambda inner, x: (target.xp.sin(inner(target.xp.exp(x))) * 3).sum()
    x = target.array(X)
    expected = target.grad(lambda x: around(lambda x: middle(target.xp, x), x))(x)
    assert_same(target, target.grad(lambda x: around(there, x))(x), expected)


def test_gradient_through_two_bridged_functions_equals_native(kits, bridged):
    source, target = kits
    first = bridged(lambda x: source.xp.sin(x) * x)
    second = bridged(lambda x: source.xp.exp(x).sum())
    x = target.array(X)
    expected = target.grad(lambda x: target.xp.exp(target.xp.sin(x) * x).sum())(x)
    assert_same(target, target.grad(lambda x: second(first(x)))(x), expected)


# What only torch has: gradients that accumulate, graphs, and inputs that do not require grad.


@every_function
def test_autograd_equals_native(into_torch, torch, function, points):
    source, wrap = into_torch
    xs = leaves(*points)
    y, true = wrap(lambda *xs: function(source.xp, *xs))(*xs), function(torch, *xs)
    given = torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    nothing = lambda: 0 * sum(x.sum() for x in xs)  # a constant has no graph to ask
    expected = torch.autograd.grad(true + nothing(), xs, given)
    found = torch.autograd.grad(y + nothing(), xs, given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_constant_result_has_no_graph(into_torch, torch):
    """As in torch, where no operation leads from the inputs to it."""
    source, wrap = into_torch
    (x,) = leaves(X)
    sine, constant = wrap(lambda x: (source.xp.sin(x), source.xp.zeros(3) + 2))(x)
    assert sine.requires_grad
    assert not constant.requires_grad


def test_backward_accumulates(into_torch, torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x).sum())
    (x,) = leaves(X)
    f(x).backward()
    (2 * f(x)).backward()
    torch.testing.assert_close(x.grad, 3 * x.detach().cos())


def test_one_tensor_given_twice_gets_the_sum(into_torch, torch):
    _, wrap = into_torch
    (x,) = leaves(X)
    wrap(lambda x, y: (x * x * y).sum())(x, x).backward()
    torch.testing.assert_close(x.grad, 3 * x.detach() ** 2)


def test_a_tensor_and_its_view_get_their_own(into_torch, torch):
    source, wrap = into_torch
    f = lambda xp, x, row: (xp.sin(x) * row).sum()
    (x,) = leaves(X)
    (expected,) = torch.autograd.grad(f(torch, x, x[1]), x)
    (found,) = torch.autograd.grad(wrap(lambda *xs: f(source.xp, *xs))(x, x[1]), x)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
def test_only_leaves_that_require_grad_get_one(into_torch, torch, wanted):
    source, wrap = into_torch
    function = lambda xp, x, y, row: (xp.sin(x) * y * row).sum()
    xs = [torch.tensor(x, requires_grad=i in wanted) for i, x in enumerate((X, Y, ROW))]
    asked = [xs[i] for i in wanted]
    expected = torch.autograd.grad(function(torch, *xs), asked)
    wrap(lambda *xs: function(source.xp, *xs))(*xs).backward()
    torch.testing.assert_close([x.grad for x in asked], list(expected))
    assert all(x.grad is None for i, x in enumerate(xs) if i not in wanted)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (2, 0), (0, 1, 2)], ids=str)
def test_autograd_grad_of_some_inputs(into_torch, torch, wanted):
    source, wrap = into_torch
    function = lambda xp, x, y, row: (xp.sin(x) * y * row).sum()
    xs = leaves(X, Y, ROW)
    asked = [xs[i] for i in wanted]
    expected = torch.autograd.grad(function(torch, *xs), asked)
    found = torch.autograd.grad(wrap(lambda *xs: function(source.xp, *xs))(*xs), asked)
    torch.testing.assert_close(found, expected)
    assert all(x.grad is None for x in xs)


def test_gradient_of_a_constant_that_was_given(into_torch, torch):
    """Arguments that are no tensors are as constant as in torch."""
    _, wrap = into_torch
    (x,) = leaves(X)
    wrap(lambda x, scale, shift: (x * x * scale + shift).sum())(x, 3.0, Y).backward()
    torch.testing.assert_close(x.grad, 6 * x.detach())


def test_gradient_with_respect_to_a_result(into_torch, torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    y = wrap(source.xp.sin)(x)
    y.retain_grad()
    wrap(source.xp.exp)(y).sum().backward()
    torch.testing.assert_close(y.grad, x.detach().sin().exp())


def test_hook_changes_the_gradient(into_torch, torch):
    source, wrap = into_torch
    (x,) = leaves(X)
    y = wrap(source.xp.sin)(x)
    y.register_hook(lambda cotangent: 5 * cotangent)
    y.sum().backward()
    torch.testing.assert_close(x.grad, 5 * x.detach().cos())
