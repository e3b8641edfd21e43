"""Making of the arrays that tests pass in."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bridge._core.errors import ArgumentError

_OF_NUMBERS = {"f": "float32", "c": "complex64", "i": "int32", "u": "uint32", "b": "bool"}
_COMPLEX = {"float64": "complex128", "complex128": "complex128"}
_REAL = {"complex64": "float32", "complex128": "float64"}
_INEXACT = ("float", "bfloat", "complex")
_SCALES = (1.0, 0.875, 0.75)


def make(values: Any, dtype: str | None) -> np.ndarray:
    """Make an array; without `dtype`, one of 32 bits unless `values` is an array."""
    host = np.asarray(values)
    if dtype is None:
        is_array = isinstance(values, (np.ndarray, np.generic))
        return host if is_array else host.astype(_OF_NUMBERS.get(host.dtype.kind, host.dtype))
    if np.iscomplexobj(host) and np.dtype(dtype).kind != "c":
        raise ArgumentError(
            f"complex values have no counterpart in dtype={dtype!r}. Pass a complex dtype, or the "
            "real parts."
        )
    return host.astype(dtype)


def is_scalar(x: Any) -> bool:
    """Return True for what NumPy returns instead of an array of numbers without axes."""
    others = (np.flexible, np.object_, np.datetime64, np.timedelta64)
    return isinstance(x, np.generic) and not isinstance(x, others)


def is_inexact(x: np.ndarray) -> bool:
    """Return True for floating-point and complex numbers, those of `ml_dtypes` among them."""
    return x.dtype.name.startswith(_INEXACT)


def is_inexact_name(dtype: str) -> bool:
    """Return True for the name of a dtype of real or complex numbers."""
    try:
        return np.dtype(dtype).name == dtype and dtype.startswith(_INEXACT)
    except TypeError:
        return False


def with_precision(x: np.ndarray, dtype: str) -> np.ndarray:
    """Convert floating-point numbers to `dtype`, and complex ones to one of that precision."""
    if not is_inexact(x):
        return x
    return x.astype(_COMPLEX.get(dtype, "complex64") if np.iscomplexobj(x) else dtype)


def swap_ends(x: np.ndarray) -> np.ndarray:
    """Return `x` with the first and the last axis exchanged, in memory too."""
    return np.ascontiguousarray(x.swapaxes(0, -1))


def with_gaps(x: np.ndarray) -> np.ndarray:
    """Return an array of which every second element along the last axis, from 1 on, is `x`."""
    spread = np.repeat(x, 2, axis=-1)
    spread[..., ::2] = np.nan if is_inexact(x) else 0
    return spread


def draw(like: Sequence[np.ndarray], random: Any) -> list[np.ndarray]:
    """Draw numbers that every precision has, nowhere 0 and different everywhere, like arrays."""
    return [_draw(x, random) for x in like]


def _draw(like: np.ndarray, random: Any) -> np.ndarray:
    def parts() -> np.ndarray:
        return random.integers(1, 33, like.shape) / 16 * random.choice([-1, 1], like.shape)

    values = parts() + 1j * parts() if np.iscomplexobj(like) else parts()
    return np.asarray(values).astype(like.dtype)


def balance(xs: Sequence[np.ndarray], sizes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return arrays divided by the sizes of others, rounded to powers of two, so that all count."""
    return [_balance(x, size) for x, size in zip(xs, sizes, strict=True)]


def _balance(x: np.ndarray, size: np.ndarray) -> np.ndarray:
    finite = [value for value in magnitudes(size) if 0 < value < np.inf]
    if not finite:
        return x
    limit = 8 if precision(x.dtype.name) > precision("float32") else 30  # what the dtype has
    exponent = int(np.clip(np.round(np.log2(max(finite))), -limit, limit))
    return x * np.asarray(2.0**-exponent).astype(x.dtype)


def draw_real(like: np.ndarray, random: Any) -> np.ndarray:
    """Draw such numbers without imaginary parts, in the dtype of an array."""
    return _draw(np.real(like), random).astype(like.dtype)


def inner_product(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> float:
    """Return the sum of products of all elements, of which it takes the real part."""
    pairs = zip(xs, ys, strict=True)
    return float(sum(np.real(x * y).astype("float64").sum() for x, y in pairs))


def generator(seed: int) -> np.random.Generator:
    """Return the generator of random numbers that follows from `seed`."""
    return np.random.default_rng(seed)


def batch(x: np.ndarray) -> np.ndarray:
    """Return three examples that differ in scale, which leaves signs and order as they are."""
    return np.stack([x * np.asarray(scale).astype(x.dtype) for scale in _SCALES])


def examples(batches: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Return the arrays of each example."""
    return [[x[i] for x in batches] for i in range(len(_SCALES))]


def stack(results: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """Return the results for each example as batches."""
    return [np.stack(arrays) for arrays in zip(*results, strict=True)]


def is_complex(x: np.ndarray) -> bool:
    """Return True for complex numbers."""
    return np.iscomplexobj(x)


def magnitudes(x: np.ndarray) -> list[float]:
    """Return the magnitude of each element, in order."""
    return [abs(value) for value in x.ravel().astype("complex128").tolist()]


def nudge(x: np.ndarray, index: int, step: complex) -> np.ndarray:
    """Return a copy of `x` with `step` added to one element, counted in order."""
    moved = x.copy(order="C")
    # With the parts by themselves, a step along one leaves the other as it is.
    part: Any = np.imag(moved) if step.imag else np.real(moved)
    part.flat[index] += np.asarray(step.imag or step.real).astype(part.dtype)
    return moved


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """Return the distance of arrays that differ in one element at most."""
    wide = [each.astype("complex128") for each in (x, y)]
    return float(np.abs(wide[0] - wide[1]).max(initial=0))


def fill(like: np.ndarray, values: Sequence[complex]) -> np.ndarray:
    """Return an array like another with these elements."""
    found = np.asarray(values, "complex128").reshape(like.shape)
    return (found if np.iscomplexobj(like) else np.real(found)).astype(like.dtype)


def cast(xs: Sequence[np.ndarray], like: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return arrays in the dtypes of others."""
    return [x.astype(y.dtype) for x, y in zip(xs, like, strict=True)]


def kind(x: np.ndarray) -> str:
    """Return what the elements are: complex, real or whole numbers, or truth values."""
    if is_inexact(x):
        return "complex numbers" if np.iscomplexobj(x) else "real numbers"
    return "truth values" if x.dtype.kind == "b" else "whole numbers"


def precision(dtype: str) -> float:
    """Return the distance of 1 to the next number of a dtype."""
    import ml_dtypes  # which knows the dtypes of NumPy too

    return float(ml_dtypes.finfo(_REAL.get(dtype, dtype)).eps)
