"""What a user of JAX reads when an argument, a result or an option of a bridged call is wrong."""

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

import bridge
from bridge import ArgumentError, NoValuesError, OptionError, _registry
from bridge._core.op import Op
from tests.kits import bridged, kit

X = jnp.array([0.5, -1.5, 2.0])
FROM_JAX = [d for d in _registry.directions() if d[1] == "jax"]
from_jax = pytest.mark.parametrize("pair", FROM_JAX, ids="2".join)


@from_jax
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_a_typed_key_as_an_ordinary_argument(pair, jit):
    def f(x, key):
        return x

    g = bridged(pair, f)
    key = jax.random.key(0)
    with pytest.raises(ArgumentError, match=r"argument key of f: .*key<fry>.*random\.key_data"):
        (jax.jit(g) if jit else g)(X, key)
    with pytest.raises(ArgumentError, match=r"argument x\['key'\] of f: .*key<fry>"):
        jax.vmap(lambda key: g({"key": key}, 1))(jax.random.split(key))
    np.testing.assert_array_equal(g(X, jax.random.key_data(key)), X)


@from_jax
@pytest.mark.parametrize("dtype", ["int4", "float4_e2m1fn", "float8_e4m3b11fnuz"])
def test_an_argument_of_a_dtype_that_the_function_cannot_have(pair, dtype):
    def f(x):
        return x

    with pytest.raises(ArgumentError, match=rf"argument x of f: \w+ has no dtype {dtype}\. Conv"):
        bridged(pair, f)(jnp.ones(3, dtype))


FROM_TORCH = ["jax", "mlx"]


@pytest.mark.parametrize("away", FROM_TORCH)
def test_a_tensor_that_requires_grad(away):
    torch = pytest.importorskip("torch")
    target = kit(away)
    f = bridged(("torch", away), lambda x, w: x * w)
    x, w = target.array(np.array(X)), torch.full((3,), 2.0, requires_grad=True)
    what = r"argument w of .* cannot cross: a tensor that requires grad .*`\.detach\(\)`"
    for wrong in (w, torch.nn.Parameter(w.detach()), w * 3):
        with pytest.raises(ArgumentError, match=what):
            f(x, wrong)
    np.testing.assert_array_equal(target.numpy(f(x, w.detach())), 2 * np.array(X))
    with pytest.raises((ArgumentError, NoValuesError), match="argument w of"):
        torch.func.vmap(lambda w: f(x, w))(torch.ones(2, 3))


def test_a_tensor_that_requires_grad_in_compiled_code():
    torch = pytest.importorskip("torch")
    f = bridge.torch2jax(lambda x, w: x * w)
    w = torch.ones(3, requires_grad=True)
    with pytest.raises(ArgumentError, match=r"argument w of .* requires grad"):
        jax.jit(lambda x: f(x, w))(X)


@pytest.mark.parametrize("away", FROM_TORCH)
def test_tensors_that_are_not_plain_cross(away):
    torch = pytest.importorskip("torch")
    target = kit(away)
    f = bridged(("torch", away), lambda x, w: w * 1)
    x, z = target.array(np.array(X)), torch.tensor([1 + 2j, -3j, 0.5])
    for w in (z.conj(), z.conj().imag, torch.arange(6.0)[::2], torch.ones(1).expand(3)):
        np.testing.assert_array_equal(target.numpy(f(x, w)), w.resolve_conj().resolve_neg().numpy())


@pytest.mark.parametrize("away", FROM_TORCH)
def test_a_tensor_may_change_after_the_call(away):
    torch = pytest.importorskip("torch")
    target = kit(away)
    x, w = target.array(np.array(X)), torch.full((16,), 2.0)
    f = bridged(("torch", away), lambda x, w: x * w[:3] * x)
    if away == "jax":
        y, pull = jax.vjp(lambda x: f(x, w), x)
        w.fill_(7.0)
        np.testing.assert_array_equal(pull(jnp.ones(3))[0], 4 * X)
        compiled = jax.jit(lambda x: f(x, w))
        compiled(x)
        w.fill_(1.0)
        np.testing.assert_array_equal(compiled(x), 7 * X * X)  # a constant of the program
    else:
        y = f(x, w)
        w.fill_(7.0)
    np.testing.assert_array_equal(target.numpy(y), 2 * np.array(X) ** 2)


WITH_DEVICE = [d for d in _registry.directions() if d[1] != "mlx"]
WORDS = ["gpu", "banana", "CPU", "cpu:1", "cuda:x", "meta", "mps", "", 0, object()]


@pytest.mark.parametrize("pair", WITH_DEVICE, ids="2".join)
@pytest.mark.parametrize("word", WORDS, ids=[*map(str, WORDS[:-1]), "object"])
def test_a_device_that_there_is_none_of(pair, word):
    kit(pair[0])
    kit(pair[1])
    with pytest.raises(OptionError, match=r'device=.* is no device .*Pass "cpu"'):
        bridged(pair, lambda x: x, device=word)
    bridged(pair, lambda x: x, device="cpu")


@from_jax
def test_a_device_where_the_arrays_are_not(pair):
    runner = type("Runner", (), {"changes_device": True, "execute_into": None})()
    op = Op(name="f", framework=pair[0], call=tuple, output_specs=lambda *_: ())
    with pytest.raises(bridge.DeviceError, match="f is to compute on another device than that"):
        _registry.target("jax").make_native(op, runner, None)


DOUBLES = {
    "torch": lambda xp: lambda x: x.double(),
    "mlx": lambda xp: lambda x: x.astype(xp.float64),
}
CALLS = {
    "eager": lambda f: f(X),
    "jit": lambda f: jax.jit(f)(X),
    "grad": lambda f: jax.grad(lambda x: f(x).sum())(X),
    "vmap": lambda f: jax.vmap(f)(X[None]),
}


@from_jax
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_result_of_64_bits_in_32_bit_mode(pair, call):
    f = bridged(pair, DOUBLES[pair[0]](kit(pair[0]).xp))
    what = r"result of .* is float64\[3\], which has no counterpart while JAX is in 32-bit mode\. "
    with pytest.raises(ArgumentError, match=what + r"Convert it to float32 .*jax_enable_x64"):
        call(f)
    with jax.enable_x64(True):
        assert f(X).dtype == np.float64


def test_a_complex_result_of_128_bits_names_its_own_dtype():
    torch = pytest.importorskip("torch")
    for how in ({}, {"capture": "never"}, {"lower": "xla"}):
        with pytest.raises(ArgumentError, match=r"complex128\[3\].*Convert it to complex64 in"):
            bridge.torch2jax(lambda x: x.to(torch.complex128), **how)(X)


def failing(kit, x):
    if x.sum().item() > 10:
        raise ArgumentError("sum of x too large")
    return x[: 2 + int(x.sum().item() > 5)]


EAGER = {
    "plain": lambda f, x: f(x),
    "grad": lambda f, x: jax.grad(lambda x: f(x).sum())(x),
    "vmap": lambda f, x: jax.vmap(f)(x[None]),
    "jvp": lambda f, x: jax.jvp(f, (x,), (x,)),
    "no jit": lambda f, x: jax.disable_jit()(lambda: f(x))(),
}


@from_jax
@pytest.mark.filterwarnings("ignore:.*cannot be captured as a graph:UserWarning")
@pytest.mark.parametrize("use", EAGER.values(), ids=EAGER)
def test_errors_of_eager_calls_keep_their_class(pair, use):
    f = bridged(pair, lambda x: failing(kit(pair[0]), x))
    small, large = jnp.full(3, 0.1), jnp.full(3, 5.0)
    jax.block_until_ready(use(f, small))
    with pytest.raises(ArgumentError, match=r"^sum of x too large"):
        jax.block_until_ready(use(f, large))
    with pytest.raises(ArgumentError, match=r"returned \(float32\[.*3\]\) for these values"):
        jax.block_until_ready(use(f, jnp.full(3, 2.0)))
    with pytest.raises(jax.errors.JaxRuntimeError, match="ArgumentError: sum of x too large"):
        jax.block_until_ready(jax.jit(f)(large))


def test_an_integer_out_of_range_keeps_its_class():
    torch = pytest.importorskip("torch")
    f = bridge.torch2jax(lambda x: x.sum().long() * 2**40)
    with pytest.raises(bridge.RangeError):
        jax.block_until_ready(f(X))
    with pytest.raises(KeyboardInterrupt):
        jax.block_until_ready(bridge.torch2jax(interrupted, capture="never")(X))
    assert torch.is_grad_enabled()


def interrupted(x):
    if x[1] < 0:
        raise KeyboardInterrupt
    return x
