"""Arrays of NumPy and of the source as arguments, and keys among them."""

import numpy as np
import pytest

import bridge
from bridge import _registry, jax2torch
from tests.conftest import counted

X = np.array([0.3, -1.2, 2.0], np.float32)
COTANGENT = np.array([0.5, -2.0, 1.5], np.float32)


def test_numpy_array_takes_part_in_values_and_gradients(kits, bridged):
    source, target = kits
    there = bridged(lambda x, w: source.xp.sin(x) * w)
    x, weight = target.array(X), X * 3 + 1
    native = lambda x: target.xp.sin(x) * target.array(weight)
    np.testing.assert_allclose(target.numpy(there(x, weight)), target.numpy(native(x)), rtol=1e-6)
    cotangent = target.array(COTANGENT)
    (found,) = target.vjp(lambda x: there(x, weight), (x,), cotangent)
    (wanted,) = target.vjp(native, (x,), cotangent)
    np.testing.assert_allclose(target.numpy(found), target.numpy(wanted), rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"jit": False}, {"residuals": "recompute"}], ids=str)
def test_numpy_array_changed_before_backward_does_not_change_the_gradient(
    into_torch, torch, options
):
    x, weight = torch.tensor(X, requires_grad=True), X.copy()
    y = into_torch[1](lambda x, w: x * w * x, **options)(x, weight)
    weight[:] = 1e6
    (found,) = torch.autograd.grad(y, x, torch.tensor(COTANGENT))
    torch.testing.assert_close(found, 2 * x.detach() * torch.tensor(X) * torch.tensor(COTANGENT))


@pytest.mark.parametrize(
    "layout",
    {
        "reversed": lambda: np.arange(6, dtype=np.float32)[::-1],
        "strided": lambda: np.arange(12, dtype=np.float32)[::2],
        "transposed": lambda: np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "broadcast": lambda: np.broadcast_to(np.float32(3), (4,)),
        "read-only": lambda: np.frombuffer(np.arange(6, dtype=np.float32).tobytes(), np.float32),
        "big-endian": lambda: np.arange(6).astype(">f4"),
        "0-d": lambda: np.array(2.5, np.float32),
        "empty": lambda: np.zeros((0, 3), np.float32),
    }.items(),
    ids=lambda item: item[0],
)
def test_layout_of_a_numpy_array(kits, bridged, layout):
    _, target = kits
    given = layout[1]()
    found = target.numpy(bridged(lambda w: w * 2)(given))
    np.testing.assert_array_equal(found, np.asarray(given, np.float32) * 2)


FOREIGN = {
    "object": np.array([object()]),
    "str": np.array(["a", "b"]),
    "datetime": np.array(["2020-01-01"], "datetime64[D]"),
    "structured": np.zeros(2, [("a", np.float32), ("b", np.int32)]),
}


@pytest.mark.parametrize("given", FOREIGN.values(), ids=FOREIGN)
def test_numpy_array_of_a_dtype_without_counterpart(kits, bridged, given):
    _, target = kits
    with pytest.raises(bridge.ArgumentError, match=r"argument w of .*dtype"):
        bridged(lambda x, w: x)(target.array(X), given)


@pytest.mark.needs("one trace")
def test_numpy_array_does_not_retrace_when_it_changes(kits, bridged):
    _, target = kits
    fn, runs = counted(lambda x, w: x * w)
    there = bridged(fn)
    x = target.array(X)
    once = None
    for scale in (1, 2, 3):
        found = target.numpy(there(x, X * scale))
        np.testing.assert_allclose(found, X * X * scale, rtol=1e-6)
        once = once or len(runs)
    assert len(runs) == once


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int8, np.int64, np.uint16])
def test_numpy_scalar_is_a_number(into_torch, torch, kind):
    """It gives way to the dtype of arrays, and its value does not retrace where it is traced."""
    traced = _registry.source(into_torch[0].name).traces_scalars
    fn, runs = counted(lambda x, n: x * n)
    there = into_torch[1](fn)
    for number in (kind(2), kind(5)):
        found = there(torch.tensor(X), number)
        torch.testing.assert_close(found, torch.tensor(X) * int(number))
    assert len(runs) == 1 or not traced


def test_numpy_bool_is_static(into_torch, torch):
    there = into_torch[1](lambda x, flip: -x if flip else x)
    torch.testing.assert_close(there(torch.tensor(X), np.bool_(True)), -torch.tensor(X))
    torch.testing.assert_close(there(torch.tensor(X), np.bool_(False)), torch.tensor(X))


def test_array_of_the_source_is_an_argument(into_torch, torch):
    source, wrap = into_torch
    x, weight = torch.tensor(X, requires_grad=True), source.array(X * 3 + 1)
    y = wrap(lambda x, w: source.xp.sin(x) * w)(x, weight)
    (found,) = torch.autograd.grad(y, x, torch.tensor(COTANGENT))
    wanted = torch.cos(x.detach()) * torch.tensor(X * 3 + 1) * torch.tensor(COTANGENT)
    torch.testing.assert_close(found, wanted)


def test_array_of_the_source_alone(into_torch, torch):
    source, wrap = into_torch
    found = wrap(lambda w: w * 2)(source.array(X))
    assert isinstance(found, torch.Tensor)
    torch.testing.assert_close(found, torch.tensor(X) * 2)


KEYS = {
    "typed": lambda jax: jax.random.key(3),
    "typed, other algorithm": lambda jax: jax.random.key(3, impl="rbg"),
    "raw": lambda jax: jax.random.PRNGKey(3),
}


@pytest.mark.parametrize("jit", [True, False])
@pytest.mark.parametrize("make", KEYS.values(), ids=KEYS)
def test_prng_key_gives_the_randomness_of_jax(jax, torch, make, jit):
    key, x = make(jax), torch.tensor(X, requires_grad=True)
    y = jax2torch(lambda key, x: jax.random.normal(key, x.shape) * x * x, jit=jit)(key, x)
    noise = torch.tensor(np.asarray(jax.random.normal(key, X.shape)))
    torch.testing.assert_close(y, noise * x * x)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x)[0], 2 * noise * x.detach())


def test_several_prng_keys_in_an_array(jax, torch):
    keys = jax.random.split(jax.random.key(3), 3)
    draw = lambda keys: jax.vmap(lambda key: jax.random.uniform(key))(keys)
    np.testing.assert_array_equal(jax2torch(draw)(keys).numpy(), draw(keys))


def test_another_prng_key_does_not_retrace(jax, torch):
    fn, runs = counted(lambda key: jax.random.uniform(key, (4,)))
    there = jax2torch(fn)
    drawn = [there(jax.random.key(seed)) for seed in (1, 2, 1)]
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    assert len(runs) == 1


def test_prng_key_split_inside_of_a_differentiated_function(jax, torch):
    """The key among the residuals is no tensor."""

    def dropout(key, x):
        for _ in range(2):
            key, here = jax.random.split(key)
            x = jax.numpy.sin(x) * jax.random.bernoulli(here, 0.5, x.shape)
        return x

    key, x = jax.random.key(1), torch.linspace(-1, 1, 16, requires_grad=True)
    (found,) = torch.autograd.grad(jax2torch(dropout)(key, x).sum(), x)
    wanted = jax.grad(lambda x: dropout(key, x).sum())(x.detach().numpy())
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6)
