"""Tensors at which tests begin, made of NumPy arrays or of zeros, and the comparison of results."""

import numpy as np


def leaves(*points, dtype=None):
    """Tensors of these values that require gradients."""
    import torch

    return [torch.tensor(x, dtype=dtype, requires_grad=True) for x in points]


def close(actual, expected, rtol=1e-4):
    """Assert that two arrays, of whatever frameworks, have about the same values."""
    actual, expected = (
        x.numpy(force=True) if hasattr(x, "detach") else np.asarray(x) for x in (actual, expected)
    )
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-5)


def aligned(count):
    """A float32 tensor whose memory JAX borrows: its address is a multiple of 64."""
    import torch

    room = torch.zeros(count + 16)
    skip = -room.data_ptr() % 64 // 4
    return room[skip : skip + count]
