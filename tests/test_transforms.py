"""Batching and the transforms of the caller, alone and composed."""

import numpy as np
import pytest

import bridge
from tests.kits import assert_same

RANDOM = np.random.default_rng(8)
MATRIX = RANDOM.uniform(-1.3, 1.5, (5, 3)).astype("float32")
OTHER = RANDOM.uniform(0.4, 1.6, (5, 3)).astype("float32")
ROW = RANDOM.normal(size=(3,)).astype("float32")
CUBE = RANDOM.normal(size=(2, 4, 3)).astype("float32")


def pair(xp, x, y):
    return xp.sin(x) * y + (x * y * y).sum()


def scalar(xp, x, y):
    return pair(xp, x, y).sum()


# in_axes and the two arguments; every batch has five rows.
AXES = {
    "both first": ((0, 0), (MATRIX, OTHER)),
    "first and none": ((0, None), (MATRIX, ROW)),
    "none and first": ((None, 0), (ROW, OTHER)),
    "first and second": ((0, 1), (MATRIX, OTHER.T.copy())),
    "last and first": ((-1, 0), (MATRIX.T.copy(), OTHER)),
    "last and none": ((-1, None), (MATRIX.T.copy(), ROW)),
}
every_axes = pytest.mark.parametrize(("axes", "points"), AXES.values(), ids=AXES)


@every_axes
def test_vmap_equals_native(kits, bridged, axes, points):
    source, target = kits
    xs = [target.array(x) for x in points]
    there = bridged(lambda *xs: pair(source.xp, *xs))
    expected = target.vmap(lambda *xs: pair(target.xp, *xs), axes)(*xs)
    assert_same(target, target.vmap(there, axes)(*xs), expected)


@every_axes
def test_gradient_of_every_sample_equals_native(kits, bridged, axes, points):
    source, target = kits
    xs = [target.array(x) for x in points]
    there = bridged(lambda *xs: scalar(source.xp, *xs))
    expected = target.vmap(target.grad(lambda *xs: scalar(target.xp, *xs), 1), axes)(*xs)
    assert_same(target, target.vmap(target.grad(there, 1), axes)(*xs), expected)


@every_axes
def test_gradient_of_a_batch_equals_native(kits, bridged, axes, points):
    source, target = kits
    xs = [target.array(x) for x in points]
    there = bridged(lambda *xs: pair(source.xp, *xs))
    here = lambda *xs: pair(target.xp, *xs)
    loss = lambda f: lambda *xs: (target.vmap(f, axes)(*xs) ** 2).sum()
    for i in (0, 1):
        expected = target.grad(loss(here), i)(*xs)
        assert_same(target, target.grad(loss(there), i)(*xs), expected)


def test_nested_vmap_equals_native(kits, bridged):
    source, target = kits
    function = lambda xp, x: xp.exp(x) / xp.exp(x).sum()
    cube = target.array(CUBE)
    twice = lambda f: target.vmap(target.vmap(f, 0), 1)(cube)
    there = bridged(lambda x: function(source.xp, x))
    assert_same(target, twice(there), twice(lambda x: function(target.xp, x)))


def test_nested_vmap_of_one_argument_each_equals_native(kits, bridged):
    """All pairs: the inner map batches one argument, the outer one the other."""
    source, target = kits
    x, y = target.array(MATRIX), target.array(OTHER)
    pairs = lambda f: target.vmap(target.vmap(f, (None, 0)), (0, None))(x, y)
    there = bridged(lambda *xs: pair(source.xp, *xs))
    assert_same(target, pairs(there), pairs(lambda *xs: pair(target.xp, *xs)))


def test_vmap_over_what_the_function_does_not_take_equals_native(kits, bridged):
    source, target = kits
    x, y = target.array(MATRIX), target.array(ROW)
    there, here = bridged(lambda y: source.xp.sin(y)), target.xp.sin
    expected = target.vmap(lambda x: x * here(y))(x)
    assert_same(target, target.vmap(lambda x: x * there(y))(x), expected)


def test_vmap_over_what_the_function_ignores_equals_native(kits, bridged):
    source, target = kits
    x, y = target.array(MATRIX), target.array(ROW)
    function = lambda xp, x, y: xp.sin(y)
    expected = target.vmap(lambda x, y: function(target.xp, x, y) + 0 * x, (0, None))(x, y)
    there = bridged(lambda x, y: function(source.xp, x, y))
    assert_same(target, target.vmap(there, (0, None))(x, y), expected)


def test_jvp_of_vmap_equals_native(kits, bridged):
    source, target = kits
    x, v = target.array(MATRIX), target.array(OTHER)
    function = lambda xp, x: xp.tanh(x) * x.sum()
    tangent = lambda f: target.jvp(target.vmap(f), (x,), (v,))
    there = bridged(lambda x: function(source.xp, x))
    assert_same(target, tangent(there), tangent(lambda x: function(target.xp, x)))


# torch.func and the older transforms of torch.autograd.


def value(xp, x):
    return xp.exp((x * xp.tanh(x)).sum()) * x[0]


def vector(xp, x):
    return xp.sin(x) * x.sum() + x[1:].sum() ** 2


COMPOSITIONS = {
    "grad": (value, lambda t, f, x: t.grad(f)(x)),
    "grad_and_value": (value, lambda t, f, x: t.grad_and_value(f)(x)),
    "grad of grad": (value, lambda t, f, x: t.grad(lambda x: t.grad(f)(x)[1])(x)),
    "vjp": (vector, lambda t, f, x: t.vjp(f, x)[1](x.cos())),
    "jvp": (vector, lambda t, f, x: t.jvp(f, (x,), (x.cos(),))),
    "jacrev": (vector, lambda t, f, x: t.jacrev(f)(x)),
    "jacrev in chunks": (vector, lambda t, f, x: t.jacrev(f, chunk_size=2)(x)),
    "jacfwd": (vector, lambda t, f, x: t.jacfwd(f)(x)),
    "hessian": (value, lambda t, f, x: t.hessian(f)(x)),
    "jacfwd of jacrev": (vector, lambda t, f, x: t.jacfwd(t.jacrev(f))(x)),
    "jacrev of jacfwd": (vector, lambda t, f, x: t.jacrev(t.jacfwd(f))(x)),
    "jacrev of jacrev": (vector, lambda t, f, x: t.jacrev(t.jacrev(f))(x)),
    "jacfwd of jacfwd": (vector, lambda t, f, x: t.jacfwd(t.jacfwd(f))(x)),
    "jacfwd of hessian": (value, lambda t, f, x: t.jacfwd(t.hessian(f))(x)),
    "vmap of hessian": (value, lambda t, f, x: t.vmap(t.hessian(f))(x * x[:, None])),
    "hessian of vmap": (
        value,
        lambda t, f, x: t.hessian(lambda x: t.vmap(f)(x * x[:, None]).sum())(x),
    ),
    "vmap of jvp": (
        vector,
        lambda t, f, x: t.vmap(lambda v: t.jvp(f, (x,), (v,))[1])(x * x[:, None]),
    ),
    "vmap of vjp": (
        vector,
        lambda t, f, x: t.vmap(lambda x: t.vjp(f, x)[1](x)[0])(x * x[:, None]),
    ),
    "jvp of grad": (value, lambda t, f, x: t.jvp(t.grad(f), (x,), (x.cos(),))),
    "grad of jvp": (value, lambda t, f, x: t.grad(lambda x: t.jvp(f, (x,), (x.cos(),))[1])(x)),
}


@pytest.mark.parametrize(("function", "transform"), COMPOSITIONS.values(), ids=COMPOSITIONS)
def test_composition_equals_native(into_torch, torch, function, transform):
    source, wrap = into_torch
    x = torch.tensor(ROW, dtype=torch.float64)
    expected = transform(torch.func, lambda x: function(torch, x), x)
    found = transform(torch.func, wrap(lambda x: function(source.xp, x)), x)
    torch.testing.assert_close(found, expected, **source.accuracy)


@pytest.mark.parametrize("out_dims", [0, 1, -1, (1, 0)], ids=str)
def test_vmap_out_dims(into_torch, torch, out_dims):
    source, wrap = into_torch
    function = lambda xp, x: (xp.sin(x), xp.cos(x) * x)
    map_ = lambda f: torch.func.vmap(f, out_dims=out_dims)(torch.tensor(MATRIX))
    expected = map_(lambda x: function(torch, x))
    torch.testing.assert_close(map_(wrap(lambda x: function(source.xp, x))), expected)


@pytest.mark.parametrize("chunk_size", [1, 2, 5, 7])
def test_vmap_in_chunks(into_torch, torch, chunk_size):
    source, wrap = into_torch
    there = torch.func.vmap(wrap(lambda x: vector(source.xp, x)), chunk_size=chunk_size)
    expected = torch.func.vmap(lambda x: vector(torch, x))(torch.tensor(MATRIX))
    torch.testing.assert_close(there(torch.tensor(MATRIX)), expected)


@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_vmap_randomness_does_not_matter_to_a_pure_function(into_torch, torch, randomness):
    source, wrap = into_torch
    there = torch.func.vmap(wrap(source.xp.sin), randomness=randomness)
    torch.testing.assert_close(there(torch.tensor(MATRIX)), torch.tensor(MATRIX).sin())


def test_vmap_of_a_tree(into_torch, torch):
    """in_dims and out_dims as trees, which torch flattens itself."""
    source, wrap = into_torch
    f = wrap(lambda batch, scale: {"sine": source.xp.sin(batch["x"]) * scale + batch["y"]})
    x, y = torch.tensor(MATRIX), torch.tensor(ROW)
    found = torch.func.vmap(f, in_dims=({"x": 0, "y": None}, None))({"x": x, "y": y}, 2.0)
    torch.testing.assert_close(found, {"sine": 2 * x.sin() + y})


def test_vmap_gives_integer_results(into_torch, torch):
    source, wrap = into_torch
    x = torch.tensor(MATRIX)
    found = torch.func.vmap(wrap(lambda x: source.xp.argmax(x)))(x)
    assert torch.equal(found.long(), x.argmax(1))


def cross_entropy(xp, w, x, label):
    logits = w @ x
    return xp.log(xp.exp(logits).sum()) - logits[label]


def test_gradient_per_sample_with_integer_labels(into_torch, torch):
    """int64 labels in a batch, outside of 64-bit mode."""
    source, wrap = into_torch
    w, x = torch.tensor(OTHER), torch.tensor(MATRIX)
    labels = torch.tensor([4, 0, 2, 2, 1])
    assert labels.dtype == torch.int64
    per_sample = lambda f: torch.func.vmap(torch.func.grad(f), in_dims=(None, 0, 0))(w, x, labels)
    rows = zip(x, labels.tolist(), strict=True)
    alone = [torch.func.grad(lambda *xs: cross_entropy(torch, *xs))(w, *row) for row in rows]
    found = per_sample(wrap(lambda *xs: cross_entropy(source.xp, *xs)))
    torch.testing.assert_close(found, torch.stack(alone))


def test_vmap_over_labels_only(into_torch, torch):
    source, wrap = into_torch
    w, x = torch.tensor(OTHER), torch.tensor(ROW)
    labels = torch.tensor([4, 0, 2, 2])
    f = wrap(lambda *xs: cross_entropy(source.xp, *xs))
    alone = [cross_entropy(torch, w, x, label) for label in labels.tolist()]
    found = torch.func.vmap(f, in_dims=(None, None, 0))(w, x, labels)
    torch.testing.assert_close(found, torch.stack(alone))


def test_gradient_with_has_aux(into_torch, torch):
    source, wrap = into_torch
    x = torch.tensor(ROW)
    f = wrap(lambda x: (source.xp.sin(x).sum(), {"double": 2 * x}))
    g, aux = torch.func.grad(f, has_aux=True)(x)
    torch.testing.assert_close((g, aux["double"]), (x.cos(), 2 * x))


def test_pullback_that_is_used_twice(into_torch, torch):
    source, wrap = into_torch
    x = torch.tensor(ROW)
    _, pull = torch.func.vjp(wrap(source.xp.sin), x)
    torch.testing.assert_close(pull(x)[0], x.cos() * x)
    torch.testing.assert_close(pull(2 * x)[0], 2 * x.cos() * x)


RECORDERS = {
    "linearize": lambda torch, f, x: torch.func.linearize(f, x),
    "make_fx": lambda torch, f, x: torch.fx.experimental.proxy_tensor.make_fx(f)(x),
}


@pytest.mark.parametrize("record", RECORDERS.values(), ids=RECORDERS)
def test_recording_is_refused(into_torch, torch, record):
    """What is recorded would give the values of the first call, whatever comes later."""
    source, wrap = into_torch
    with pytest.raises(bridge.NoValuesError, match="cannot be recorded by make_fx"):
        record(torch, wrap(source.xp.sin), torch.tensor(ROW))


def test_functionalize_refuses_every_autograd_function(into_torch, torch):
    """torch has no rule for it; what must not happen is a wrong result."""
    source, wrap = into_torch
    text = r"cannot be called within torch\.func\.functionalize\. It changes nothing in place"
    with pytest.raises(bridge.NoRuleError, match=text):
        torch.func.functionalize(wrap(source.xp.sin))(torch.tensor(ROW))


def test_batched_cotangents_of_autograd_grad(into_torch, torch):
    source, wrap = into_torch
    x = torch.tensor(ROW, requires_grad=True)
    given = torch.tensor(MATRIX)
    y, true = wrap(lambda x: vector(source.xp, x))(x), vector(torch, x)
    (expected,) = torch.autograd.grad(true, x, given, is_grads_batched=True)
    (found,) = torch.autograd.grad(y, x, given, is_grads_batched=True)
    torch.testing.assert_close(found, expected)


def test_batched_cotangents_with_create_graph(into_torch, torch):
    source, wrap = into_torch
    x = torch.tensor(ROW, requires_grad=True)
    given = torch.tensor(MATRIX)

    def second(y):
        (g,) = torch.autograd.grad(y, x, given, is_grads_batched=True, create_graph=True)
        return torch.autograd.grad((g**2).sum(), x)

    expected = second(vector(torch, x))
    torch.testing.assert_close(second(wrap(lambda x: vector(source.xp, x))(x)), expected)


@pytest.mark.parametrize(
    ("strategy", "vectorize"),
    [("reverse-mode", False), ("reverse-mode", True), ("forward-mode", True)],
)
def test_autograd_functional_jacobian(into_torch, torch, strategy, vectorize):
    source, wrap = into_torch
    x = torch.tensor(ROW)
    jacobian = lambda f: torch.autograd.functional.jacobian(
        f, x, vectorize=vectorize, strategy=strategy
    )
    expected = jacobian(lambda x: vector(torch, x))
    torch.testing.assert_close(jacobian(wrap(lambda x: vector(source.xp, x))), expected)


@pytest.mark.parametrize("vectorize", [False, True])
def test_autograd_functional_hessian(into_torch, torch, vectorize):
    source, wrap = into_torch
    x = torch.tensor(ROW)
    hessian = lambda f: torch.autograd.functional.hessian(f, x, vectorize=vectorize)
    expected = hessian(lambda x: value(torch, x))
    torch.testing.assert_close(hessian(wrap(lambda x: value(source.xp, x))), expected)
