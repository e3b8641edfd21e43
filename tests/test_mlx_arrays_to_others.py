"""Arrays of MLX that others take: shared where that can be, dense where it has to be."""

import gc
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import bridge
from bridge import _registry, to_jax, to_mlx, to_torch

mx = pytest.importorskip("mlx.core")
from bridge._arrays.mlx import own_memory  # noqa: E402
from tests.mlx_arrays import LAYOUTS, arange  # noqa: E402

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
