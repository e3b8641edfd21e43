"""What a compiled forward pass of a bridged function saves for its backward pass."""

import gc
import importlib
import json
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from bridge import ArgumentError, jax2torch  # noqa: E402
from tests.compiling import COMPILED, assert_close, compiled, recorded, rows  # noqa: E402

pytestmark = COMPILED
WAYS = ["save", "recompute"]


def layers(xp, x, w):
    x = xp.tanh(x @ w)
    return xp.sin(x @ w) * x


def bridged(way="save"):
    return jax2torch(lambda x, w: layers(jnp, x, w), residuals=way)


def operands():
    return rows().requires_grad_(), (rows(3).cos() * 1.3).requires_grad_()


def native(x, w):
    return layers(torch, x, w)


def gradients(fn, xs, cotangent=None, **options):
    y = fn(*xs)
    cotangent = (
        torch.linspace(-1, 2, y.numel()).reshape(y.shape) if cotangent is None else cotangent
    )
    return torch.autograd.grad(y, xs, cotangent, **options)


def partitioned(graphs):
    """A backend that records the forward and the backward graph, as Inductor would get them."""
    common = importlib.import_module("torch._dynamo.backends.common")
    partitioners = importlib.import_module("torch._functorch.partitioners")

    def keep(graph, _):
        graphs.append(
            {node.target.name() for node in graph.graph.nodes if "bridge" in str(node.target)}
        )
        return importlib.import_module("functorch.compile").make_boxed_func(graph)

    return common.aot_autograd(
        fw_compiler=keep,
        bw_compiler=keep,
        partition_fn=partitioners.min_cut_rematerialization_partition,
    )


@pytest.mark.parametrize("way", WAYS)
def test_the_backward_graph_takes_what_the_forward_graph_saves(way):
    graphs, f, xs = [], bridged(way), operands()
    fn = compiled(lambda x, w: f(x.sin(), w).cos(), partitioned(graphs))
    found = gradients(fn, xs)
    assert_close(found, gradients(lambda x, w: native(x.sin(), w).cos(), xs))
    saved, recomputed = ["bridge::forward", "bridge::backward"], ["bridge::call", "bridge::derived"]
    assert graphs == [{name} for name in (saved if way == "save" else recomputed)]


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_some_of_the_gradients(backend):
    x, w = operands()
    f, w = bridged(), w.detach()
    fn = compiled(f, backend)
    assert_close(gradients(lambda x: fn(x, w), [x]), gradients(lambda x: native(x, w), [x]))
    w.requires_grad_()
    assert_close(gradients(fn, (x, w)), gradients(native, (x, w)))
    y = fn(x, w)
    assert_close(torch.autograd.grad(y.sum(), w), torch.autograd.grad(native(x, w).sum(), w))


def test_an_unused_output_takes_no_part():
    f = jax2torch(lambda x: (jnp.sqrt(x), x * x), residuals="save")
    x = torch.tensor([0.0, 1.5], requires_grad=True)  # where 0 times infinity is NaN
    for backend in ("eager", "aot_eager"):
        torch.compiler.reset()
        y = compiled(lambda x: f(x)[1], backend)(x)
        assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * x.detach())


def test_second_order_of_graphs_that_run_eagerly():
    xs = operands()

    def curvature(fn):
        slopes = gradients(fn, xs, create_graph=True)
        return torch.autograd.grad(sum((g**2).sum() for g in slopes), xs)

    assert_close(curvature(compiled(bridged(), "eager")), curvature(native))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_change_in_place_before_the_backward_pass_is_seen(backend):
    x, w = operands()
    y = compiled(bridged(), backend)(x, w)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_second_backward_pass_is_the_first(backend):
    x, w = operands()
    y = compiled(bridged(), backend)(x, w).sum()
    first, second = (torch.autograd.grad(y, (x, w), retain_graph=True) for _ in range(2))
    assert_close(first, torch.autograd.grad(native(x, w).sum(), (x, w)))
    torch.testing.assert_close(second, first, rtol=0, atol=0)


def test_hooks_see_what_is_saved():
    seen = []
    fn = compiled(bridged(), "eager")
    with torch.autograd.graph.saved_tensors_hooks(lambda x: seen.append(x.shape) or x, lambda x: x):
        y = fn(*operands())
    assert len(seen) > 2
    y.sum().backward()


def slope(f):
    def fn(x, w):
        x.requires_grad_()  # a copy for this would be recorded, without tangents
        return torch.autograd.grad((f(x, w) ** 2).sum(), x)[0]

    return fn


def test_recorded_halves_can_be_transformed():
    x, w = rows(), rows(3) * 1.3
    graph = recorded(slope(bridged()), x, w)
    assert torch.ops.bridge.backward.default in {node.target for node in graph.graph.nodes}
    true = torch.func.grad(lambda x, w: (native(x, w) ** 2).sum())
    primals, tangents, xs = (x, w), (x.cos(), w.sin()), torch.stack([x, x + 0.5])
    assert_close(graph(x + 1, w), true(x + 1, w))
    directed = torch.func.jvp(true, primals, tangents)
    assert_close(torch.func.jvp(graph, primals, tangents), directed)
    for in_dims, args in (((0, None), (xs, w)), ((0, 0), (xs, torch.stack([w, w.cos()])))):
        found, expected = (torch.func.vmap(f, in_dims)(*args) for f in (graph, true))
        assert_close(found, expected)
    free = [z.clone().requires_grad_() for z in primals]  # w did not require one when recorded
    found, expected = (torch.autograd.grad((f(*free) * x).sum(), free) for f in (graph, true))
    assert_close(found, expected)


def test_a_function_that_saves_something_else_is_refused():
    x, w = rows(), rows(3)
    graph = recorded(slope(bridged()), x, w)
    nodes = [n for n in graph.graph.nodes if n.target is torch.ops.bridge.forward.default]
    name, text, steps = nodes[0].args[:3]
    step = json.loads(steps)
    step[-1][3] = ["float32[5]"]
    with pytest.raises(ArgumentError, match=r"saves .* but saved \['float32\[5\]'\] when"):
        torch.ops.bridge.forward(name, text, json.dumps(step), [x, w])


def test_nothing_of_a_call_stays():
    fn, (x, w) = compiled(bridged(), "aot_eager"), operands()
    fn(x, w).sum().backward()
    fn(*operands()).sum().backward()
    array = np.zeros((4, 3), "float32")
    x = torch.from_numpy(array).requires_grad_()
    fn(x, w).sum().backward()
    gone = weakref.ref(array)
    del array, x
    gc.collect()
    assert gone() is None
