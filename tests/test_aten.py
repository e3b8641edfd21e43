"""Functions of JAX that became code of torch, beside what JAX computes."""

import re
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("jax")
pytest.importorskip("torch")

import jax
import jax.numpy as jnp
import torch
from jax import lax
from torch.fx.experimental.proxy_tensor import make_fx

from bridge import NoRuleError, OptionError, RangeError, jax2torch, to_torch
from tests.jax_programs import INTEGER, PROGRAMS, bounded, flat


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def assert_equal(actual, expected):
    expected = np.asarray(expected)
    array = actual.detach().resolve_conj().numpy()
    assert array.shape == expected.shape
    assert array.dtype == expected.dtype
    if jnp.issubdtype(expected.dtype, np.inexact):
        np.testing.assert_allclose(array, expected, rtol=1e-7, atol=1e-9)
    else:
        np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("name", PROGRAMS)
def test_values_are_those_of_jax(name):
    function, arguments = flat(name)
    expected = jax.jit(function)(*map(jnp.asarray, arguments))
    actual = jax2torch(function, lower="aten")(*map(to_torch, arguments))
    for x, y in zip(actual, expected, strict=True):
        assert_equal(x, y)


@pytest.mark.parametrize("residuals", ["save", "recompute"])
@pytest.mark.parametrize("name", sorted(set(PROGRAMS) - INTEGER))
def test_gradients_are_those_of_jax(name, residuals):
    function, arguments = flat(name)
    xs = [*map(jnp.asarray, arguments)]
    argnums = [i for i, x in enumerate(xs) if jnp.issubdtype(x.dtype, np.inexact)]

    def of_inexact(*free):
        values = list(xs)
        for i, x in zip(argnums, free, strict=True):
            values[i] = x
        return [y for y in function(*values) if jnp.issubdtype(y.dtype, np.inexact)]

    outputs, pullback = jax.vjp(of_inexact, *(xs[i] for i in argnums))
    cotangents = [
        np.asarray(jnp.cos(y + 0.3 + (0.2j if jnp.iscomplexobj(y) else 0))) for y in outputs
    ]
    expected = pullback([*map(jnp.asarray, cotangents)])

    tensors = [to_torch(x).requires_grad_(i in argnums) for i, x in enumerate(arguments)]
    results = jax2torch(function, lower="aten", residuals=residuals)(*tensors)
    results = [y for y in results if y.is_floating_point() or y.is_complex()]
    pairs = [
        (y, to_torch(np.asarray(np.conj(c)))) for y, c in zip(results, cotangents, strict=True)
    ]
    pairs = [(y, c) for y, c in pairs if y.requires_grad]
    actual = torch.autograd.grad(
        [y for y, _ in pairs],
        [tensors[i] for i in argnums],
        [c for _, c in pairs],
        materialize_grads=True,
    )
    for x, y in zip(actual, expected, strict=True):
        assert_equal(x.conj(), y)


def function_with_a_rule(x, w):
    return jnp.tanh(bounded(x) @ w) + jnp.arange(5.0) * jnp.array([1.0, 2, 3, 4, 7])


X = np.array([[0.3, -1.2, 0.7, 2.1], [1.4, 0.2, -0.8, 0.5]])
W = np.linspace(-1, 1.5, 20).reshape(4, 5)


def gradients(function):
    x, w = (to_torch(a).requires_grad_() for a in (X, W))
    y = function(x, w)
    y.sin().sum().backward()
    return y.detach(), x.grad, w.grad


def expected_gradients():
    total = lambda x, w: jnp.sin(function_with_a_rule(x, w)).sum()
    return function_with_a_rule(X, W), *jax.grad(total, (0, 1))(jnp.asarray(X), jnp.asarray(W))


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_code_has_the_gradients_of_rules(backend):
    torch.compiler.reset()
    lowered = jax2torch(function_with_a_rule, lower="aten")
    compiled = torch.compile(lowered, fullgraph=True, backend=backend)
    for x, y in zip(gradients(compiled), expected_gradients(), strict=True):
        assert_equal(x, y)


def test_gradient_of_a_number_in_compiled_code():  # which eager code computes along with it
    torch.compiler.reset()
    lowered = jax2torch(lambda x: (jnp.tanh(x) ** 2).sum(), lower="aten")
    x = to_torch(X).requires_grad_()
    (3 * torch.compile(lowered, fullgraph=True, backend="aot_eager")(x)).backward()
    assert_equal(x.grad, 6 * np.tanh(X) * (1 - np.tanh(X) ** 2))


def test_gradient_of_a_number_in_a_recorded_graph():
    lowered = jax2torch(lambda x: (jnp.tanh(x) ** 2).sum(), lower="aten")

    def gradient(x, factor):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(lowered(x) * factor, x)[0]

    graph = make_fx(gradient)(to_torch(X), torch.tensor(1.0))
    expected = 2 * np.tanh(X) * (1 - np.tanh(X) ** 2)
    assert_equal(graph(to_torch(X), torch.tensor(5.0)), 5 * expected)


def test_compiled_code_of_torch_func_is_refused():  # pytorch#193279: a backward is dropped
    torch.compiler.reset()
    lowered = jax2torch(function_with_a_rule, lower="aten")
    w = to_torch(W)
    gradient = torch.func.grad(lambda x: lowered(x, w).sum())
    with pytest.raises(Exception, match="grad and the like"):
        torch.compile(gradient, fullgraph=True, backend="eager")(to_torch(X))


def test_recorded_graphs_hold_operators_of_torch_alone():
    lowered = jax2torch(function_with_a_rule, lower="aten")
    for mode in ("real", "fake"):
        graph = make_fx(lowered, tracing_mode=mode)(to_torch(X), to_torch(W))
        targets = [str(n.target) for n in graph.graph.nodes if n.op == "call_function"]
        assert all(re.match(r"(aten|prims)\.", target) for target in targets)
        assert_equal(graph(to_torch(X), to_torch(W)), function_with_a_rule(X, W))


class Module(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *xs):
        return self.function(*xs)


def test_exported_program_runs_where_no_jax_is(tmp_path):
    module = Module(jax2torch(function_with_a_rule, lower="aten"))
    torch.export.save(torch.export.export(module, (to_torch(X), to_torch(W))), tmp_path / "f.pt2")
    code = (
        "import sys; sys.modules['jax'] = sys.modules['bridge'] = None\n"
        "import torch\n"
        f"program = torch.export.load({str(tmp_path / 'f.pt2')!r}).module()\n"
        f"x, w = torch.tensor({X.tolist()}).double(), torch.tensor({W.tolist()}).double()\n"
        "print(program(x, w).tolist())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_allclose(eval(ran.stdout), function_with_a_rule(X, W), rtol=1e-5)


def test_exported_program_has_no_gradient_rather_than_a_wrong_one():
    module = Module(jax2torch(function_with_a_rule, lower="aten"))
    program = torch.export.export(module, (to_torch(X), to_torch(W))).module()
    with pytest.raises(RuntimeError, match="zeta"):
        program(to_torch(X).requires_grad_(), to_torch(W)).sum().backward()


def test_gradient_is_exported_as_a_function():
    gradient = jax.grad(lambda x, w: function_with_a_rule(x, w).sum())
    module = Module(jax2torch(gradient, lower="aten"))
    program = torch.export.export(module, (to_torch(X), to_torch(W))).module()
    assert_equal(program(to_torch(X), to_torch(W)), gradient(jnp.asarray(X), jnp.asarray(W)))


LOOPS = {
    "scan": lambda x: lax.scan(lambda c, r: (c * 0.9 + r.sum(), c + r), jnp.float64(1), x),
    "reversed": lambda x: lax.scan(lambda c, r: (c * 0.9 - r, c), x[0], x, reverse=True),
    "counted": lambda x: lax.fori_loop(0, 12, lambda i, y: y * 0.8 + i, x),
    "while": lambda x: lax.while_loop(
        lambda c: c[0].sum() < 50, lambda c: (c[0] * 1.5, c[1] + 1), (x, 0)
    ),
    "switch": lambda x: lax.switch(
        x.argmax() % 5, [jnp.sin, jnp.cos, lambda x: x], x
    ),  # beyond the last, it is the last
}


@pytest.mark.parametrize("way", ["eager", "aot_eager", "export", "make_fx"])
@pytest.mark.parametrize("name", LOOPS)
def test_loops_and_branches_in_graphs(name, way):
    torch.compiler.reset()
    x = np.abs(np.random.default_rng(5).normal(size=(12, 3)))
    lowered = jax2torch(LOOPS[name], lower="aten")
    if way == "export":
        run = torch.export.export(Module(lowered), (to_torch(x),)).module()
    elif way == "make_fx":
        run = make_fx(lowered)(to_torch(x / 2))  # at other values
    else:
        run = torch.compile(lowered, backend=way, fullgraph=True)
    for x_, y in zip(
        jax.tree.leaves(run(to_torch(x))), jax.tree.leaves(LOOPS[name](jnp.asarray(x))), strict=True
    ):
        assert_equal(x_, y)


def test_tensors_without_values():
    lowered = jax2torch(function_with_a_rule, lower="aten")
    y = lowered(torch.empty(2, 4, device="meta"), torch.empty(4, 5, device="meta"))
    assert (y.device.type, y.shape) == ("meta", (2, 5))


def test_transformations_of_torch():
    lowered = jax2torch(lambda x: jnp.sin(bounded(x)) * x, lower="aten", x64=True)
    plain = lambda x: jnp.sin(bounded(x)) * x
    x, total = to_torch(X), lambda x: lowered(x).sum()
    assert_equal(torch.func.vmap(lowered)(x), plain(X))
    assert_equal(torch.func.grad(total)(x), jax.grad(lambda x: plain(x).sum())(jnp.asarray(X)))
    smooth = jax2torch(lambda x: jnp.sin(x) * x, lower="aten")
    _, tangent = torch.func.jvp(smooth, (x,), (torch.ones_like(x),))
    assert_equal(tangent, np.cos(X) * X + np.sin(X))
    torch.autograd.gradgradcheck(smooth, x.requires_grad_())


def test_autocast_does_not_change_the_products():
    lowered = jax2torch(jnp.matmul, lower="aten")
    x, w = to_torch(X).float(), to_torch(W).float()
    with torch.autocast("cpu"):
        assert lowered(x, w).dtype == torch.float32


def test_results_share_no_memory():
    lowered = jax2torch(lambda x: (x, x.T, x, jnp.zeros(3), x[0]), lower="aten")
    x = to_torch(X)
    results = lowered(x)
    places = {y.untyped_storage().data_ptr() for y in (x, *results)}
    assert len(places) == 6
    results[3].add_(1)
    assert_equal(lowered(x)[3], np.zeros(3))


def test_integers_of_64_bits_are_checked_in_32_bit_mode():
    with jax.enable_x64(False):
        lowered = jax2torch(lambda x: x + 1, lower="aten")
        assert lowered(torch.tensor([2**31 - 2])).tolist() == [2**31 - 1]
        with pytest.raises(RangeError, match=r"argument x .* do not fit into int32.*x64=True"):
            lowered(torch.tensor([2**40]))
        compiled = torch.compile(lowered, fullgraph=True, backend="aot_eager")
        with pytest.raises(RuntimeError, match="do not fit into int32"):
            compiled(torch.tensor([2**40]))


def test_listing_is_readable():
    lowered = jax2torch(lambda x: jnp.tanh(2 * x).sum(), lower="aten")
    text = str(lowered.listing(to_torch(X)))
    assert text.splitlines() == [
        "(x0: float64[2,4]) ->",
        "    v0: float64[2,4] = mul(2.0, x0)",
        "    v1: float64[2,4] = tanh(v0)",
        "    v2: float64[] = reduce_sum(v1, axes=(0, 1))",
        "    return v2",
    ]
    with pytest.raises(OptionError, match="without lower="):
        jax2torch(jnp.sin).listing(to_torch(X))


def called_back(x):
    return jax.pure_callback(np.sin, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


@pytest.mark.parametrize(
    ("function", "word"),
    [
        (called_back, "pure_callback"),
        (lambda x: x + jax.random.uniform(jax.random.key(0, impl="rbg")), "rng_bit_generator"),
        (lambda x: jax.scipy.linalg.schur(x[:, :2])[0], "schur"),
        (lambda x: lax.reduce(x, 1.0, lambda a, b: a * b + a, (0,)), "reduce"),
        (lambda x: x.astype(jnp.float8_e4m3fn).astype(x.dtype), "float8_e4m3fn"),
    ],
)
def test_what_is_not_of_the_vocabulary_is_refused_by_name(function, word):
    with pytest.raises(NoRuleError, match=rf"{word}.*leave out lower="):
        jax2torch(function, lower="aten")(to_torch(X))


def test_options_that_do_not_go_with_it():
    with pytest.raises(OptionError, match=r'lower="aten".*jit=False'):
        jax2torch(jnp.sin, lower="aten", jit=False)
    with pytest.raises(OptionError, match=r"device='cpu'.*lower='aten'"):
        jax2torch(jnp.sin, lower="aten", device="cpu")
    with pytest.raises(OptionError, match=r"lower='xla' is neither None nor \"aten\""):
        jax2torch(jnp.sin, lower="xla")
