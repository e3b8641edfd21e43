"""Bridged functions in graphs that torch records: compiled, exported, or by fake tensors."""

import collections
import dataclasses
import functools
import importlib
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import bridge

torch = pytest.importorskip("torch")

pytestmark = [
    # Inductor imports torch.utils.mkldnn, whose classes are scripted: torch 2.13 warns of itself.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    # A package of an exported program copies the specs of its trees: torch 2.13 warns of itself.
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprec:FutureWarning"),
]

BACKENDS = ["aot_eager", "inductor"]
ROWS = np.array([[0.3, -1.2, 0.7], [1.1, 0.4, -0.6], [-0.9, 1.3, 0.2], [0.8, -0.1, 1.7]], "float32")
LAYERS = """
    import jax.numpy as jnp
    import torch

    from bridge import jax2torch


    @jax2torch
    def layer(x, weights, *, flip):
        y = jnp.tanh(x @ weights["w"])
        return {"y": y[::-1] if flip else y, "best": jnp.argmax(y, axis=1)}


    @jax2torch
    def double(x):
        return jnp.concatenate([x, jnp.sin(x)])


    anonymous = [jax2torch(lambda x: jnp.cos(x) * x)][0]


    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.linspace(-1, 1, 6).reshape(3, 2))

        def forward(self, x):
            result = layer(double(x) * 2, {"w": self.w}, flip=True)
            return result["y"] + 1, result["best"]


    class Plain(torch.nn.Module):
        def forward(self, x):
            return double(x).exp()


    class Anonymous(torch.nn.Module):
        def forward(self, x):
            return anonymous(x)
"""


@pytest.fixture(autouse=True)
def _fresh(tmp_path_factory, monkeypatch):
    """Nothing compiled before, in this process or by an earlier run of the tests."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "inductor"))
    torch.compiler.reset()
    counters().clear()


@pytest.fixture
def layers(tmp_path, monkeypatch):
    """A module of bridged functions, as a user's package has one."""
    pytest.importorskip("jax")
    tmp_path.joinpath("layers_to_export.py").write_text(textwrap.dedent(LAYERS))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "layers_to_export", raising=False)
    yield importlib.import_module("layers_to_export")
    sys.modules.pop("layers_to_export", None)


def counters():
    return importlib.import_module("torch._dynamo.utils").counters


def graphs():
    """How many graphs Dynamo has compiled in this test."""
    return counters()["stats"]["unique_graphs"]


def compiled(fn, backend="aot_eager", **options):
    return torch.compile(fn, fullgraph=True, backend=backend, **options)


def rows(count=4):
    return torch.tensor(np.resize(ROWS, (count, 3)) + 0.01 * np.arange(count)[:, None]).float()


def written_for(xp, function):
    """`function` with its array namespace filled in: a closure, which no one can import."""
    return lambda *args, **kwargs: function(xp, *args, **kwargs)


def leaves(x):
    return torch.utils._pytree.tree_leaves(x)


def with_gradients(fn, *xs):
    """The results of `fn`, and the gradients of a weighted sum of those that are differentiable."""
    xs = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in xs]
    results = fn(*xs)
    total = 0
    for i, y in enumerate(leaves(results)):
        if y is not None and y.requires_grad:
            weights = torch.linspace(0.5, 1.5 + i, y.numel(), dtype=y.dtype).reshape(y.shape)
            total = total + (y * weights).sum()
    wanted = [x for x in xs if x.requires_grad]
    return results, torch.autograd.grad(total, wanted, materialize_grads=True)


def assert_close(found, expected):
    torch.testing.assert_close(found, expected, check_dtype=False)


def bare_python(code, *args, cwd):
    """What `code` prints in an interpreter that has run nothing else, and what it complains of."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    home = os.path.dirname(os.path.dirname(bridge.__file__))
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": home},
    )


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
    "dataclass": (lambda xp, n: xp.sin(n.value) * n.other, lambda f, x, y: f(Node(x, other=y))),
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


def test_methods(into_torch):
    source, wrap = into_torch

    class Model:
        @wrap
        def apply(self, x):
            return source.xp.sin(x)

    model, x = Model(), rows()
    assert_close(compiled(lambda x: model.apply(x) * 2)(x), x.sin() * 2)


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


# Dynamic sizes

SHAPES = {
    "same": lambda xp, x: xp.sin(x),
    "twice": lambda xp, x: xp.concatenate([x, xp.sin(x)]),
    "one less": lambda xp, x: xp.sin(x)[1:] * x[:-1],
    "flat": lambda xp, x: xp.sin(x).reshape(-1),
    "merged and split": lambda xp, x: xp.sin(x).reshape(-1).reshape(x.shape[0], 3),
    "outer": lambda xp, x: xp.outer(x[:, 0], xp.sin(x[:, 1])),
    "pairs": lambda xp, x: xp.sin(x[:, None] - x[None, :]),
    "sum": lambda xp, x: xp.sin(x).sum(0),
    "transposed": lambda xp, x: xp.sin(x).T,
    "half": lambda xp, x: xp.sin(x)[: x.shape[0] // 2],
    "every other": lambda xp, x: xp.sin(x)[::2],
    "first three": lambda xp, x: xp.sin(x)[:3],
    "several": lambda xp, x: (x.sum(), xp.sin(x), x.argmax(1)),
}
GROWING = (4, 5, 6, 9)


@pytest.mark.parametrize("function", SHAPES.values(), ids=SHAPES)
@pytest.mark.needs("other sizes", run=False)
def test_sizes_after_the_second_share_a_graph(into_torch, function):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, function))
    step = compiled(lambda x: f(x * 2))
    for count in GROWING:
        found = with_gradients(step, rows(count))
        expected = with_gradients(lambda x: function(torch, x * 2), rows(count))
        assert_close(found, expected)
    assert graphs() == 2


@pytest.mark.parametrize("function", SHAPES.values(), ids=SHAPES)
@pytest.mark.needs("other sizes", run=False)
def test_marked_sizes_share_one_graph(into_torch, function):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, function))
    step = compiled(lambda x: f(x))
    for count in GROWING:
        x = rows(count)
        torch._dynamo.mark_dynamic(x, 0)
        assert_close(step(x), function(torch, rows(count)))
    assert graphs() == 1


def test_shapes_of_dynamic_results_are_used_downstream(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.concatenate([x, x[1:]]))
    step = compiled(lambda x: (f(x).reshape(-1, 1), f(x).shape[0] * 10, x.new_ones(len(f(x)))))
    for count in GROWING:
        twice = torch.concatenate([rows(count), rows(count)[1:]])
        expected = (twice.reshape(-1, 1), len(twice) * 10, torch.ones(len(twice)))
        assert_close(step(rows(count)), expected)


@pytest.mark.needs("other sizes")
def test_two_dynamic_sizes(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x, y: source.xp.concatenate([x @ y.T, source.xp.sin(x) @ y.T]))
    step = compiled(lambda x, y: f(x, y))
    for n, m in ((4, 5), (5, 7), (6, 9), (8, 6)):
        x, y = rows(n), rows(m)
        expected = torch.concatenate([x @ y.T, x.sin() @ y.T])
        assert_close(with_gradients(step, x, y)[0], expected)
    assert graphs() == 2


@pytest.mark.needs("other sizes")
def test_sizes_that_meet(into_torch):
    """Sizes that JAX needs to be equal become one, as in torch: those of a batch and its labels."""
    source, wrap = into_torch
    f = wrap(lambda x, y: source.xp.sin(x) * y)
    step = compiled(lambda x, y: f(x, y))
    for count in GROWING:
        assert_close(step(rows(count), rows(count)), rows(count).sin() * rows(count))
    assert graphs() == 2


def test_sizes_one_and_zero(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.concatenate([x, source.xp.sin(x)])[1:])
    step = compiled(lambda x: f(x))
    for count in (4, 5, 1, 0, 6):
        found = with_gradients(step, rows(count))
        expected = with_gradients(lambda x: torch.concatenate([x, x.sin()])[1:], rows(count))
        assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.needs("other sizes")
def test_a_dynamic_size_under_inductor(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.concatenate([x, source.xp.sin(x)]))
    step = compiled(lambda x: f(x * 2).exp(), "inductor", dynamic=True)
    for count in GROWING:
        found = with_gradients(step, rows(count))
        expected = with_gradients(
            lambda x: torch.concatenate([x * 2, (x * 2).sin()]).exp(), rows(count)
        )
        assert_close(found, expected)
    assert graphs() == 1


def odd_and_even(xp, x):
    return xp.sin(x) if int(x.shape[0]) % 2 else xp.cos(x)[1:]


def test_a_function_that_must_know_its_sizes_is_right_for_each(into_torch):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, odd_and_even))
    step = compiled(lambda x: f(x) * 2)
    for count in (*GROWING, 7):
        found = with_gradients(step, rows(count))
        assert_close(found, with_gradients(lambda x: odd_and_even(torch, x) * 2, rows(count)))


def test_a_function_that_must_know_its_sizes_cannot_be_marked_dynamic(into_torch):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, odd_and_even))
    x = rows()
    torch._dynamo.mark_dynamic(x, 0)
    with pytest.raises(Exception, match=r"marked .* as dynamic but your code specialized it"):
        compiled(lambda x: f(x))(x)


@pytest.mark.needs("one trace")
def test_a_compiled_call_does_not_run_the_function_again(into_torch):
    source, wrap = into_torch
    runs = []
    f = wrap(lambda x: (runs.append(1), source.xp.sin(x))[1])
    step = compiled(lambda x: f(x) * f(x + 1))
    for k in range(20):
        with_gradients(step, rows() + k)
    assert len(runs) == 1


@pytest.mark.needs("one trace")
def test_a_new_size_runs_the_function_no_more_than_eager(into_torch):
    source, wrap = into_torch
    runs = []
    f = wrap(lambda x: (runs.append(1), source.xp.sin(x))[1])
    step = compiled(lambda x: f(x))
    for count in GROWING * 3:
        with_gradients(step, rows(count))
    assert len(GROWING) <= len(runs) <= len(GROWING) + 1


# Modes

MODES = {
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast(device_type="cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("where", ["around the call", "in the compiled code"])
def test_modes_equal_eager(into_torch, mode, where):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x)

    def step(f, x):
        with mode():
            return f(x @ x.T), f(x), x.sum()

    def around(fn, x):
        with mode():
            return fn(x)

    ours, native = [functools.partial(step, g) for g in (f, lambda x: x.sin() * x)]
    x = rows().requires_grad_()
    run = around if where == "around the call" else lambda fn, x: fn(x)
    found, eager, true = run(compiled(ours), x), run(ours, x), run(native, x)
    torch.testing.assert_close(found, eager)
    torch.testing.assert_close(found, true)
    assert [y.dtype for y in found] == [y.dtype for y in true]
    assert [y.requires_grad for y in found] == [y.requires_grad for y in true]


def test_gradients_under_autocast(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x)

    def loss(f, x):
        with torch.autocast(device_type="cpu", dtype=torch.bfloat16):
            return f(x @ x.T)

    found = with_gradients(compiled(lambda x: loss(f, x)), rows())
    native = with_gradients(lambda x: loss(lambda x: x.sin() * x, x), rows())
    torch.testing.assert_close(found, native)


def test_second_order_is_refused_by_torch(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x))
    x = rows().requires_grad_()
    (g,) = torch.autograd.grad(compiled(lambda x: f(x))(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        g.sum().backward()


TRANSFORMED = {
    "grad": lambda f, x: torch.func.grad(lambda x: f(x).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](x.cos())[0],
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.cos(),))[1],
    "vmap": lambda f, x: torch.func.vmap(f)(x),
    "second": lambda f, x: torch.func.grad(
        lambda x: torch.func.grad(lambda x: f(x).sum())(x).sum()
    )(x),
}


@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED)
def test_transforms_in_compiled_code_are_right_or_refused(into_torch, transform):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x.sum())
    x = rows()
    try:
        found = compiled(lambda x: transform(f, x))(x)
    except (RuntimeError, NotImplementedError) as error:
        assert "bridged function" in str(error)  # noqa: PT017, either of both is right
    else:
        assert_close(found, transform(lambda x: x.sin() * x.sum(), x))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("axis", "out"), [(0, 0), (1, 0), (0, 1)])
def test_batches_in_compiled_code(into_torch, axis, out, dynamic):
    source, wrap = into_torch
    f = wrap(lambda x, y: source.xp.sin(x) * (x * y).sum())
    native = lambda x, y: x.sin() * (x * y).sum()
    over = lambda f: torch.func.vmap(f, (axis, None), out)
    x, y = rows() if axis == 0 else rows().mT, torch.tensor([0.4, -1.1, 0.7])
    program = compiled(lambda x, y: over(f)(x, y) * 2, dynamic=dynamic)
    found = with_gradients(program, x, y)
    torch.testing.assert_close(found, with_gradients(lambda x, y: over(native)(x, y) * 2, x, y))


# Dtypes

DTYPES = {
    "float64": (lambda xp, x: xp.sin(x) * x, rows().double()),
    "float16": (lambda xp, x: x * 2, rows().half()),
    "bfloat16": (lambda xp, x: x * 2, rows().bfloat16()),
    "int64": (lambda xp, x: x * 2 + 1, torch.tensor([3, -4, 5])),
    "int32": (lambda xp, x: x * 2 + 1, torch.tensor([3, -4, 5], dtype=torch.int32)),
    "bool": (lambda xp, x: ~x, torch.tensor([True, False])),
    "complex64": (lambda xp, x: x * x, torch.tensor([0.3 - 1.2j, 1.1 + 0.4j])),
    "complex128": (lambda xp, x: x * x, torch.tensor([0.3 - 1.2j, 1.1 + 0.4j]).to(torch.cdouble)),
}


@pytest.mark.parametrize(("function", "x"), DTYPES.values(), ids=DTYPES)
def test_dtypes_equal_native(into_torch, function, x):
    source, wrap = into_torch
    f = wrap(written_for(source.xp, function))
    torch.testing.assert_close(compiled(lambda x: f(x))(x), function(torch, x))


def test_float64_is_exact_with_its_gradient(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) * x)
    x = rows().double()
    found = with_gradients(compiled(lambda x: f(x)), x)
    expected = with_gradients(lambda x: x.sin() * x, x)
    exact = {"rtol": 1e-14, "atol": 1e-14}
    torch.testing.assert_close(found, expected, **(source.accuracy or exact))


def test_complex_gradient(into_torch):
    source, wrap = into_torch
    f = wrap(lambda z: source.xp.sin(z) * z)
    points = torch.tensor([0.3 - 1.2j, 1.1 + 0.4j])
    found, expected = points.clone().requires_grad_(), points.clone().requires_grad_()
    compiled(lambda z: (f(z) * (2 + 1j)).sum().real)(found).backward()
    ((expected.sin() * expected) * (2 + 1j)).sum().real.backward()
    assert_close(found.grad, expected.grad)


def test_int64_index_next_to_floats(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x, i: (source.xp.sin(x)[i], i + 1))
    x, i = rows(), torch.tensor([2, 0, 3])
    step = compiled(lambda x, i: f(x, i))
    torch.testing.assert_close(with_gradients(step, x, i), with_gradients(indexed, x, i))


def indexed(x, i):
    return x.sin()[i], i + 1


INTEGERS = {
    "argmax": (lambda x, i: x.argmax(), ()),
    "argmax of float64": (lambda x, i: x.argmax(), (torch.float64,)),
    "index": (lambda x, i: i * 2, ()),
    "index next to float64": (lambda x, i: i * 2, (torch.float64,)),
    "comparison": (lambda x, i: x > 0, ()),
    "number": (lambda x, i: 3, ()),
}


@pytest.mark.parametrize(("function", "dtype"), INTEGERS.values(), ids=INTEGERS)
def test_dtypes_of_integer_results_are_those_of_eager(into_torch, function, dtype):
    _, wrap = into_torch
    f = wrap(function)
    x, i = rows().to(*dtype), torch.tensor([2, 0, 3])
    torch.testing.assert_close(compiled(lambda x, i: f(x, i))(x, i), f(x, i))


# Arguments that a graph cannot hold

CONSTANTS = {
    "numpy": lambda source: np.ones(3, "float32"),
    "source": lambda source: source.array(np.ones(3, "float32")),
}


def with_fake_tensors(f, x, *others):
    with torch._subclasses.FakeTensorMode() as mode:
        return f(mode.from_tensor(x), *others)


def with_compiler(f, x, *others):
    return compiled(lambda x: f(x, *others))(x)


WHERE = {"compile": with_compiler, "fake": with_fake_tensors}


@pytest.mark.parametrize("constant", CONSTANTS.values(), ids=CONSTANTS)
@pytest.mark.parametrize("call", WHERE.values(), ids=WHERE)
def test_foreign_arrays_are_refused(into_torch, constant, call):
    source, wrap = into_torch
    f, other = wrap(lambda x, y: x * y), constant(source)
    with pytest.raises(Exception, match=r"constant of the recorded graph\. Pass it as a tensor"):
        call(f, rows(), other)


@pytest.mark.parametrize("call", WHERE.values(), ids=WHERE)
def test_prng_keys_are_refused(call):
    jax = pytest.importorskip("jax")
    f, key = bridge.jax2torch(lambda x, key: x + jax.random.normal(key, x.shape)), jax.random.key(0)
    with pytest.raises(Exception, match="a PRNG key by its key data"):
        call(f, rows(), key)


def test_an_error_of_the_function_is_named(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x) @ x)
    with pytest.raises(Exception, match=r"dot_general|shapes? .*\(4, ?3\)|incompatible"):
        compiled(lambda x: f(x))(rows())


def test_a_function_that_looks_at_values_is_refused_with_a_reason():
    pytest.importorskip("jax")
    f = bridge.jax2torch(lambda x: x if x.sum() > 0 else -x, jit=False)
    assert_close(f(rows()), rows())
    with pytest.raises(Exception, match=r"TracerBoolConversion|traced|jit=False"):
        compiled(lambda x: f(x))(rows())


# The operator

OPERANDS = {
    "float": ((lambda x, y: x * y), lambda: (rows().requires_grad_(), rows().cos())),
    "two floats": (
        lambda x, y: (x * y, x.sum()),
        lambda: (rows().requires_grad_(), rows().cos().requires_grad_()),
    ),
    "int": (lambda x, y: x[y], lambda: (torch.arange(3) + 3, torch.tensor([2, 0]))),
    "float and int": (lambda x, y: x[y], lambda: (rows().requires_grad_(), torch.tensor([2, 0]))),
    "complex": (
        lambda x, y: x * y,
        lambda: (torch.tensor([1 - 2j, 3j]).requires_grad_(), torch.tensor([0.5 + 1j, 2.0])),
    ),
}


def recorded(f, *xs, mode="fake"):
    record = importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx
    return record(f, tracing_mode=mode)(*[x.detach() for x in xs])


def operands(f, *xs):
    """The strings by which a graph names `f` and its arguments, from a graph."""
    nodes = recorded(f, *xs).graph.nodes
    (call,) = [node for node in nodes if node.target is torch.ops.bridge.call.default]
    return call.args[:2]


@pytest.mark.parametrize(("function", "make"), OPERANDS.values(), ids=OPERANDS)
def test_opcheck_of_the_call(into_torch, function, make):
    _, wrap = into_torch
    f, xs = wrap(function), make()
    torch.library.opcheck(torch.ops.bridge.call.default, (*operands(f, *xs), [*xs]))


@pytest.mark.parametrize(
    "name", [name for name in OPERANDS if name != "int"], ids=lambda name: name
)
def test_opcheck_of_its_gradient(into_torch, name):
    _, wrap = into_torch
    function, make = OPERANDS[name]
    f, xs = wrap(function), [x.detach() for x in make()]
    one = torch.ones_like(leaves(f(*xs))[0])
    rows = [torch.stack([x, x]) for x in [*xs, one]]
    axes = ["vmap", [0] * len(rows)]
    for steps, args in {
        '["vjp", [0], [0]]': [*xs, one],
        '["jvp", [0]]': [*xs, xs[0]],
        '["vjp", [0], [0]], ["vjp", [0], [0]]': [*xs, one, xs[0]],
        f'["vjp", [0], [0]], {json.dumps(axes)}': rows,
    }.items():
        call = (*operands(f, *xs), f"[{steps}]", args)
        torch.library.opcheck(torch.ops.bridge.derived.default, call)


def test_fake_tensors_get_shapes_and_dtypes(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: {"twice": source.xp.concatenate([x, x]), "best": x.argmax()})
    with torch._subclasses.FakeTensorMode() as mode:
        found = f(mode.from_tensor(rows()))
    expected = f(rows())
    assert list(found) == list(expected)
    for name, y in found.items():
        assert type(y).__name__ == "FakeTensor"
        assert (y.shape, y.dtype, y.device) == (
            expected[name].shape,
            expected[name].dtype,
            expected[name].device,
        )


def test_fake_tensors_run_the_function_on_no_values(into_torch):
    source, wrap = into_torch
    seen = []
    see = seen.append  # not looked into, so that runs that leave no trace are seen
    f = wrap(lambda x: (see(type(x)), source.xp.sin(x))[1])
    with torch._subclasses.FakeTensorMode():
        assert f(torch.empty(1 << 20, 1 << 20)).shape == (1 << 20, 1 << 20)
    assert len(seen) == 1


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_make_fx_records_the_operator(into_torch, mode):
    source, wrap = into_torch
    f = wrap(lambda x, y: (source.xp.sin(x) * y, x.sum()))
    graph = recorded(lambda x, y: f(x, y=y)[0] + 1, rows(), rows(), mode=mode)
    assert torch.ops.bridge.call.default in {node.target for node in graph.graph.nodes}
    x = rows() + 1
    assert_close(graph(x, x.cos()), x.sin() * x.cos() + 1)


def test_make_fx_records_other_sizes(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.concatenate([x, source.xp.sin(x)]))
    graph = recorded(lambda x: f(x).reshape(-1), rows(), mode="symbolic")
    x = rows(7)
    assert_close(graph(x), torch.concatenate([x, x.sin()]).reshape(-1))


def test_make_fx_records_gradients(into_torch):
    source, wrap = into_torch
    f = wrap(lambda x: source.xp.sin(x))

    def slope(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(f(x).sum(), x)[0]

    graph = recorded(slope, rows())
    assert_close(graph(rows() + 1), (rows() + 1).cos())


# Export

RUN = """
    import sys, torch
    import layers_to_export
    for path in sys.argv[1:]:
        program = torch.export.load(path + ".pt2").module()
        torch.save([program(x) for x in torch.load(path + ".inputs")], path + ".outputs")
"""


RUN_WITHOUT = """
    import sys, torch, bridge
    bridge.jax2torch(lambda x: x)(torch.ones(2))
    for path in sys.argv[1:]:
        try:
            torch.export.load(path + ".pt2").module()(*torch.load(path + ".inputs"))
        except Exception as error:
            print(f"{type(error).__module__.partition('.')[0]}.{type(error).__name__}: {error}")
"""


def saved(program, path, inputs):
    torch.export.save(program, f"{path}.pt2")
    torch.save(inputs, f"{path}.inputs")
    return path


def test_exported_programs_run_in_a_fresh_process(layers, tmp_path):
    net, size = layers.Net(), torch.export.Dim("size")
    fixed = torch.export.export(net, (rows(),))
    free = torch.export.export(net, (rows(),), dynamic_shapes={"x": {0: size}})
    inputs = {"fixed": [rows() + 1], "free": [rows(), rows(7), rows(2)]}
    paths = [
        saved(program, tmp_path / name, inputs[name])
        for name, program in (("fixed", fixed), ("free", free))
    ]
    process = bare_python(RUN, *paths, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    for path in paths:
        expected = [native(net.w.detach(), x) for x in inputs[path.name]]
        assert_close(torch.load(f"{path}.outputs"), expected)


def native(w, x):
    y = torch.tanh(torch.concatenate([x, x.sin()]) * 2 @ w)
    return y.flip(0) + 1, y.argmax(1)


def test_export_names_functions_by_where_they_are_imported_from(layers):
    graph = torch.export.export(layers.Net(), (rows(),)).graph
    calls = [node for node in graph.nodes if node.target is torch.ops.bridge.call.default]
    names = [call.args[0] for call in calls]
    assert names == ["layers_to_export:double", "layers_to_export:layer"]


def test_export_knows_the_sizes_of_results(layers):
    shapes = {"x": {0: torch.export.Dim("size")}}
    program = torch.export.export(layers.Plain(), (rows(),), dynamic_shapes=shapes)
    (x,) = [node for node in program.graph.nodes if node.op == "placeholder"]
    (output,) = [node for node in program.graph.nodes if node.op == "output"]
    y = output.args[0][0].meta["val"]
    assert str(y.shape[0]) == f"2*{x.meta['val'].shape[0]}"
    assert y.shape[1] == 3


def test_an_exported_program_has_gradients(layers):
    net = layers.Net()
    program = torch.export.export(net, (rows(),)).module()
    y, _ = program(rows())
    y.sum().backward()
    w = net.w.detach().requires_grad_()
    native(w, rows())[0].sum().backward()
    assert_close(program.w.grad, w.grad)


@pytest.mark.slow
def test_loaded_programs_that_miss_their_function_say_so(layers, tmp_path):
    """The operator is there; the module of the one function is not, and the other has no name."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    nets = {"plain": layers.Plain(), "anonymous": layers.Anonymous()}
    paths = [
        saved(torch.export.export(net, (rows(),)), elsewhere / name, [rows()])
        for name, net in nets.items()
    ]
    process = bare_python(RUN_WITHOUT, *paths, cwd=elsewhere)
    assert process.returncode == 0, process.stderr
    plain, anonymous = process.stdout.splitlines()
    for text in (plain, anonymous):
        assert text.startswith("bridge.")
        assert "import" in text
    assert "layers_to_export:double" in plain
    assert "<lambda>" in anonymous


PACKAGED = """
    import sys, torch
    import layers_to_export
    package = torch._inductor.aoti_load_package(sys.argv[1])
    torch.save(package(torch.load(sys.argv[2])), sys.argv[3])
"""


@pytest.mark.slow
def test_ahead_of_time_package_runs_in_a_fresh_process(layers, tmp_path):
    program = torch.export.export(layers.Plain(), (rows(),))
    paths = [tmp_path / name for name in ("plain.pt2", "x", "y")]
    torch._inductor.aoti_compile_and_package(program, package_path=str(paths[0]))
    torch.save(rows() + 1, paths[1])
    process = bare_python(PACKAGED, *paths, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    x = rows() + 1
    assert_close(torch.load(paths[2]), torch.concatenate([x, x.sin()]).exp())


# What staging costs others

EAGER = """
    import sys, torch

    def use(f):
        x = torch.tensor([0.5, 2.0], requires_grad=True)
        f(x).sum().backward()
        torch.func.grad(lambda x: f(x).sum())(x.detach())

    use(torch.sin)
    before = set(sys.modules)
    import jax.numpy, bridge
    use(bridge.jax2torch(jax.numpy.sin))
    print(*[name for name in set(sys.modules) - before if name.startswith("torch._")])
"""


def test_eager_calls_do_not_load_the_compiler(tmp_path):
    pytest.importorskip("jax")
    process = bare_python(EAGER, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    loaded = process.stdout.split()
    assert not [name for name in loaded if name.startswith(("torch._dynamo", "torch._inductor"))]


EDITED = """
    import importlib, pathlib, sys, torch
    import layers_to_export as layers
    x = torch.tensor([[0.5, 2.0], [-1.0, 0.3]])
    path = pathlib.Path(layers.__file__)
    original = path.read_text()
    for edit in (None, *sys.argv[1:]):
        path.write_text(original.replace("jnp.concatenate([x, jnp.sin(x)])", edit or "jnp.sin(x)"))
        importlib.invalidate_caches()
        layers = importlib.reload(layers)
        torch.compiler.reset()
        step = torch.compile(lambda x: layers.double(x * 2) + 1, fullgraph=True)
        torch.testing.assert_close(step(x), layers.double(x * 2) + 1)
"""
EDITS = ["jnp.sin(x).astype(jnp.float16)", "jnp.tile(x, (3, 1))"]


def test_caches_of_inductor_know_when_a_function_has_changed(layers, tmp_path):
    """As a user's has who edits it and starts anew: the graphs are equal in text.

    In a process of its own, which a kernel for another dtype may take down.
    """
    process = bare_python(EDITED, *EDITS, cwd=tmp_path)
    assert process.returncode == 0, process.stderr[-3000:]
