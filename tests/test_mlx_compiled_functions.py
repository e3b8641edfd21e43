"""Compiled functions of MLX that are called several times, as the activations of `mlx.nn`.

MLX gives the operations of all calls of a compiled function the same number in its graphs.
"""

import functools

import numpy as np
import pytest

import bridge
from bridge import NoRuleError

mx = pytest.importorskip("mlx.core")
nn = pytest.importorskip("mlx.nn")
from mlx.utils import tree_flatten  # noqa: E402

tanh_of_product = mx.compile(lambda x, w: mx.tanh(x @ w) * x.sum())
shapeless = functools.partial(mx.compile, shapeless=True)
square = shapeless(lambda x: mx.sigmoid(x) * x)
split_up = mx.compile(lambda x: mx.split(mx.sin(x) * x, 2))
nested = mx.compile(lambda x: square(square(x) + mx.tanh(x)))
checkpointed = mx.compile(mx.checkpoint(lambda x: mx.sin(x) * x))
checkpoint_of_compiled = mx.checkpoint(square)
custom = mx.custom_function(lambda x: mx.sin(x))
custom.vjp(lambda x, cotangent, y: 2 * cotangent * mx.cos(x))
compiled_custom = mx.compile(lambda x: custom(x) * x)

# Functions of two arrays of shapes (3, 3) and (n, 3) that call a compiled function for each.
FUNCTIONS = {
    "product": lambda a, b: tanh_of_product(a, a.T).sum() + tanh_of_product(b, a).sum(),
    "two shapes": lambda a, b: square(a).sum() + square(b).sum() ** 2,
    "in a row": lambda a, b: square(square(square(b @ a))).sum(),
    "several results": lambda a, b: split_up(a[:2])[1].sum() + (split_up(b[:2])[0] ** 2).sum(),
    "nested": lambda a, b: nested(a).sum() + nested(b).sum() * nested(b @ a).sum(),
    "checkpointed": lambda a, b: checkpointed(a).sum() * checkpointed(b).sum(),
    "checkpoint of it": lambda a, b: checkpoint_of_compiled(a).sum() * square(b).sum(),
    "custom": lambda a, b: compiled_custom(a).sum() * compiled_custom(b).sum(),
    "activations": lambda a, b: nn.relu(nn.gelu(nn.relu(a))).sum() * nn.gelu(nn.relu(b)).sum(),
    "values": lambda a, b: square(a).sum() * square(b).sum() * (1 if a[0, 0].item() > 9 else 2),
}


def captures(a, b, compile=mx.compile):
    scale = 2 * a[:2]
    inner = compile(lambda x: mx.sin(x) * scale + a[0])
    return (inner(b[:2]) * inner(mx.array(0.5))).sum()


def captures_without_fusion(a, b, compile=mx.compile):
    inner = compile(lambda x: (x + 1) @ (a * 2))
    return mx.tanh(inner(b)).sum()


CAPTURING = {"captures": captures, "captures, without fusion": captures_without_fusion}
FUNCTIONS |= CAPTURING
UNCOMPILED = {f: functools.partial(f, compile=lambda inner: inner) for f in CAPTURING.values()}
functions = pytest.mark.parametrize("name", FUNCTIONS)
second_shapes = pytest.mark.parametrize("count", [2, 3])


def arrays(count):
    generator = np.random.default_rng(0)
    return [generator.normal(size=(n, 3)).astype("float32") for n in (3, count)]


def expected(f, xs):
    f = UNCOMPILED.get(f, f)  # MLX too gets gradients by captured arrays wrong
    return [np.array(g) for g in mx.grad(f, argnums=(0, 1))(*map(mx.array, xs))]


def assert_equal(gradients, truth):
    for gradient, native in zip(gradients, truth, strict=True):
        assert gradient is not None
        np.testing.assert_allclose(np.asarray(gradient), native, rtol=2e-4, atol=1e-5)


@functions
@second_shapes
def test_gradients_of_repeated_calls_in_torch(name, count):
    torch = pytest.importorskip("torch")
    xs = arrays(count)
    primals = [torch.tensor(x, requires_grad=True) for x in xs]
    bridge.mlx2torch(FUNCTIONS[name])(*primals).backward()
    truth = expected(FUNCTIONS[name], xs)
    assert all(g.any() for g in truth)
    assert_equal([x.grad for x in primals], truth)


@functions
def test_gradients_of_repeated_calls_in_jax(name):
    jax = pytest.importorskip("jax")
    xs = arrays(2)
    f = bridge.mlx2jax(FUNCTIONS[name])
    assert_equal(jax.grad(f, argnums=(0, 1))(*xs), expected(FUNCTIONS[name], xs))
    if name != "values":
        assert_equal(jax.jit(jax.grad(f, argnums=(0, 1)))(*xs), expected(FUNCTIONS[name], xs))


@functions
def test_gradients_of_repeated_calls_in_mlx(name):
    """The function of MLX is one of PyTorch first, and then one of MLX again."""
    pytest.importorskip("torch")
    xs = arrays(2)
    f = bridge.torch2mlx(lambda *xs: bridge.mlx2torch(FUNCTIONS[name])(*xs) * 2)
    gradients = mx.grad(f, argnums=(0, 1))(*map(mx.array, xs))
    assert_equal(gradients, [2 * g for g in expected(FUNCTIONS[name], xs)])


@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("name", CAPTURING)
def test_derivatives_by_what_a_compiled_function_captures(name, position):
    """MLX loses those by mx.vjp and mx.jvp, if the compiled function's own argument is constant."""
    jax = pytest.importorskip("jax")
    torch = pytest.importorskip("torch")
    f, xs = CAPTURING[name], arrays(2)
    truth = expected(f, xs)[position]
    lost = mx.vjp(lambda a: f(a, mx.array(xs[1])), [mx.array(xs[0])], [mx.array(1.0)])[1][0]
    assert not np.allclose(lost, expected(f, xs)[0])
    primals = [torch.tensor(x, requires_grad=i == position) for i, x in enumerate(xs)]
    for options in ({}, {"residuals": "save"}, {"compile": True}):
        y = bridge.mlx2torch(f, **options)(*primals)
        assert_equal(torch.autograd.grad(y, primals[position]), [truth])

    of_one = lambda x: bridge.mlx2jax(f)(*xs[:position], x, *xs[position + 1 :])
    gradient = lambda x: expected(f, [*xs[:position], x, *xs[position + 1 :]])[position]
    x = xs[position]
    derivative = jax.jvp(of_one, (x,), (np.ones_like(x),))[1]
    np.testing.assert_allclose(derivative, truth.sum(), rtol=1e-4)
    assert_equal(jax.vmap(jax.grad(of_one))(np.stack([x, 2 * x])), [truth, gradient(2 * x)])

    step = 1e-2 * np.random.default_rng(1).normal(size=x.shape).astype("float32")
    second = jax.grad(lambda x: jax.grad(of_one)(x).sum())(x)
    difference = (gradient(x + step).sum() - gradient(x - step).sum()) / 2
    np.testing.assert_allclose((second * step).sum(), difference, rtol=2e-2, atol=1e-5)


def test_what_is_captured_without_arguments_has_no_derivative():
    jax = pytest.importorskip("jax")
    torch = pytest.importorskip("torch")
    captures = lambda a, b: (mx.compile(lambda: a * a)() * a * b).sum()
    f = bridge.mlx2torch(captures)
    a, b = (torch.tensor(x, requires_grad=True) for x in arrays(3))
    y = f(a.detach(), b)
    assert_equal(torch.autograd.grad(y, b), [(a**3).detach()])
    with pytest.raises(NoRuleError, match="captures an array"):
        f(a, b).backward()
    with pytest.raises(NoRuleError, match="captures an array"):
        jax.jvp(bridge.mlx2jax(captures), arrays(3), arrays(3))


def test_captures_in_a_function_that_is_wrapped_in_a_gradient():
    torch = pytest.importorskip("torch")
    f = bridge.mlx2torch(captures)

    def run(a):
        y = bridge.torch2mlx(lambda a: f(a, torch.ones(2, 3)))(a)
        return y * 2

    a = arrays(2)[0]
    ones = np.ones((2, 3), "float32")
    assert_equal([mx.grad(run)(mx.array(a))], [2 * expected(captures, [a, ones])[0]])
    t = torch.tensor(a, requires_grad=True)
    f(t, torch.ones(2, 3)).backward()
    assert_equal([t.grad], expected(captures, [a, ones])[:1])


def test_faults_in_an_earlier_call_are_refused():
    """MLX multiplies the gradient by the value of `full` by that value."""
    torch = pytest.importorskip("torch")
    full = mx.compile(lambda v: mx.full((2,), v) * mx.array([1.0, 2.0]))
    f = bridge.mlx2torch(lambda v: full(v).sum() + full(mx.array(2.0)).sum())
    with pytest.raises(NoRuleError, match=r"mx\.full"):
        f(torch.tensor(3.0, requires_grad=True)).backward()


def activations():
    """Return the classes of layers that compute an activation, by name."""
    module = nn.layers.activations
    return {
        name: kind
        for name, kind in vars(nn).items()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", activations())
def test_modules_with_one_activation_twice(name):
    torch = pytest.importorskip("torch")
    kind = activations()[name]
    width = 2 if name == "GLU" else 1
    layers = [nn.Linear(4, 6 * width), kind(), nn.Linear(6, 8 * width), kind()]
    module = nn.Sequential(*layers, nn.Linear(8, 2))
    x = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    loss = lambda: module(mx.array(x)).square().sum()
    truth = dict(tree_flatten(nn.value_and_grad(module, loss)()[1]))
    twin = bridge.mlx2torch(module)
    twin(torch.tensor(x)).square().sum().backward()
    gradients = {key: p.grad for key, p in twin.named_parameters()}
    assert_equal([gradients[key] for key in truth], truth.values())


def transformer():
    module = nn.Transformer(8, 2, num_encoder_layers=1, num_decoder_layers=1, mlp_dims=12)
    return module.train()  # has a dropout of 0


def run_transformer(module, source, target):
    mask = nn.MultiHeadAttention.create_additive_causal_mask(target.shape[1])
    return module(source, target, None, mask, None)


def transformer_arrays():
    """Return the source, the target and the cotangent, whose sizes differ."""
    generator = np.random.default_rng(0)
    shapes = (2, 4, 8), (2, 3, 8), (2, 3, 8)
    return [generator.normal(size=shape).astype("float32") for shape in shapes]


def transformer_gradients(module, source, target, weights):
    loss = lambda *xs: (run_transformer(module, *xs) * mx.array(weights)).sum()
    by_parameters = nn.value_and_grad(module, loss)(mx.array(source), mx.array(target))[1]
    by_inputs = mx.grad(loss, argnums=(0, 1))(mx.array(source), mx.array(target))
    parameters = {name: np.array(g) for name, g in tree_flatten(by_parameters)}
    return parameters, [np.array(g) for g in by_inputs]


def test_gradients_of_a_transformer_in_torch():
    torch = pytest.importorskip("torch")
    module, (source, target, weights) = transformer(), transformer_arrays()
    by_parameters, by_inputs = transformer_gradients(module, source, target, weights)
    twin = bridge.mlx2torch(module, method=run_transformer)
    xs = [torch.tensor(x, requires_grad=True) for x in (source, target)]
    (twin(*xs) * torch.tensor(weights)).sum().backward()
    gradients = {name: p.grad for name, p in twin.named_parameters()}
    assert gradients.keys() == by_parameters.keys()
    assert_equal([gradients[name] for name in by_parameters], by_parameters.values())
    assert_equal([x.grad for x in xs], by_inputs)


def test_gradients_of_a_transformer_in_jax():
    jax = pytest.importorskip("jax")
    module, (source, target, weights) = transformer(), transformer_arrays()
    by_parameters, by_inputs = transformer_gradients(module, source, target, weights)
    twin = bridge.mlx2jax(module, method=run_transformer)

    loss = lambda *xs: (twin.apply(xs[0], twin.buffers, *xs[1:])[0] * weights).sum()
    gradients = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    gradients_by_name, *others = gradients(twin.params, source, target)
    assert gradients_by_name.keys() == by_parameters.keys()
    assert_equal([gradients_by_name[name] for name in by_parameters], by_parameters.values())
    assert_equal(others, by_inputs)


def test_each_call_is_an_operation_of_the_graph():
    from bridge._arrays.mlx.upstream import dot_graph

    x = mx.zeros((2, 3))
    y = square(square(square(x)))
    steps = dot_graph.read_graph([y], {"x": x, "y": y})
    calls = [step for step in steps if "Sigmoid" in step.name]
    assert len(calls) == 3
    assert calls[0].inputs == ("x",)
    assert calls[2].outputs == ("y",)
    assert [c.outputs for c in calls[:2]] == [c.inputs for c in calls[1:]]


def test_a_graph_with_a_gap_is_refused(monkeypatch):
    """As in a version of MLX that writes graphs another way."""
    from bridge._arrays.mlx.upstream import dot_graph

    text = dot_graph.graph_text(mx.sin(mx.cos(mx.zeros(2))))
    lines = text.splitlines()
    for operation in ("Cos", "Sin"):
        start = next(i for i, line in enumerate(lines) if operation in line)
        gap = "\n".join(lines[:start] + lines[start + 1 :])
        monkeypatch.setattr(dot_graph, "graph_text", lambda *_, gap=gap, **__: gap)
        with pytest.raises(RuntimeError, match="cannot be read"):
            dot_graph.read_graph([], {})
