"""Explanations of calls: what they say is what happens."""

import pathlib
import textwrap
import threading
import xml.etree.ElementTree

import numpy as np
import pytest

from bridge._calls.bridged_function import BridgedFunction
from tests.conftest import DIRECTIONS, wrapper
from tests.kits import kit
from tests.tensors import aligned

X = np.array([[0.3, -1.2, 2.0], [1.4, -0.6, 0.9]], np.float32)
W = np.array([[0.5, 1.5], [-0.25, 0.75], [1.0, -2.0]], np.float32)


@pytest.fixture(params=DIRECTIONS, ids="2".join)
def direction(request):
    source, target = request.param
    return kit(source), kit(target), wrapper(*request.param)


def layer(xp):
    return lambda x, w: {"y": xp.tanh(x @ w), "total": xp.sum(x)}


def ways(crossings):
    return {x.name: x.way for x in crossings}


def test_text_says_what_crosses(direction):
    source, target, wrap = direction
    explained = wrap(layer(source.xp)).explain(target.array(X), target.array(W))
    text = str(explained)
    assert repr(explained) == text
    assert text.startswith(f"{source.name}2{target.name} <lambda> (")
    assert [x.name for x in explained.arguments] == ["x", "w"]
    assert [x.name for x in explained.results] == ["result['y']", "result['total']"]
    assert [str(x.spec) for x in explained.results] == ["float32[2,2]", "float32[]"]
    assert [x.nbytes for x in explained.arguments] == [2 * 3 * 4, 3 * 2 * 4]
    for x in (*explained.arguments, *explained.results):
        assert x.name in text
        assert x.reason in text
    assert "tanh" in text.lower()
    assert explained.saving.by == ("x", "w")
    assert explained.device == "cpu"


# What a function of JAX or torch computes on.


@pytest.fixture
def seen():
    """Addresses of the memory that functions were called on, in order."""
    return []


def recording(name, seen):
    """A function of a framework that notes where its argument is, and returns something else."""
    if name == "mlx":
        return lambda x: (seen.append(np.asarray(x).ctypes.data), x + 1)[1]
    if name == "jax":
        return _recording_in_jax(seen)
    return _recording_in_torch(seen)


def _recording_in_jax(seen):
    from bridge import _registry
    from bridge._calls.executor import make_executor
    from bridge._core.op import Op
    from bridge._core.spec import ArraySpec

    def call(x):
        seen.append(x.ctypes.data)
        return (np.zeros(4, np.float32),)

    specs = (ArraySpec((4,), "float32"),)
    op = Op(name="record", framework="numpy", call=call, output_specs=lambda *_: specs)
    executor = make_executor("numpy", "jax", device="cpu", compute_device="cpu")
    native = _registry.target("jax").make_native(op, executor, None)
    return lambda x: native(x)[0]


def _recording_in_torch(seen):
    import torch

    if not hasattr(torch.ops.tests_explain, "record"):

        @torch.library.custom_op("tests_explain::record", mutates_args=())
        def record(x: torch.Tensor) -> torch.Tensor:
            _of_torch.append(x.data_ptr())
            return x.clone()

        record.register_fake(lambda x: torch.empty_like(x))
    _of_torch.clear()

    def run(x):
        return torch.ops.tests_explain.record(x)

    seen.append(_of_torch)
    return run


_of_torch = []


def last(seen):
    return seen[-1][-1] if isinstance(seen[-1], list) else seen[-1]


def address(x):
    for name in ("data_ptr", "unsafe_buffer_pointer"):
        if hasattr(x, name):
            return getattr(x, name)()
    return np.asarray(x).ctypes.data


def layouts(k):
    """Arrays of four elements, of all layouts in memory that a framework has."""
    if k.name == "jax":
        return {"dense": k.array(np.arange(4, dtype="float32"))}
    if k.name == "mlx":
        base = k.array(np.arange(32, dtype="float32"))
        return {"dense": k.array(np.arange(4, dtype="float32")), "strided": base[:8:2]}
    base = k.xp.arange(64, dtype=k.xp.float32)
    base = base[-base.data_ptr() % 64 // 4 :]
    return {
        "aligned": base[:4],
        "unaligned": base[1:5],
        "strided": base[:8:2],
        "negative": k.xp.complex(base[:4], base[:4]).conj().imag,
    }


def test_shared_arguments_have_one_address(direction, seen):
    source, target, wrap = direction
    for name, x in layouts(target).items():
        f = wrap(recording(source.name, seen))
        f(x)
        f(x)
        (argument,) = f.explain(x).arguments
        assert (argument.way == "shared") == (last(seen) == address(x)), name
        assert (argument.way == "copied") == bool(argument.reason), name


def test_reasons_of_copies():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    f = jax2torch(lambda x: jnp.sin(x))
    found = layouts(kit("torch"))
    reason = lambda x: f.explain(x).arguments[0].reason
    assert reason(found["aligned"]) == ""
    assert "begins 4 bytes after a multiple of 64" in reason(found["unaligned"])
    assert "not contiguous" in reason(found["strided"])
    assert "lazily" in reason(found["negative"])
    assert "may change" in reason(np.zeros(3, np.float32))
    assert "narrowed to 32 bits" in reason(torch.arange(3))
    assert ways(f.explain(2.0).arguments) == {"x": "number"}
    eager = jax2torch(lambda x: jnp.sin(x), jit=False)
    assert "jit=False" in eager.explain(found["aligned"]).arguments[0].reason


def test_results_of_torch_in_jax_are_written_in_place_where_torch_can(monkeypatch):
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import torch2jax

    copied, copy = [], torch.Tensor.copy_
    norm = torch.nn.functional.layer_norm
    f = torch2jax(lambda x: (torch.sin(x), norm(x[0], x.shape[1:]), x.argmax()))
    for x in (jnp.ones((2, 3)), jnp.ones((300, 200))):
        f(x)
        with monkeypatch.context() as patched:
            patched.setattr(torch.Tensor, "copy_", lambda y, *a: (copied.append(y), copy(y, *a))[1])
            f(x)
        explained = f.explain(x)
        shapes = {tuple(y.shape) for y in copied}
        assert {y.spec.shape for y in explained.results if y.way == "copied"} == shapes
        copied.clear()
    assert ways(explained.results)["result[0]"] == "shared"


def test_results_that_are_narrowed_say_so():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import torch2jax

    (result,) = torch2jax(torch.argmax).explain(jnp.ones(4)).results
    assert (result.way, result.reason) == ("copied", "int64 becomes int32")


def test_nothing_crosses_where_a_graph_is_compiled():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import torch2jax

    explained = torch2jax(torch.sin, lower="xla").explain(jnp.ones(4))
    assert {x.way for x in (*explained.arguments, *explained.results)} == {"compiled"}


# What is kept.


def f_of_torch(x, w):
    import torch

    return torch.nn.functional.layer_norm(torch.tanh(x @ w), (2,)).sum(0)


@pytest.mark.parametrize("residuals", ["save", "auto", "recompute"])
def test_kept_bytes_are_those_of_saved_tensors(residuals):
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    f = jax2torch(lambda x, w: jnp.exp(jnp.sin(x @ w)) * jnp.cos(x @ w), residuals=residuals)
    x, w = torch.tensor(X), torch.tensor(W, requires_grad=True)
    saving = f.explain(x, w).saving
    y = f(x, w)
    known = {t.data_ptr() for t in (x, w, y)}
    kept = [t for t in y.grad_fn.saved_tensors if t.data_ptr() not in known]
    assert saving.nbytes == sum(t.nbytes for t in kept)
    assert len(saving.arrays) == len(kept)
    assert (saving.by, saving.is_wanted) == (("w",), True)
    if residuals != "auto":
        assert (saving.strategy, saving.reason) == (
            residuals,
            f'residuals="{residuals}" asks for it',
        )


def test_kept_sizes_by_hand():
    pytest.importorskip("torch")
    jnp = pytest.importorskip("jax").numpy
    from bridge import torch2jax

    saving = torch2jax(f_of_torch).explain(jnp.array(X), jnp.array(W)).saving
    # tanh (2, 2), its mean and its reciprocal deviation (2, 1) each: 4 + 2 + 2 floats.
    assert sorted(map(str, saving.arrays)) == ["float32[2,1]", "float32[2,1]", "float32[2,2]"]
    assert saving.nbytes == 8 * 4
    assert (saving.strategy, saving.arguments) == ("save", ("x", "w"))


def test_the_gradient_of_a_number_is_kept_along_with_it():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    f = jax2torch(lambda x, w: jnp.tanh(x @ w).sum())
    x, w = torch.tensor(X), torch.tensor(W, requires_grad=True)
    saving = f.explain(x, w).saving
    assert (saving.strategy, saving.nbytes) == ("gradient", 3 * 2 * 4)
    f(x, w).backward()
    assert "derivatives so far: gradient" in repr(f)
    assert f.explain(x, w).saving == saving
    assert not f.explain(x, w.detach()).saving.is_wanted
    assert "if an argument required a gradient" in str(f.explain(x, w.detach()))


def test_auto_gives_the_numbers_that_it_compared():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    saving = jax2torch(jnp.sin).explain(torch.ones(3)).saving
    assert saving.strategy == "recompute"
    assert "us to save" in saving.reason
    assert "us to recompute" in saving.reason


# What is traced again.


def test_a_call_says_whether_it_traces(direction):
    source, target, wrap = direction
    traced = []

    def f(x, w):
        traced.append(x.shape)
        return source.xp.tanh(x @ w)

    g, (x, w) = wrap(f), map(target.array, (X, W))
    assert g.explain(x, w).traces.reason == "the first call traces it"
    assert len(g.plans) == 0
    g(x, w)
    assert g.explain(x, w).traces.is_known
    explained = g.explain(x[:1], w)
    expected = "this call traces again, since x is float32[1,3] and was float32[2,3]"
    assert explained.traces.reason == expected
    assert expected in str(explained)
    assert len(g.plans) == 1


def test_what_differs_from_the_trace_that_is_most_alike():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    from bridge import jax2torch

    f = jax2torch(lambda x, n: x["a"] ** n, static_argnames="n")
    x = torch.ones(3)
    f({"a": x}, n=2)
    f({"a": torch.ones(5)}, n=3)
    reason = lambda *args, **kwargs: f.explain(*args, **kwargs).traces.reason
    assert reason({"a": x}, n=4).endswith("since n is 4 and was 2")
    assert reason({"a": x.double()}, n=2).endswith("x['a'] is float64[3] and was float32[3]")
    assert "structure of the arguments is another" in reason({"a": x, "b": x}, n=2)
    with jax.default_matmul_precision("highest"):
        assert "default_matmul_precision is highest and was None" in reason({"a": x}, n=2)
    with jax.enable_x64(True):
        assert "enable_x64 is True and was False" in reason({"a": x}, n=2)


def test_settings_of_torch_are_named():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import torch2jax

    f = torch2jax(torch.sin)
    f(jnp.ones(3))
    torch.set_default_dtype(torch.float64)
    try:
        reason = f.explain(jnp.ones(3)).traces.reason
    finally:
        torch.set_default_dtype(torch.float32)
    assert "default dtype is torch.float64 and was torch.float32" in reason


# What it leaves alone.


def test_the_function_is_traced_once_and_nothing_is_stored():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    runs = []
    f = jax2torch(lambda x: (runs.append(1), jnp.exp(jnp.sin(x)).sum())[1])
    x = torch.ones(3, requires_grad=True)
    before = repr(f)
    f.explain(x)
    assert (runs, len(f.plans), repr(f)) == ([1], 0, before)
    f(x)
    before = repr(f)
    f.explain(x.double())
    assert (len(f.plans), repr(f)) == (1, before)


def test_random_numbers_are_not_drawn():
    torch, mx = pytest.importorskip("torch"), pytest.importorskip("mlx.core")
    from bridge import mlx2torch

    f, state = mlx2torch(lambda x: x * mx.random.uniform(shape=x.shape)), torch.get_rng_state()
    explained = f.explain(torch.ones(3))
    assert torch.equal(state, torch.get_rng_state())
    assert [x.name for x in explained.arguments] == ["x", "rng"]


def test_a_black_box_is_not_evaluated():
    torch = pytest.importorskip("torch")
    from bridge import numpy2torch
    from bridge.rules import ParameterShift

    f = numpy2torch(np.cos, gradient=ParameterShift())
    explained = f.explain(torch.ones(3))
    assert (f.evaluations, f.calls) == (0, 0)
    assert explained.results == ()
    assert "not known before" in str(explained)
    assert "ParameterShift" in explained.saving.reason
    f(torch.ones(3))
    explained = f.explain(torch.ones(3))
    assert (f.evaluations, f.calls) == (1, 1)
    assert ways(explained.results) == {"result": "shared"}


@pytest.mark.parametrize("target", ["torch", "jax", "mlx"])
def test_a_black_box_gets_copies(target):
    import bridge

    k, seen = kit(target), []
    f = getattr(bridge, f"numpy2{target}")(
        lambda x: (seen.append(x.ctypes.data), np.cos(x))[1], out=np.empty(3, np.float32)
    )
    x = k.array(np.ones(3, np.float32))
    f(x)
    assert seen[-1] != address(x)
    explained = f.explain(x)
    assert (ways(explained.arguments), explained.program) == ({"x": "copied"}, "")
    assert len(seen) == 1


def test_it_works_in_a_trace():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    from bridge import torch2jax

    found = []
    f = torch2jax(lambda x: torch.sin(x))
    jax.jit(lambda x: (found.append(f.explain(x)), x)[1])(jax.numpy.ones(3))
    assert ways(found[0].arguments) == {"x": "shared"}
    assert "dense and aligned" in str(found[0])


def test_it_works_under_torch_func():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    found, f = [], jax2torch(jnp.sin)
    torch.func.vmap(lambda x: (found.append(f.explain(x)), x)[1])(torch.ones(2, 3))
    assert [str(x.spec) for x in found[0].arguments] == ["float32[3]"]


# Calls in calls, modules, figures.


@pytest.mark.parametrize("path", [("jax", "torch", "jax"), ("torch", "jax", "torch")], ids="2".join)
def test_calls_in_a_call_are_explained(path):
    inner_kit, middle, outer = map(kit, path)
    inner = wrapper(*path[:2])(lambda x: inner_kit.xp.sin(x))
    assert inner.explain(middle.array(X)).calls == ()
    outside = wrapper(*path[1:])(lambda x: inner(x) * 2 + inner(x[0]) + inner(x))
    explained = outside.explain(outer.array(X))
    assert [call.direction for call in explained.calls] == ["2".join(path[:2])] * 2
    shapes = [[str(x.spec) for x in call.arguments] for call in explained.calls]
    assert shapes == [["float32[2,3]"], ["float32[3]"]]
    assert "\n  calls\n    " in str(explained)
    assert explained.dot().count("->") == 2
    assert BridgedFunction.__call__.__module__ == "bridge._calls.bridged_function"


def test_other_threads_call_meanwhile():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    other, results = jax2torch(jnp.cos), []

    def f(x):
        thread = threading.Thread(target=lambda: results.append(other(torch.zeros(2))))
        thread.start()
        thread.join()
        return jnp.sin(x)

    assert jax2torch(f).explain(torch.ones(3)).calls == ()
    assert results[0].tolist() == [1, 1]


def test_modules_are_explained():
    torch, eqx = pytest.importorskip("torch"), pytest.importorskip("equinox")
    import jax

    from bridge import jax2torch, torch2jax

    linear = jax2torch(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
    explained = linear.explain(torch.ones(3))
    assert set(ways(explained.arguments)) == {
        *("variant", "params['weight']", "params['bias']", "x")
    }
    assert explained.saving.by == ("params['weight']", "params['bias']")
    net = torch2jax(torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)))
    explained = net.explain(net.params, net.buffers, jax.numpy.ones((5, 3)))
    assert "result[1]['1.running_mean']" in ways(explained.results)
    assert not any("buffers" in name for name in explained.saving.by)


def test_modules_of_mlx_are_explained():
    torch, mx = pytest.importorskip("torch"), pytest.importorskip("mlx.core")
    from bridge import torch2mlx

    explained = torch2mlx(torch.nn.Linear(3, 4)).explain(mx.ones((2, 3)))
    assert ways(explained.results) == {"result[0]": "copied"}
    assert explained.saving.strategy == "save"


def test_a_long_program_is_cut_in_the_text_alone():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    def f(x):
        for _ in range(50):
            x = jnp.sin(x)
        return x

    explained = jax2torch(f).explain(torch.ones(3))
    assert explained.program.count("sin") == 50
    assert str(explained).count("sin") < 30
    assert "`.program` is the whole" in str(explained)


def test_many_arguments_are_summed_up():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    explained = jax2torch(lambda xs: jnp.stack(xs)).explain([torch.ones(3) for _ in range(40)])
    assert len(explained.arguments) == 40
    assert "... and 24 more: " in str(explained)


def test_figures_are_well_formed(direction):
    source, target, wrap = direction
    explained = wrap(layer(source.xp)).explain(target.array(X), target.array(W))
    root = xml.etree.ElementTree.fromstring(explained.svg())
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == f"{source.name}2{target.name} <lambda>"
    assert sum("result['" in text for text in texts) == 2
    dot = explained.dot()
    assert dot.startswith("digraph")
    assert dot.count("[label=") == 1


def test_the_text_is_that_of_the_readme():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax").numpy
    from bridge import jax2torch

    readme = (pathlib.Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    score = jax2torch(lambda x, w: jnp.tanh(x @ w).sum())
    w = torch.randn(3, 2, requires_grad=True)
    text = str(score.explain(aligned(18).view(6, 3)[1:], w)).partition("  program")[0]
    assert textwrap.indent(text.rstrip(), "    ") in readme
