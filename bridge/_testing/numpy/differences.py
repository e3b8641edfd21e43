"""Comparison of two arrays."""

import dataclasses

import numpy as np

from bridge._testing.numpy.arrays import is_inexact


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far values may be apart.

    Attributes:
        rtol: Relative to the expected value.
        atol: Added to that; None for `rtol` times the largest magnitude in the array, and for what
            is tiny beside 1.
        tiny: What is tiny beside 1.
    """

    rtol: float
    atol: float | None
    tiny: float

    def absolute(self, expected: np.ndarray) -> float:
        """Return the absolute tolerance for an array."""
        if self.atol is not None:
            return self.atol
        sizes = np.abs(expected[np.isfinite(expected)])
        return self.rtol * float(sizes.max(initial=0)) + self.tiny


@dataclasses.dataclass(frozen=True)
class Difference:
    """The largest difference of two arrays.

    Attributes:
        index: Where it is.
        values: The two values there.
        error: The magnitude of their difference.
        count: The number of elements that differ by more than the tolerance.
        conjugated: True if none would differ if one array were conjugated.
    """

    index: tuple[int, ...]
    values: tuple[complex, complex]
    error: float
    count: int
    conjugated: bool


def errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the magnitudes of differences; equal infinities and NaNs do not differ."""
    wide = [np.asarray(_widen(x)) for x in (found, expected)]
    with np.errstate(all="ignore"):
        distances = np.abs(wide[0] - wide[1])
        same = (found == expected) | (np.isnan(wide[0]) & np.isnan(wide[1]))
    return np.where(same, 0.0, np.where(np.isnan(distances), np.inf, distances))


def largest_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest of these magnitudes."""
    return float(errors(found, expected).max(initial=0))


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest of these magnitudes in units of the largest element."""
    finite = expected[np.isfinite(expected)]
    size = float(np.abs(_widen(finite)).max(initial=0))
    return largest_error(found, expected) / (size or 1.0)


def compare(found: np.ndarray, expected: np.ndarray, tolerance: Tolerance) -> Difference | None:
    """Return the largest difference beyond the tolerance; None if there is none."""
    distances, excess = _excess(found, expected, tolerance)
    if not (excess > 0).any():
        return None
    index = np.unravel_index(int(np.argmax(excess)), excess.shape)
    is_complex = np.iscomplexobj(found)
    conjugated = is_complex and not (_excess(found.conj(), expected, tolerance)[1] > 0).any()
    return Difference(
        tuple(map(int, index)),
        (found[index].item(), expected[index].item()),
        float(distances[index]),
        int((excess > 0).sum()),
        bool(conjugated),
    )


def _excess(
    found: np.ndarray, expected: np.ndarray, tolerance: Tolerance
) -> tuple[np.ndarray, np.ndarray]:
    """Return the errors, and by how much they are beyond the tolerance."""
    distances = errors(found, expected)
    wide = _widen(expected)
    with np.errstate(all="ignore"):
        allowed = tolerance.absolute(wide) + tolerance.rtol * np.abs(wide)
    exact = not (is_inexact(found) and is_inexact(expected))
    allowed = np.where(np.isfinite(allowed) & (not exact), allowed, 0.0)
    return distances, distances - allowed


def _widen(x: np.ndarray) -> np.ndarray:
    return x.astype("complex128" if np.iscomplexobj(x) else "float64")
