"""What MLX 0.32.4 does to arrays that others hand it; each test fails when a quirk is gone."""

import ml_dtypes
import numpy as np
import pytest

from bridge import to_mlx

mx = pytest.importorskip("mlx.core")
from tests.mlx_arrays import arange  # noqa: E402

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
