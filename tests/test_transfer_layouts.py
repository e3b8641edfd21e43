"""Layouts of arrays that are converted, and memory that is shared or copied as asked."""

import subprocess
import sys
import textwrap

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
