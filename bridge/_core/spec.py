"""Shape, dtype and device of an array, known without looking at its values.

NOTE [example inputs]
A function that looks at values cannot be traced, so what it returns is not known before it runs.
Where that is needed earlier, it is run once on example inputs: floats between 0 and 1 from a fixed
generator, and integers 0. Each source draws them in arrays of its own framework. Every call must
then return the shapes and dtypes of this run.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import Any

from bridge._core.errors import ArgumentError, RangeError

# The dtypes that 64-bit integers become for a caller without 64-bit integers.
NARROW_INTEGERS = {"int64": "int32", "uint64": "uint32"}


@dataclasses.dataclass(frozen=True, slots=True)
class ArraySpec:
    """Shape, dtype and device of an array, in no framework's own terms.

    Attributes:
        shape: Sizes of the axes.
        dtype: NumPy's name, with those of `ml_dtypes`: `float32`, `bfloat16`, `bool`.
        device: `cpu`, `cuda:0`, or `meta` for an array without values.
        weak_type: True for a Python number, whose dtype gives way to that of arrays.
        follows_mode: True for a NumPy scalar of 64 bits, which has 32 in a function that computes
            in 32 bits.
    """

    shape: tuple[int, ...]
    dtype: str
    device: str = "cpu"
    weak_type: bool = False
    follows_mode: bool = False

    @property
    def differentiable(self) -> bool:
        """True if arrays of this dtype have gradients."""
        return self.dtype.startswith(("float", "bfloat", "complex"))

    @property
    def item_size(self) -> int:
        """Bytes per element, from the digits in the name of the dtype."""
        # Up to the underscore: `float8_e4m3` has 8 bits. `bool` has no digits.
        digits = "".join(c for c in self.dtype.partition("_")[0] if c.isdigit())
        return max(1, int(digits or 8) // 8)

    def with_axis(self, axis: int | None, size: int) -> "ArraySpec":
        """Return this spec with a new axis of this size at `axis`; itself if `axis` is None."""
        if axis is None:
            return self
        shape = list(self.shape)
        shape.insert(axis if axis >= 0 else axis + len(shape) + 1, size)
        return dataclasses.replace(self, shape=tuple(shape))

    def without_axis(self, axis: int) -> "ArraySpec":
        """Return this spec without one of its axes."""
        shape = list(self.shape)
        del shape[axis]
        return dataclasses.replace(self, shape=tuple(shape))

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def differentiable_positions(specs: Sequence[ArraySpec]) -> tuple[int, ...]:
    """Return the positions of the specs with a differentiable dtype."""
    return tuple([i for i, spec in enumerate(specs) if spec.differentiable])


def batched_specs(
    specs: Iterable[ArraySpec], axes: Iterable[int | None], size: int
) -> tuple[ArraySpec, ...]:
    """Return `specs` with a new axis of this size at each of `axes` that is not None."""
    return tuple([spec.with_axis(axis, size) for spec, axis in zip(specs, axes, strict=True)])


def batch_size(arrays: Iterable[Any], axes: Iterable[int | None]) -> Any:
    """Return the number of examples that arrays have along their `axes`, which may be symbolic."""
    return next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)


def is_device_name(name: object) -> bool:
    """Return True if `name` is that of the host or of a CUDA device."""
    return isinstance(name, str) and re.fullmatch(r"cpu|cuda(:\d+)?", name) is not None


def dtype_advice(dtype: str) -> str:
    """Say what an array of a dtype that other frameworks lack can be converted to."""
    return "its data, since it is a key for random numbers" if "key<" in dtype else "another dtype"


def check_fits_32_bits(least: int, most: int, dtype: str, name: str) -> None:
    """Raise if integers between `least` and `most` do not fit into a dtype of 32 bits."""
    low, high = (0, 2**32 - 1) if dtype == "uint32" else (-(2**31), 2**31 - 1)
    for value in (least, most):
        if not low <= value <= high:
            raise RangeError(
                f"{name} holds {value}, which does not fit into {dtype}, and its caller is in "
                "32-bit mode. Return smaller integers, or floats, or call it in 64-bit mode."
            )


def check_specs_unchanged(
    actual: Sequence[ArraySpec], expected: Sequence[ArraySpec], name: str
) -> None:
    """Raise if a rerun of the function `name` returned other shapes or dtypes than before."""
    if tuple(actual) != tuple(expected):
        raise ArgumentError(
            f"{name} returned ({', '.join(map(str, actual))}) for these values, but "
            f"({', '.join(map(str, expected))}) for others of the same shapes. What is called "
            "from another framework needs results whose shapes follow from those of its "
            "arguments: pad them, or return a mask."
        )


def check_output_count(actual: Sequence[object], expected: Sequence[object], name: str) -> None:
    """Raise unless the function `name` returned as many results as are expected."""
    if len(actual) != len(expected):
        raise ArgumentError(
            f"{name} returned {len(actual)} results where {len(expected)} were expected."
        )
