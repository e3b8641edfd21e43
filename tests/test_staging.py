"""Bridged functions in code that torch compiles: how they are called, and what they return."""

import collections
import dataclasses
import functools
import importlib

import pytest

torch = pytest.importorskip("torch")

from tests.compiling import (  # noqa: E402
    COMPILED,
    assert_close,
    compiled,
    graphs,
    rows,
    with_gradients,
    written_for,
)
from tests.versions import NEWER_DYNAMO  # noqa: E402

pytestmark = COMPILED

Pair = collections.namedtuple("Pair", "first second")


@dataclasses.dataclass
class Node:
    value: object
    other: object = None


# What is bridged, and how torch code calls it.
CALLS = {
    "array": (lambda xp, x: xp.sin(x) * x, lambda f, x, y: f(x) + y),
    "keywords": (lambda xp, x, scale: xp.sin(x) * scale, lambda f, x, y: f(scale=y, x=x)),
    "dict": (lambda xp, t: t["a"] * t["b"].sum(), lambda f, x, y: f({"b": y, "a": x})),
    "list in dict": (
        lambda xp, t: xp.sin(t["a"][0]) * t["a"][1],
        lambda f, x, y: f({"a": [x, y, None]}),
    ),
    "namedtuple": (lambda xp, p: p.first * xp.sin(p.second), lambda f, x, y: f(Pair(x, second=y))),
    "dataclass": pytest.param(
        lambda xp, n: xp.sin(n.value) * n.other,
        lambda f, x, y: f(Node(x, other=y)),
        marks=NEWER_DYNAMO,
    ),
    "None": (lambda xp, x, y: xp.sin(x) if y is None else y, lambda f, x, y: f(x, None) * y),
    "results in a tree": (
        lambda xp, x, y: {"s": xp.sin(x), "t": (x * y, [y.sum()])},
        lambda f, x, y: f(x, y),
    ),
    "results in a namedtuple": (
        lambda xp, x: Pair(xp.sin(x), x.sum()),
        lambda f, x, y: f(x).first * f(y).second,
    ),
    "result in a dataclass": (lambda xp, x: Node(xp.sin(x)), lambda f, x, y: f(x).value * y),
    "None among results": (lambda xp, x: (xp.sin(x), None), lambda f, x, y: f(x)),
    "integer result": (lambda xp, x: (xp.sin(x), x.argmax()), lambda f, x, y: f(x)),
    "unused result": (lambda xp, x: (xp.sin(x), xp.cos(x)), lambda f, x, y: f(x)[1] * y),
    "unused argument": (lambda xp, x, y: xp.sin(x), lambda f, x, y: f(x, y)),
    "constant result": (lambda xp, x: (xp.sin(x), xp.ones(2)), lambda f, x, y: f(x)),
    "identity": (lambda xp, x: x, lambda f, x, y: f(x) * y),
    "one tensor twice": (lambda xp, x, y: xp.sin(x) * y, lambda f, x, y: f(x, x) + y),
    "two calls": (lambda xp, x: xp.sin(x), lambda f, x, y: f(f(x) * y)),
    "numbers": (lambda xp, x, n, m: x * n + m, lambda f, x, y: f(x, 3, m=0.25) * y),
    "text": (
        lambda xp, x, how: xp.sin(x) if how == "sin" else xp.cos(x),
        lambda f, x, y: f(x, "sin") * f(y, how="cos"),
    ),
    "flags": (
        lambda xp, x, flip, other=None: -x if flip and other is None else x,
        lambda f, x, y: f(x, True) * f(y, flip=False, other=()),
    ),
    "transposed": (lambda xp, x, y: x @ y, lambda f, x, y: f(x.T, y.sin())),
    "view": (lambda xp, x: xp.sin(x), lambda f, x, y: f(x[1:, ::2]) * y[1:, ::2]),
}


@pytest.mark.parametrize(("function", "call"), CALLS.values(), ids=CALLS)
def test_compiled_equals_native(into_torch, function, call):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, function))
    x, y = rows(), rows().cos()
    found = with_gradients(compiled(lambda x, y: call(f, x, y)), x, y)
    native = functools.partial(function, torch)
    assert_close(found, with_gradients(lambda x, y: call(native, x, y), x, y))
    assert graphs() == 1


def everything(f, x, y):
    result = f({"x": x * 2, "ys": [y, 0.5]}, how="sin")
    return result["s"].exp() + f({"x": y, "ys": [x, 2]}, how="cos")["s"], result["best"]


def everything_there(xp, tree, *, how):
    y = getattr(xp, how)(tree["x"]) * tree["ys"][0] * tree["ys"][1]
    return {"s": y, "best": y.argmax(1)}


def test_inductor_equals_native(into_torch):
    source, wrap = into_torch
    if source.name == "mlx":
        pytest.skip("inductor sees one operator, whatever computes it, and takes a minute")
    f = wrap(written_for(source.xp, everything_there), static_argnames="how")
    x, y = rows(), rows().cos()
    found = with_gradients(compiled(lambda x, y: everything(f, x, y), "inductor"), x, y)
    native = functools.partial(everything_there, torch)
    assert_close(found, with_gradients(lambda x, y: everything(native, x, y), x, y))


@pytest.mark.slow
def test_reduced_overhead_equals_native(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x)
    step = torch.compile(lambda x: f(x).exp(), fullgraph=True, mode="reduce-overhead")
    for x in (rows(), rows() + 1):
        found = with_gradients(step, x)
        assert_close(found, with_gradients(lambda x: (x.sin() * x).exp(), x))


def test_explain_finds_no_break(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x))
    report = torch._dynamo.explain(lambda x: f(x).cos() + f(x=x))(rows())
    assert (report.graph_count, report.graph_break_count) == (1, 0), report.break_reasons


def test_the_function_itself_is_compiled(into_torch):
    source, wrap = into_torch
    x = rows()
    found = with_gradients(compiled(wrap(lambda x: source.xp.sin(x) * x)), x)
    assert_close(found, with_gradients(lambda x: x.sin() * x, x))


def test_two_functions_of_one_name_in_one_graph(into_torch):
    source, wrap = into_torch
    f, g = [wrap(lambda x, k=k: source.xp.sin(x) * k) for k in (2, 3)]
    x = rows()
    found = with_gradients(compiled(lambda x: f(x) * g(x)), x)
    assert_close(found, with_gradients(lambda x: 6 * x.sin() ** 2, x))


def test_functions_made_in_a_loop_are_not_mixed_up(into_torch):
    """Each is gone before the next is compiled, and its name free to be taken."""
    source, wrap = into_torch
    x = rows()
    for k in range(3):
        f = wrap(lambda x, k=k: source.xp.sin(x) * k)
        assert_close(compiled(lambda x, f=f: f(x))(x), x.sin() * k)
        del f


def test_a_compiled_function_keeps_what_it_calls(into_torch):
    """The graph holds the name only, of a function that nobody else may hold."""
    source, wrap = into_torch

    def make():
        f = wrap(lambda x: source.xp.sin(x))
        return compiled(lambda x: f(x) * 2)

    step, x = make(), rows()
    step(x)
    importlib.import_module("gc").collect()
    assert_close(step(x + 1), (x + 1).sin() * 2)


def test_a_recorded_graph_keeps_what_it_calls(into_torch):
    source, wrap = into_torch
    record = importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx
    x = rows()
    graph = record(wrap(lambda x: source.xp.sin(x)), tracing_mode="fake")(x)
    importlib.import_module("gc").collect()
    assert_close(graph(x + 1), (x + 1).sin())


def test_partial_functions(into_torch):
    source, wrap = into_torch
    f = wrap(functools.partial(lambda xp, x, k: xp.sin(x) * k, source.xp, k=2))
    assert_close(compiled(lambda x: f(x) + f(x, k=3))(rows()), rows().sin() * 5)


@NEWER_DYNAMO
def test_methods(into_torch):
    source, wrap = into_torch

    class Model:
        @wrap
        def apply(self, x):
            return source.xp.sin(x)

    model, x = Model(), rows()
    assert_close(compiled(lambda x: model.apply(x) * 2)(x), x.sin() * 2)


@NEWER_DYNAMO
def test_module_trains_as_its_native_twin(into_torch):
    source, wrap = into_torch

    class Net(torch.nn.Module):
        def __init__(self, function):
            super().__init__()
            self.inner = torch.nn.Linear(3, 2)
            self.scale = torch.nn.Parameter(torch.tensor([0.5, -1.5]))
            self.function = function

        def forward(self, x):
            return self.function(self.inner(x), {"scale": self.scale}).sum()

    def function(xp, x, parameters):
        return xp.tanh(x * parameters["scale"])

    ours = Net(wrap(written_for(source.xp, function)))
    native = Net(functools.partial(function, torch))
    native.load_state_dict(ours.state_dict())
    step = compiled(ours)
    for net, call in ((ours, step), (native, native)):
        descent = torch.optim.SGD(net.parameters(), lr=0.1)
        for k in range(3):
            descent.zero_grad()
            call(rows() + k).backward()
            descent.step()
    assert_close(dict(ours.named_parameters()), dict(native.named_parameters()))
    assert graphs() == 1


STATIC = {
    "text": "sin",
    "tuple": ("sin", (1, None)),
    "frozenset": frozenset(["sin"]),
    "function": str,
    "lambda": lambda: "sin",
    "dtype": torch.float32,
}


@pytest.mark.parametrize("value", STATIC.values(), ids=STATIC)
def test_static_arguments(into_torch, value):
    source, wrap = into_torch
    seen = set()
    f = wrap(lambda x, how: (seen.add(how), source.xp.sin(x))[1], static_argnames="how")
    x = rows()
    assert_close(compiled(lambda x: f(x, how=value))(x), x.sin())
    assert_close(compiled(lambda x: f(x, value))(x), x.sin())
    assert seen == {value}


def test_another_static_value_is_another_graph(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x, n: sum([source.xp.sin(x)] * n), static_argnames="n")
    step, x = compiled(lambda x, n: f(x, n)), rows()
    for n in (1, 2, 3, 5, 2):
        assert_close(step(x, n), n * x.sin())


@pytest.mark.parametrize("numbers", [(2, 3, 5, 7), (0.5, 1.5, -2.5, 4.0)], ids=["int", "float"])
def test_numbers_that_change_from_call_to_call(into_torch, numbers):
    """Dynamo gives up on constants and makes them symbols."""
    source, wrap = into_torch
    f = wrap(lambda x, n: source.xp.sin(x) * n)
    step, x = compiled(lambda x, n: f(x, n) * n), rows()
    for n in numbers:
        assert_close(with_gradients(lambda x, n=n: step(x, n), x)[0], n * n * x.sin())


def test_a_size_as_argument(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x, n: source.xp.sin(x) / n)
    step = compiled(lambda x: f(x, x.shape[0]))
    for count in (4, 5, 6):
        assert_close(step(rows(count)), rows(count).sin() / count)


def test_a_result_that_no_argument_reaches_needs_no_gradient(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x, y: (source.xp.sin(x), source.xp.cos(y), x.argmax()))
    x, y = rows().requires_grad_(), rows()
    found = compiled(lambda x, y: f(x, y))(x, y)
    assert [r.requires_grad for r in found] == [r.requires_grad for r in f(x, y)]
    assert [r.requires_grad for r in found] == [True, False, False]


def test_gradient_of_one_result_of_many(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: [source.xp.sin(x) * k for k in range(1, 5)])
    x = rows().requires_grad_()
    (found,) = torch.autograd.grad(compiled(lambda x: f(x))(x)[2].sum(), x)
    assert_close(found, 3 * x.detach().cos())
