"""Arrays of MLX: values to and from it, and what MLX would do silently."""

import gc
import subprocess
import sys
import textwrap

import ml_dtypes
import numpy as np
import pytest

import bridge
from bridge import _registry, to_jax, to_mlx, to_torch

mx = pytest.importorskip("mlx.core")
from bridge._arrays.mlx import own_memory  # noqa: E402

DTYPES = [
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64"),
]


def sample(name):
    dtype = ml_dtypes.bfloat16 if name == "bfloat16" else name
    imaginary = 0.5j if name == "complex64" else 0
    return (np.array([[0, 1, 77], [3, 2, 5]]) + imaginary).astype(dtype)


def arange(name="int32"):
    """0 to 5 in two rows, made by MLX alone."""
    return mx.arange(6).astype(getattr(mx, name)).reshape(2, 3)


# Each expression gives values that do not fill their memory in order.
LAYOUTS = {
    "dense": lambda x: x,
    "transposed": lambda x: x.T,
    "rows reversed": lambda x: x[::-1],
    "columns reversed": lambda x: x[:, ::-1],
    "every other": lambda x: x[:, ::2],
    "offset": lambda x: x[1:],
    "0-d": lambda x: x[1, 2],
    "zero-size": lambda x: x[:, 3:],
    "10-d": lambda x: x.reshape(1, 1, 1, 1, 2, 1, 1, 1, 1, 3),
}
REVERSED = ("rows reversed", "columns reversed")


# From others to MLX.


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("copy", [None, True])
def test_numpy_to_mlx(name, copy):
    x = sample(name)
    found = to_mlx(x, copy=copy)
    assert str(found.dtype) == f"mlx.core.{name}"
    assert found.tolist() == x.astype(complex if name == "complex64" else float).tolist()


@pytest.mark.parametrize("name", DTYPES)
def test_torch_to_mlx_and_back(torch, name):
    x = to_torch(sample(name))
    there = to_mlx({"x": [x]})["x"][0]
    assert str(there.dtype) == f"mlx.core.{name}"
    back = to_torch(there)
    assert back.dtype == x.dtype
    assert torch.equal(back, x)
    assert there.tolist() == x.tolist()


@pytest.mark.parametrize("name", DTYPES)
def test_jax_to_mlx_and_back(jax, name):
    with jax.enable_x64(True):
        x = jax.numpy.asarray(sample(name))
        there = to_mlx(x)
        assert str(there.dtype) == f"mlx.core.{name}"
        back = to_jax(there)
    assert back.dtype == x.dtype
    np.testing.assert_array_equal(np.asarray(back), np.asarray(x))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_numpy_layouts_to_mlx(layout, name):
    x = LAYOUTS[layout](sample(name))
    assert to_mlx(x).tolist() == np.asarray(x).astype(float).tolist()


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in REVERSED])
def test_torch_layouts_to_mlx(torch, layout):
    x = LAYOUTS[layout](torch.arange(6.0).reshape(2, 3))
    assert to_mlx(x).tolist() == x.tolist()


def test_gaps_in_memory_are_not_copied_along(torch):
    x = torch.zeros(1 << 20, 64)[:, 0]  # 4 MB of 256
    before = mx.get_active_memory()
    y = to_mlx(x)
    assert mx.get_active_memory() - before <= 2 * y.nbytes


def test_conj_and_neg_bits(torch):
    z = torch.tensor([1 + 2j, 3 - 1j])
    assert to_mlx(z.conj()).tolist() == [1 - 2j, 3 + 1j]
    assert to_mlx(z.conj().imag).tolist() == [-2.0, 1.0]


def test_broadcast_strides(torch):
    assert to_mlx(torch.ones(1).expand(5)).tolist() == [1.0] * 5
    assert to_mlx(np.broadcast_to(np.float32([1, 2]), (3, 2))).tolist() == [[1.0, 2.0]] * 3


def test_byte_order():
    assert to_mlx(np.array([1.5, 2], ">f4")).tolist() == [1.5, 2.0]


def test_mlx_owns_what_it_takes(torch):
    for x in (torch.arange(3.0), np.arange(3.0)):
        y = to_mlx(x)
        x[0] = 7
        assert y.tolist() == [0.0, 1.0, 2.0]


def test_64_mb(torch):
    x = torch.arange(1 << 24, dtype=torch.float32)
    assert torch.equal(to_torch(to_mlx(x)), x)


@pytest.mark.parametrize("name", ["complex128", "float8_e4m3fn", "float8_e5m2"])
def test_dtype_mlx_lacks(torch, name):
    x = torch.zeros(2).to(getattr(torch, name))
    for given in (x, bridge.to_torch(x).numpy() if name == "complex128" else x):
        with pytest.raises(bridge.ArgumentError, match=rf"leaf x cannot.*no dtype {name}.*Convert"):
            to_mlx({"x": given})


def test_what_has_no_values(torch):
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(2)
    for x in (fake, torch.ones(2, device="meta")):
        with pytest.raises(bridge.NoValuesError, match="without memory has no values"):
            to_mlx(x)


def test_tensors_that_would_lose_something(torch):
    with pytest.raises(bridge.ArgumentError, match=r"requires grad.*Pass `.detach\(\)`"):
        to_mlx(torch.ones(2, requires_grad=True))
    with pytest.raises(bridge.ArgumentError, match="sparse"):
        to_mlx(torch.eye(2).to_sparse())


def test_mlx_cannot_share(torch):
    for x in (torch.ones(2), np.ones(2)):
        with pytest.raises(bridge.CopyError, match="MLX copies whatever"):
            to_mlx(x, copy=False)


def test_trees_of_modules_keep_their_class(torch):
    nn = pytest.importorskip("mlx.nn")
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    there = to_torch(model)
    assert isinstance(there.layers[0].weight, torch.Tensor)
    back = to_mlx(there)
    x = mx.ones((4, 3))
    assert type(back) is nn.Sequential
    assert back.eval()(x).tolist() == model.eval()(x).tolist()
    assert back.layers[0].weight is not model.layers[0].weight


# From MLX to others.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["int32", "bfloat16"])
def test_mlx_layouts_to_others(torch, jax, layout, name):
    """A negative stride would end the process in torch."""
    x = LAYOUTS[layout](arange(name))
    assert to_torch(x).tolist() == x.tolist()
    assert to_jax(x).tolist() == x.tolist()
    assert to_torch(x, copy=True).tolist() == x.tolist()


REPEATED = {
    "repeat": lambda: mx.repeat(mx.array([1.0]), 3),
    "broadcast": lambda: mx.broadcast_to(mx.array([[1.0], [2.0]]), (2, 3)),
    "gradient of a sum": lambda: mx.grad(mx.sum)(mx.zeros((2, 3))),
    "windows": lambda: mx.as_strided(mx.arange(5.0), (3, 3), (1, 1)),
}


@pytest.mark.parametrize("made", REPEATED)
def test_elements_that_share_memory_are_copied(torch, made):
    x = REPEATED[made]()
    expected = np.array(x)
    tensor = to_torch(x)
    tensor.view(-1)[1] = expected.reshape(-1)[1] = 9
    np.testing.assert_array_equal(tensor, expected)
    assert 9 not in np.array(x)
    with pytest.raises(bridge.CopyError, match="strides that cannot be shared"):
        to_torch(x, copy=False)


def test_broadcasts_of_mlx(torch, jax):
    x = mx.broadcast_to(mx.array([1.0, 2.0]), (3, 2))
    assert to_torch(x).tolist() == to_jax(x).tolist() == [[1.0, 2.0]] * 3


def test_mlx_to_torch_shares_memory(torch):
    x = mx.arange(3.0)
    to_torch(x, copy=False)[0] = 7
    assert x.tolist() == [7.0, 1.0, 2.0]
    to_torch(x, copy=True)[0] = 9
    assert x.tolist() == [7.0, 1.0, 2.0]
    with pytest.raises(bridge.CopyError, match="strides"):
        to_torch(x[::-1], copy=False)


def test_shared_memory_outlives_the_array(torch):
    x = mx.arange(3.0) + 1
    y = to_torch(x)
    z = x * 2  # may be computed in place where nobody else has x
    del x
    gc.collect()
    assert z.tolist() == [2.0, 4.0, 6.0]
    assert y.tolist() == [1.0, 2.0, 3.0]


def test_64_bits_are_not_narrowed_in_jax(jax):
    x = to_mlx(np.array([1 / 3]))
    with pytest.raises(bridge.ArgumentError, match=r"float64.*32-bit mode"):
        to_jax(x)


@pytest.mark.parametrize("transform", ["vmap", "compile"])
def test_no_values_inside_of_a_transformation(torch, transform):
    f = getattr(mx, transform)(lambda x: x * float(to_torch(x).sum()))
    with pytest.raises(bridge.NoValuesError, match=r"inside of mx\.vmap or mx\.compile"):
        f(mx.ones((2, 3)))


def test_an_array_put_off_in_another_thread(torch):
    # MLX 0.32 may abort at exit after it has refused this.
    code = """
        import os
        import threading
        import mlx.core as mx
        import bridge

        x, found = mx.sin(mx.ones(3)), []

        def wanted():
            try:
                bridge.to_torch(x)
            except bridge.NoValuesError as error:
                found.append(str(error))

        thread = threading.Thread(target=wanted)
        thread.start()
        thread.join()
        assert "in one thread and is evaluated in another" in found[0]
        os._exit(0)
    """
    run(code)


def run(code):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert process.returncode == 0, process.stderr


# The face, as calls use it.


@pytest.fixture
def face():
    return _registry.source_arrays("mlx")


def addresses(torch, capsules):
    return [torch.utils.dlpack.from_dlpack(c).data_ptr() for c in capsules]


def test_owned_arrays_are_alone_in_their_memory(torch, face):
    x = mx.arange(4.0)
    mx.eval(x)
    shared = [x, x, x.reshape(2, 2), mx.contiguous(x), x + 1, x + 1]
    capsules = face.releaser("cpu")(own_memory(shared))
    tensors = [torch.utils.dlpack.from_dlpack(c) for c in capsules]
    assert len({t.data_ptr() for t in tensors}) == len(tensors)
    for t in tensors:
        t.fill_(7)
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_released_arrays_are_dense(torch, face, layout):
    x = LAYOUTS[layout](arange())
    found = torch.utils.dlpack.from_dlpack(face.releaser("cpu")([x])[0])
    assert found.is_contiguous()
    assert found.tolist() == x.tolist()


def test_lent_arrays_are_dense_and_borrowed_ones_copies(face):
    x = arange()
    (lent,) = _registry.target_arrays("mlx").lender("cpu")([x.T])
    assert lent.flags.c_contiguous
    (borrowed,) = face.borrower("cpu")([lent])
    lent[...] = 9
    assert borrowed.tolist() == x.T.tolist()


# What MLX 0.32.4 does, and our face is there for. One of these fails when MLX changes it.


def test_quirk_float64_is_narrowed_on_import():
    assert mx.array(np.ones(2)).dtype == mx.float32
    assert to_mlx(np.ones(2)).dtype == mx.float64


def test_quirk_complex128_is_narrowed_on_import():
    assert mx.array(np.ones(2, complex)).dtype == mx.complex64


def test_quirk_conj_and_neg_bits_are_ignored(torch):
    z = torch.tensor([1 + 2j])
    assert mx.array(z.conj()).tolist() == z.tolist()
    assert mx.array(z.conj().imag).tolist() == [2.0]


def test_quirk_negative_strides_are_refused():
    with pytest.raises(ValueError, match="negative strides"):
        mx.array(np.arange(3.0)[::-1])


def test_quirk_reversed_axes_are_exported_with_negative_strides():
    assert np.asarray(arange()[::-1]).strides[0] < 0


def test_quirk_memory_on_the_cpu_is_never_shared():
    with pytest.raises(ValueError, match="without a copy"):
        mx.asarray(np.ones(2, np.float32), copy=False)


def test_quirk_gaps_are_copied_along(torch):
    x = torch.zeros(1 << 16, 64)[:, 0]
    before = mx.get_active_memory()
    y = mx.array(x)
    assert mx.get_active_memory() - before > 32 * y.nbytes


def test_quirk_exported_memory_is_writable(torch):
    x = mx.arange(3.0)
    torch.from_dlpack(x)[0] = 7
    assert x[0].item() == 7


def test_quirk_bfloat16_is_no_buffer():
    with pytest.raises(ValueError, match="bfloat16"):
        np.asarray(arange("bfloat16"))


def test_quirk_float8_is_a_bad_cast():
    with pytest.raises(RuntimeError, match="bad_cast"):
        mx.array(np.zeros(2, ml_dtypes.float8_e5m2))
