"""Arrays of others that MLX takes: values, dtypes and layouts."""

import numpy as np
import pytest

import bridge
from bridge import to_jax, to_mlx, to_torch

mx = pytest.importorskip("mlx.core")
from tests.mlx_arrays import DTYPES, LAYOUTS, REVERSED, sample  # noqa: E402

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
