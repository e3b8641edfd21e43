"""The arguments of a function at many points, as arrays with one axis for all of them."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from bridge._core.op import Specs
from bridge._core.spec import ArraySpec


@dataclasses.dataclass(frozen=True, eq=False)
class PointBatch:
    """Points for one callee, in every example of each batch.

    The arrays have an axis for each label, one for points and one for elements; each of these,
    but for that of elements, has size 1 where the array does not vary.

    Attributes:
        user_rule: The rule of the user that is evaluated; None for the function itself.
        points_per_example: How many points there are, for one example of each batch.
        shifted_primals: The primals at these points.
        moved_argnums: Which of them are in memory of their own, since they were moved.
        linear: For a rule of the user: cotangents by output, or tangents by primal.
        outputs: For a rule of the user: the outputs of the function at the points.
        tag: The number of the derivative that they are for: NOTE [noise].
        describe: Returns what a point is, for errors.
    """

    user_rule: Any
    points_per_example: int
    shifted_primals: Sequence[np.ndarray]
    moved_argnums: Set[int]
    linear: Mapping[int, np.ndarray]
    outputs: Mapping[int, np.ndarray] | None
    tag: int
    describe: Callable[[int], str]

    @functools.cached_property
    def sizes(self) -> tuple[int, ...]:
        """The size of each label."""
        arrays = [*self.shifted_primals, *self.linear.values(), *(self.outputs or {}).values()]
        shapes = [x.shape[:-2] for x in arrays]
        return np.broadcast_shapes(*shapes) if any(shapes) else ()

    @property
    def total(self) -> int:
        """The number of all points."""
        return math.prod(self.sizes) * self.points_per_example

    def describe_any(self, n: int) -> str:
        """Say what the point with this number among all of them is."""
        return self.describe(n % self.points_per_example)

    def stack(self, x: np.ndarray, spec: ArraySpec, *, is_own: bool = False) -> np.ndarray:
        """Return an array with one axis for all points, in memory that is the function's own.

        It is a view of one copy if it does not vary, and `x` itself if that `is_own` memory.
        """
        shape, full_shape = (
            (self.total, *spec.shape),
            (*self.sizes, self.points_per_example, x.shape[-1]),
        )
        if is_own and x.shape == full_shape:
            return x.reshape(shape)
        if math.prod(x.shape[:-1]) == 1:
            copy = np.array(x).reshape(1, *spec.shape)
            return copy if self.total == 1 else np.broadcast_to(copy, shape)
        return np.array(np.broadcast_to(x, full_shape)).reshape(shape)

    def stacked_primals(self, specs: Specs) -> list[np.ndarray]:
        """Return the primals with one axis for all points."""
        return [
            self.stack(x, spec, is_own=i in self.moved_argnums)
            for i, (x, spec) in enumerate(zip(self.shifted_primals, specs, strict=True))
        ]

    def unstack(self, values: np.ndarray, axes: int = 1) -> np.ndarray:
        """Return values with the axes of labels and of points in place of the first one."""
        rest = values.shape[1:] if axes == 2 else (math.prod(values.shape[1:]),)
        return values.reshape((*self.sizes, self.points_per_example, *rest))
