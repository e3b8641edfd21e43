"""Memory that tensors share with the arrays of others."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bridge import _registry  # noqa: E402

HOME = _registry.source_arrays("torch")


def test_borrowed_memory_is_shared():
    x = np.arange(6.0).reshape(2, 3)
    (found,) = HOME.borrower("cpu")([x])
    assert found.data_ptr() == x.ctypes.data
    assert found.tolist() == x.tolist()


def test_borrowed_memory_that_is_read_only_is_copied():
    x = np.arange(6.0)
    x.flags.writeable = False
    (found,) = HOME.borrower("cpu")([x])
    found.zero_()
    assert x.tolist() == [0, 1, 2, 3, 4, 5]


def test_released_memory_is_shared():
    x = torch.randn(3)
    (capsule,) = HOME.releaser("cpu")([x])
    assert torch.utils.dlpack.from_dlpack(capsule).data_ptr() == x.data_ptr()
