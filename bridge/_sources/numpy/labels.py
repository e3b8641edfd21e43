"""Arrays with an axis for each label of a batch: NOTE [labels of batches]."""

import math
from collections.abc import Sequence

import numpy as np

from bridge._sources.numpy.forms import Axes


def with_labels(x: np.ndarray, axes: Axes, label_count: int) -> np.ndarray:
    """Return `x` with an axis for each label, of size 1 where it lacks it, and one of elements."""
    if not axes:
        return x.reshape((*(1,) * label_count, x.size))
    for at, (_, axis) in enumerate(axes):  # each axis counts within what is left of the array
        x = np.moveaxis(x, axis + at if axis >= 0 else axis, at)
    count = len(axes)
    order = sorted(range(count), key=lambda at: axes[at][0])
    x = x.transpose(*order, *range(count, x.ndim))
    sizes = [1] * label_count
    for (label, _), size in zip(sorted(axes), x.shape[:count], strict=True):
        sizes[label] = size
    return x.reshape((*sizes, math.prod(x.shape[count:])))


def without_labels(
    x: np.ndarray, axes: Axes, sizes: Sequence[int], shape: tuple[int, ...]
) -> np.ndarray:
    """Return an array of labels and elements in this shape, with its batches at `axes`.

    It is the sum over the labels that are not among `axes`.
    """
    if not sizes:
        return x.reshape(shape)
    own = sorted(label for label, _ in axes)
    lacking = tuple(n for n in range(len(sizes)) if n not in own)
    if lacking:
        x = x.sum(lacking, keepdims=True)
    x = np.broadcast_to(x, (*(s if n in own else 1 for n, s in enumerate(sizes)), x.shape[-1]))
    x = x.reshape((*(sizes[label] for label in own), *shape))
    x = x.transpose(*(own.index(label) for label, _ in axes), *range(len(axes), x.ndim))
    for at in reversed(range(len(axes))):
        axis = axes[at][1]
        x = np.moveaxis(x, at, axis + at if axis >= 0 else axis)
    return x
