"""What is known of an array without looking at its values."""

import dataclasses
import re
from collections.abc import Sequence

from bridge._core.errors import ArgumentError, RangeError

# Integers of 64 bits, and what a caller who has no such integers gets.
NARROW_INTEGERS = {"int64": "int32", "uint64": "uint32"}


@dataclasses.dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape, dtype and device of an array, in no framework's own terms.

    Attributes:
        shape: Sizes of the axes.
        dtype: NumPy's name, with those of `ml_dtypes`: `float32`, `bfloat16`, `bool`.
        device: `cpu`, `cuda:0`, or `meta` for an array without values.
        weak_type: Whether it is a Python number, whose dtype gives way to that of arrays.
    """

    shape: tuple[int, ...]
    dtype: str
    device: str = "cpu"
    weak_type: bool = False

    @property
    def differentiable(self) -> bool:
        """Whether gradients flow through an array of this dtype."""
        return self.dtype.startswith(("float", "bfloat", "complex"))

    def with_axis(self, axis: int | None, size: int) -> "ArraySpec":
        """The same with one more axis of this size at `axis`, if that is no `None`."""
        if axis is None:
            return self
        shape = list(self.shape)
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, size)
        return dataclasses.replace(self, shape=tuple(shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def is_device(name: object) -> bool:
    """Whether it is the name of the host, or of a CUDA device."""
    return isinstance(name, str) and re.fullmatch(r"cpu|cuda(:\d+)?", name) is not None


def dtype_advice(dtype: str) -> str:
    """What an array of a dtype that others lack can be converted to."""
    return "its data, since it is a key for random numbers" if "key<" in dtype else "another dtype"


def check_range(least: int, most: int, dtype: str, name: str) -> None:
    """Raise if integers between `least` and `most` do not fit into a dtype of 32 bits."""
    low, high = (0, 2**32 - 1) if dtype == "uint32" else (-(2**31), 2**31 - 1)
    for value in (least, most):
        if not low <= value <= high:
            raise RangeError(
                f"{name} holds {value}, which does not fit into {dtype}, and its caller is in "
                "32-bit mode. Return smaller integers, or floats, or call it in 64-bit mode."
            )


def check_specs_unchanged(
    found: Sequence[ArraySpec], outputs: Sequence[ArraySpec], name: str
) -> None:
    """Raise if a function that runs anew has returned other shapes or dtypes than before."""
    if tuple(found) != tuple(outputs):
        raise ArgumentError(
            f"{name} returned ({', '.join(map(str, found))}) for these values, but "
            f"({', '.join(map(str, outputs))}) for others of the same shapes. What is called "
            "from another framework needs results whose shapes follow from those of its "
            "arguments: pad them, or return a mask."
        )


def check_output_count(found: Sequence[object], outputs: Sequence[object], name: str) -> None:
    """Raise unless the function `name` has returned as many results as there are `outputs`."""
    if len(found) != len(outputs):
        raise ArgumentError(
            f"{name} returned {len(found)} results where {len(outputs)} were expected."
        )
