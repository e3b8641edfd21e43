"""Tensors at which tests begin, made of NumPy arrays or of zeros."""


def leaves(*points, dtype=None):
    """Tensors of these values that require gradients."""
    import torch

    return [torch.tensor(x, dtype=dtype, requires_grad=True) for x in points]


def aligned(count):
    """A float32 tensor whose memory JAX borrows: its address is a multiple of 64."""
    import torch

    room = torch.zeros(count + 16)
    skip = -room.data_ptr() % 64 // 4
    return room[skip : skip + count]
