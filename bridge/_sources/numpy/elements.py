"""Elements as real numbers: those of complex arrays are all real parts, then all imaginary ones."""

import math
from collections.abc import Mapping

import numpy as np

from bridge._core.spec import ArraySpec


def is_complex(spec: ArraySpec) -> bool:
    """Return True for a complex dtype."""
    return spec.dtype.startswith("complex")


def real_size(spec: ArraySpec) -> int:
    """Return the number of real elements."""
    return math.prod(spec.shape) * (2 if is_complex(spec) else 1)


def to_real_elements(x: np.ndarray) -> np.ndarray:
    """Return the real elements of `x`, along its last axis."""
    return np.concatenate([np.real(x), np.imag(x)], -1) if np.iscomplexobj(x) else x


def from_real_elements(x: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """Return the elements that have these real ones."""
    if not is_complex(spec):
        return x
    size = x.shape[-1] // 2
    return x[..., :size] + 1j * x[..., size:]


def unit_vectors(
    specs: Mapping[int, ArraySpec], label_count: int
) -> dict[int, tuple[slice, np.ndarray]]:
    """Return unit vectors of the real elements of several arrays, along a new first axis.

    For each array, the unit vectors of its own elements, and the array at all of them.
    """
    total = sum(map(real_size, specs.values()))
    units: dict[int, tuple[slice, np.ndarray]] = {}
    start = 0
    for i, spec in specs.items():
        own = slice(start, start + real_size(spec))
        rows = np.zeros((total, real_size(spec)))
        rows[own] = np.eye(real_size(spec))
        units[i] = (
            own,
            from_real_elements(rows, spec).reshape((total, *(1,) * (label_count + 1), -1)),
        )
        start = own.stop
    return units
