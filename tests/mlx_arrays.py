"""Arrays of NumPy and of MLX, of every dtype and layout that MLX has."""

import ml_dtypes
import mlx.core as mx
import numpy as np

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
