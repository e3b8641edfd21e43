"""Values across: equal, shared or copied as asked, and refused with the way out."""

import collections
import dataclasses
import enum
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest

import bridge
from bridge import to_jax, to_torch

X = np.array([[0.3, -1.2, 2.0], [1.4, -0.6, 0.9]], np.float32)


def address(x):
    """Where the first element of an array of any framework is."""
    for name in ("data_ptr", "unsafe_buffer_pointer"):
        if hasattr(x, name):
            return getattr(x, name)()
    return x.ctypes.data


def aligned(values):
    """A NumPy array that starts on 64 bytes, as JAX's own do."""
    raw = np.empty(values.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    out[...] = values
    return out


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


# Layouts.


LAYOUTS = {
    "dense": lambda x: x,
    "0-d": lambda x: x[1, 2],
    "empty": lambda x: x[:0],
    "strided": lambda x: x[:, ::2],
    "unaligned": lambda x: x.reshape(-1)[1:],
    "transposed": lambda x: x.T,
}
NUMPY_LAYOUTS = {
    **LAYOUTS,
    "0-d": lambda x: x[1, 2, ...],
    "reversed": lambda x: x[::-1, ::-1],
    "broadcast": lambda x: np.broadcast_to(x[0], (4, 3)),
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(2, 3),
    "big-endian": lambda x: x.astype(">f4"),
    "not a multiple of its stride": lambda x: np.zeros(3, "u1,f4")["f1"],
    "unaligned elements": lambda x: np.frombuffer(b"a" + x.tobytes(), np.float32, offset=1),
}
TORCH_LAYOUTS = {
    **LAYOUTS,
    "expanded": lambda x: x[0].expand(4, 3),
    "conj bit": lambda x: (x + 1j * x.flip(1)).conj(),
    "neg bit": lambda x: (x + 1j * x.flip(1)).conj().imag,
    "conj and neg bit": lambda x: (x + 1j * x.flip(1)).conj()._neg_view(),
}


@pytest.mark.parametrize("copy", [None, True])
@pytest.mark.parametrize("layout", [name for name in NUMPY_LAYOUTS if name != "reversed"])
def test_layout_of_numpy_to_torch(torch, layout, copy):
    x = NUMPY_LAYOUTS[layout](X)
    found = to_torch(x, copy=copy)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), x)


@pytest.mark.parametrize("copy", [None, True, False])
def test_negative_strides_do_not_end_the_process(torch, copy):
    """In DLPack, torch aborts on them: pytorch#188023."""
    code = f"""
        import numpy, torch, bridge
        x = numpy.arange(6.0).reshape(2, 3)[::-1, ::-1]
        try:
            found = bridge.to_torch(x, copy={copy})
        except ValueError as error:
            print("refused")
        else:
            print(found.tolist())
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    values = "[[5.0, 4.0, 3.0], [2.0, 1.0, 0.0]]"
    assert run.stdout.strip() == ("refused" if copy is False else values)


@pytest.mark.parametrize("copy", [None, True])
@pytest.mark.parametrize("layout", NUMPY_LAYOUTS.values(), ids=NUMPY_LAYOUTS)
def test_layout_of_numpy_to_jax(jax, layout, copy):
    x = layout(X)
    np.testing.assert_array_equal(np.asarray(to_jax(x, copy=copy)), x)


@pytest.mark.parametrize("copy", [None, True])
@pytest.mark.parametrize("layout", TORCH_LAYOUTS.values(), ids=TORCH_LAYOUTS)
def test_layout_of_torch_to_jax(jax, torch, layout, copy):
    x = layout(torch.tensor(X))
    found = to_jax(x, copy=copy)
    np.testing.assert_array_equal(np.asarray(found), x.resolve_conj().resolve_neg().numpy())


@pytest.mark.parametrize("copy", [None, True])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_jax_to_torch(jax, torch, layout, copy):
    x = layout(jax.numpy.asarray(X))
    np.testing.assert_array_equal(to_torch(x, copy=copy).numpy(), np.asarray(x))


# Memory.


SHARING = {
    "numpy to torch": (to_torch, lambda jax, torch: aligned(X)),
    "numpy to jax": (to_jax, lambda jax, torch: aligned(X)),
    "jax to torch": (to_torch, lambda jax, torch: jax.numpy.asarray(X) + 0),
    "torch to jax": (to_jax, lambda jax, torch: torch.from_numpy(aligned(X))),
}


@pytest.mark.parametrize(("convert", "make"), SHARING.values(), ids=SHARING)
def test_memory_is_shared_unless_a_copy_is_asked_for(jax, torch, convert, make):
    x = make(jax, torch)
    assert address(convert(x)) == address(x)
    assert address(convert(x, copy=False)) == address(x)
    assert address(convert(x, copy=True)) != address(x)


@pytest.mark.parametrize("convert", [to_torch, to_jax])
def test_own_arrays_are_themselves_unless_a_copy_is_asked_for(jax, torch, convert):
    x = torch.tensor(X) if convert is to_torch else jax.numpy.asarray(X)
    assert convert({"x": x})["x"] is x
    assert convert(x, copy=False) is x
    copied = convert(x, copy=True)
    assert address(copied) != address(x)
    np.testing.assert_array_equal(np.asarray(copied), X)


def test_own_tensor_that_requires_grad_is_itself(torch):
    x = torch.tensor(X, requires_grad=True)
    assert to_torch([x])[0] is x


def test_copy_of_an_own_tensor_that_requires_grad(torch):
    """Values cross without gradients, also from torch to torch."""
    x = torch.tensor(X, requires_grad=True)
    with pytest.raises(bridge.ArgumentError, match=r"requires grad.*detach"):
        to_torch(x, copy=True)


IMPOSSIBLE = {
    "unaligned torch to jax": (to_jax, lambda torch: torch.from_numpy(aligned(X)).flatten()[1:]),
    "strided torch to jax": (to_jax, lambda torch: torch.tensor(X)[:, ::2]),
    "expanded torch to jax": (to_jax, lambda torch: torch.tensor(X)[0].expand(4, 3)),
    "conj bit to jax": (to_jax, lambda torch: torch.tensor(X + 1j * X).conj()),
    "neg bit to jax": (to_jax, lambda torch: torch.tensor(X + 1j * X).conj().imag),
    "unaligned numpy to jax": (to_jax, lambda torch: aligned(X).reshape(-1)[1:]),
    "reversed numpy to jax": (to_jax, lambda torch: aligned(X)[::-1]),
    "read-only numpy to torch": (to_torch, lambda torch: np.frombuffer(X.tobytes(), np.float32)),
}


@pytest.mark.parametrize(("convert", "make"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_sharing_that_is_impossible_is_an_error(jax, torch, convert, make):
    with pytest.raises(ValueError, match=r"copy"):
        convert(make(torch), copy=False)


def test_read_only_numpy_array_is_not_made_writable(torch):
    """The bytes of an immutable object stay as they are."""
    raw = X.tobytes()
    to_torch(np.frombuffer(raw, np.float32)).fill_(9.0)
    assert raw == X.tobytes()


@pytest.mark.parametrize("convert", [to_torch, to_jax])
def test_shared_memory_outlives_its_first_owner(jax, torch, convert):
    x = aligned(np.linspace(0, 1, 1 << 16, dtype=np.float32))
    wanted = x.copy()
    found = convert(x)
    del x
    _ = [np.full(1 << 16, 7, np.float32) for _ in range(8)]
    np.testing.assert_array_equal(np.asarray(found), wanted)


def test_copy_is_independent(jax, torch):
    x = torch.tensor(X)
    copied = to_jax(x, copy=True)
    x.fill_(9.0)
    np.testing.assert_array_equal(np.asarray(copied), X)


# Trees.


class Thing:
    def __repr__(self):
        return "thing"


THING = Thing()


class Mode(enum.Enum):
    ON = 1


Pair = collections.namedtuple("Pair", ["a", "b"])


@dataclasses.dataclass(frozen=True)
class Named:
    a: object
    name: str


@pytest.mark.parametrize("convert", [to_torch, to_jax])
def test_trees(jax, torch, convert):
    kind = torch.Tensor if convert is to_torch else jax.Array
    arrays = [X, torch.tensor(X), jax.numpy.asarray(X)]
    given = {"z": Pair(arrays[0], [arrays[1]]), "a": Named(arrays[2], "n"), "n": (None, ())}
    found = convert(given)
    assert list(found) == ["z", "a", "n"]
    assert (type(found["z"]), type(found["a"])) == (Pair, Named)
    assert (found["a"].name, found["n"]) == ("n", (None, ()))
    for x in (found["z"].a, found["z"].b[0], found["a"].a):
        assert isinstance(x, kind)
        np.testing.assert_array_equal(np.asarray(x), X)


@pytest.mark.parametrize("convert", [to_torch, to_jax])
@pytest.mark.parametrize(
    "leaf", [None, True, 1, 2.5, 1j, "text", b"bytes", Mode.ON, THING, {1, 2}], ids=str
)
def test_other_leaves_are_themselves(jax, torch, convert, leaf):
    assert convert(leaf) is leaf
    assert convert([leaf, {"x": leaf}], copy=True) == [leaf, {"x": leaf}]


@pytest.mark.parametrize("convert", [to_torch, to_jax])
def test_given_tree_is_not_changed(jax, torch, convert):
    x = [np.ones(3, np.float32)]
    convert({"x": x})
    assert isinstance(x[0], np.ndarray)


def test_equinox_module(jax, torch):
    equinox = pytest.importorskip("equinox")
    model = equinox.nn.Linear(3, 2, key=jax.random.key(0))
    found = to_torch(model)
    assert type(found) is type(model)
    assert isinstance(found.weight, torch.Tensor)
    np.testing.assert_array_equal(found.weight.numpy(), np.asarray(model.weight))


def test_state_of_a_torch_model(jax, torch):
    model = torch.nn.Linear(3, 2)
    found = to_jax({name: x.detach() for name, x in model.state_dict().items()})
    np.testing.assert_array_equal(np.asarray(found["weight"]), model.weight.detach().numpy())


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
