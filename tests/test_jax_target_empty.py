"""Calls from JAX whose results have no elements, or have none for values that were made up."""

import functools

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

import bridge
from bridge import ArgumentError
from tests.kits import kit
from tests.test_jax_target_processes import FOUR, run

X = jnp.arange(6.0)
FAILS = ArgumentError, jax.errors.JaxRuntimeError  # eager, and compiled
REFUSED = r"returned \(.*\) for these values, but \(.*\) for others of the same shapes"
pytestmark = pytest.mark.filterwarnings("ignore:.*cannot be captured as a graph:UserWarning")


@pytest.fixture(params=["torch", "mlx"])
def source(request):
    return kit(request.param)


@pytest.fixture
def into_jax(source):
    return getattr(bridge, f"{source.name}2jax")


def large(x):
    """Those of `x` above 2: none of the values that are made up."""
    return x[: int((x > 2).sum().item())]


USES = {
    "eager": lambda f: f(X),
    "jit": lambda f: jax.jit(f)(X),
    "the shape": lambda f: f(X).shape,
    "the shape in jit": lambda f: jax.jit(lambda x: x.sum() * f(x).shape[0])(X),
    "grad": lambda f: jax.grad(lambda x: f(x).sum())(X),
    "vmap": lambda f: jax.vmap(f)(jnp.stack([X, X])),
    "jvp in jit": lambda f: jax.jit(lambda x: jax.jvp(f, (x,), (x,))[1])(X),
    "scan": lambda f: jax.lax.scan(lambda c, x: (c, f(x)), 0.0, jnp.stack([X, X]))[1],
    "jacrev": lambda f: jax.jit(jax.jacrev(f))(X),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("result", [0, 1], ids=["alone", "beside another"])
def test_a_size_that_values_decide_is_refused(into_jax, use, result):
    functions = [large, lambda x: (x.sum(), large(x))]
    f = into_jax(functions[result])
    with pytest.raises(FAILS, match=REFUSED):
        jax.block_until_ready(use(lambda x: f(x)[1] if result else f(x)))


def test_a_gradient_in_compiled_code_is_refused(into_jax):
    # Only the backward pass is run, which has elements, and would be zero.
    f = into_jax(large)
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"returned|Mismatch in shape"):
        jax.block_until_ready(jax.jit(jax.grad(lambda x: f(x).sum()))(X))


BY_VALUES = {
    "mask": lambda torch, x: x[x > 2],
    "masked_select": lambda torch, x: torch.masked_select(x, x > 2),
    "nonzero": lambda torch, x: torch.nonzero(x > 2),
    "where": lambda torch, x: torch.where(x > 2)[0],
    "repeat_interleave": lambda torch, x: torch.repeat_interleave(x, x.long()),
    "unique": lambda torch, x: torch.unique(x.long())[1:],
}


@pytest.mark.parametrize("capture", ["auto", "never"])
@pytest.mark.parametrize("function", BY_VALUES.values(), ids=BY_VALUES)
def test_operators_of_torch_with_such_results(function, capture):
    torch = pytest.importorskip("torch")
    f = bridge.torch2jax(functools.partial(function, torch), capture=capture)
    for call in (f, jax.jit(f)):
        with pytest.raises(FAILS, match=REFUSED):
            jax.block_until_ready(call(X))
    small = jnp.zeros(6)  # for which there are no elements
    assert 0 in f(small).shape


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_an_error_in_a_call_without_elements_is_raised(into_jax, count, jit):
    def guarded(x):
        if x.sum().item() > 10:
            raise LookupError("the sum is not in the table")
        return [x[:0]] * count

    f = into_jax(guarded)
    kind = jax.errors.JaxRuntimeError if jit else LookupError
    with pytest.raises(kind, match="the sum is not in the table"):
        jax.block_until_ready((jax.jit(f) if jit else f)(X))


def test_an_index_out_of_bounds_is_found_in_a_captured_call():
    pytest.importorskip("torch")
    f = bridge.torch2jax(lambda x, i: x[i][:0], capture="require")
    assert f(X, jnp.array([5])).shape == (0,)
    with pytest.raises(jax.errors.JaxRuntimeError, match="index 6 is out of bounds"):
        jax.block_until_ready(jax.jit(f)(X, jnp.array([6])))


@pytest.mark.parametrize("capture", [True, False])
def test_results_that_are_empty_anyway(source, into_jax, capture):
    how = {"capture": "require" if capture else "never"} if source.name == "torch" else {}
    f = into_jax(lambda x: source.xp.tanh(x * x), **how)
    none = jnp.zeros((0, 3))
    assert jax.jit(f)(none).shape == (0, 3)
    assert jax.vmap(f)(none).shape == (0, 3)
    assert jax.jit(jax.grad(lambda x: f(x).sum()))(none).shape == (0, 3)
    assert jax.jacrev(f)(none).shape == (0, 3, 0, 3)
    first = into_jax(lambda x: x[:0], **how)
    np.testing.assert_array_equal(jax.grad(lambda x: first(x).sum())(X), np.zeros(6))


def several_devices():
    f = bridge.torch2jax(lambda x: x[x > 2], capture="never")
    captured = bridge.torch2jax(lambda x: x[:0])
    mesh = jax.make_mesh((4,), ("i",))
    spread = jax.NamedSharding(mesh, jax.P("i"))
    x = jax.device_put(jnp.arange(8.0), spread)
    mapped = jax.shard_map(f, mesh=mesh, in_specs=jax.P("i"), out_specs=jax.P("i"))
    for call in (f, jax.jit(f), jax.jit(mapped)):
        with pytest.raises(ArgumentError, match="XLA on 4 devices would not call it"):
            call(x)
    assert jax.jit(captured)(x).shape == captured(x).shape == (0,)


def test_on_several_devices_such_a_call_is_refused():
    pytest.importorskip("torch")
    run("several_devices()", start="from tests.test_jax_target_empty import *\n", **FOUR)


def test_through_callbacks_too():
    pytest.importorskip("torch")
    code = "test_operators_of_torch_with_such_results(BY_VALUES['mask'], 'never')"
    start = "from tests.test_jax_target_empty import *\n"
    run(code, start=start, GRADBRIDGE_JAX_TRANSPORT="callback")
