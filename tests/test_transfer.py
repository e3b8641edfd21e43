"""Values that are converted: equal, or refused with the way out."""

import ml_dtypes
import numpy as np
import pytest

import bridge
from bridge import to_jax, to_torch

X = np.array([[0.3, -1.2, 2.0], [1.4, -0.6, 0.9]], np.float32)
# Dtypes.


NARROW = [
    "bool",
    "int8",
    "int16",
    "int32",
    "uint8",
    "uint16",
    "uint32",
    "float16",
    "float32",
    "complex64",
]
WIDE = ("int64", "uint64", "float64", "complex128")
LOW = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def sample(name):
    if name in LOW:
        return np.array([0.5, -1.5, 2.0, 0.0]).astype(getattr(ml_dtypes, name))
    return np.array([0, 1, 77, 3]).astype(name)


@pytest.mark.parametrize("copy", [None, True])
@pytest.mark.parametrize("name", [*NARROW, *WIDE, *LOW])
def test_numpy_to_torch(torch, name, copy):
    x = sample(name)
    found = to_torch(x, copy=copy)
    assert found.dtype == getattr(torch, name)
    np.testing.assert_array_equal(found.to(torch.complex128).numpy(), x.astype(complex))


@pytest.mark.parametrize("copy", [None, True])
@pytest.mark.parametrize("name", [*NARROW, *WIDE, *LOW])
def test_numpy_to_jax(jax, name, copy):
    x = sample(name)
    with jax.enable_x64(True):
        found = to_jax(x, copy=copy)
    assert isinstance(found, jax.Array)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(found), x)


@pytest.mark.parametrize("name", [*NARROW, *WIDE, *LOW])
def test_jax_to_torch_and_back(jax, torch, name):
    with jax.enable_x64(True):
        x = jax.numpy.asarray(sample(name))
        there = to_torch(x)
        assert there.dtype == getattr(torch, name)
        np.testing.assert_array_equal(
            there.to(torch.complex128).numpy(), np.asarray(x).astype(complex)
        )
        back = to_jax(there)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(back), np.asarray(x))


@pytest.mark.parametrize("name", ["jax", "mlx"])
def test_zeros_that_torch_has_put_off(torch, name):
    pytest.importorskip({"jax": "jax", "mlx": "mlx.core"}[name])
    w = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    (slope,) = torch.autograd.grad(w.abs().sum(), w, create_graph=True)
    (x,) = torch.autograd.grad(slope.sum(), w)
    assert not x.data_ptr()  # DLPack would lend this address
    convert = getattr(bridge, f"to_{name}")
    np.testing.assert_array_equal(np.array(convert(x)), [0, 0, 0])
    with pytest.raises(bridge.CopyError, match="zeros"):
        convert(x, copy=False)


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("copy", [None, True, False])
def test_64_bits_are_not_narrowed(jax, torch, name, copy):
    x = torch.ones(3, dtype=getattr(torch, name))
    for given in (x, x.numpy()):
        with pytest.raises(bridge.ArgumentError, match=rf"{name}.*32-bit mode.*jax_enable_x64"):
            to_jax({"x": given}, copy=copy)


def test_64_bits_from_jax_do_not_need_the_mode(jax, torch):
    with jax.enable_x64(True):
        x = jax.numpy.asarray([1 / 3])
    found = to_torch(x)
    assert found.dtype == torch.float64
    assert found.item() == 1 / 3


LACKING = {
    "int4": lambda jax: jax.numpy.zeros(3, "int4"),
    "float8_e4m3b11fnuz": lambda jax: jax.numpy.zeros(3, "float8_e4m3b11fnuz"),
    "key<fry>": lambda jax: jax.random.key(0),
}


@pytest.mark.parametrize("name", LACKING)
def test_dtype_torch_lacks(jax, torch, name):
    with pytest.raises(bridge.ArgumentError, match=rf"leaf odd\[0\] cannot.*{name}"):
        to_torch({"odd": [LACKING[name](jax)]})


@pytest.mark.parametrize("kind", ["str", "datetime64[D]", "object"])
@pytest.mark.parametrize("convert", [to_torch, to_jax])
def test_numpy_array_of_no_numbers(jax, torch, convert, kind):
    with pytest.raises(bridge.ArgumentError, match=r"leaf odd cannot.*dtype"):
        convert({"odd": np.zeros(2, kind)})


def test_raw_prng_key_is_an_array(jax, torch):
    key = jax.random.PRNGKey(7)
    assert to_torch(key).tolist() == np.asarray(key).tolist()


# What is refused.


def test_tensor_that_requires_grad(jax, torch):
    with pytest.raises(bridge.ArgumentError, match=r"leaf w\[1\] cannot.*requires grad.*detach"):
        to_jax({"w": [1, torch.ones(3, requires_grad=True)]})


REFUSED = {
    "sparse": (lambda torch: torch.eye(3).to_sparse(), r"sparse.*to_dense"),
    "nested": (
        lambda torch: torch.nested.nested_tensor([torch.ones(2)], layout=torch.jagged),
        r"nested.*to_padded_tensor",
    ),
    "quantized": (
        lambda torch: torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8),
        "qint8",
    ),
}


@pytest.mark.filterwarnings("ignore:.*quantiz")
@pytest.mark.parametrize(("make", "text"), REFUSED.values(), ids=REFUSED)
def test_tensor_without_counterpart(jax, torch, make, text):
    with pytest.raises(bridge.ArgumentError, match=text):
        to_jax(make(torch))


def test_meta_tensor_has_no_values(jax, torch):
    with pytest.raises(bridge.NoValuesError, match=r"meta tensor"):
        to_jax(torch.empty(3, device="meta"))


def test_tracer_has_no_values(jax, torch):
    with pytest.raises(bridge.NoValuesError, match=r"tracer.*float32\[3\]"):
        jax.jit(to_torch)(jax.numpy.ones(3))


def test_batched_tensor_has_no_values(jax, torch):
    with pytest.raises(bridge.NoValuesError, match=r"vmap"):
        torch.func.vmap(lambda x: to_torch(to_jax(x)))(torch.ones(2, 3))


def test_tensor_under_a_gradient_would_lose_it(jax, torch):
    with pytest.raises(bridge.ArgumentError, match=r"requires grad.*detach"):
        torch.func.grad(lambda x: to_torch(to_jax(x)).sum())(torch.ones(3))


@pytest.mark.parametrize("convert", [to_torch, to_jax])
def test_mask_is_not_dropped(jax, torch, convert):
    masked = np.ma.masked_array(X, X < 0)
    with pytest.raises(bridge.ArgumentError, match=r"the value cannot.*mask.*filled"):
        convert(masked)


def test_numpy_scalar_is_left_alone(torch):
    """A NumPy scalar is a number, no array."""
    given = np.float32(2.5)
    assert to_torch(given) is given
