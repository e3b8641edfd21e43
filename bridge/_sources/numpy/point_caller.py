"""Calls of a function at many points: one by one, in batches, or by an executor."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np

from bridge._core.errors import ArgumentError
from bridge._core.evaluation_counters import EvaluationCounters
from bridge._core.spec import ArraySpec

Function = Callable[..., Sequence[Any]]  # of flat arrays


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PointCaller:
    """How a function is called at many points.

    Attributes:
        name: Its name in errors.
        vectorized: True if it takes all points at once, along the first axis.
        batch_size: The number of points in one call at most; None for any number.
        executor: Runs the calls; None for one after the other.
        counters: Counts them.
    """

    name: str
    vectorized: bool
    batch_size: int | None
    executor: Executor | None
    counters: EvaluationCounters

    def __call__(
        self,
        fn: Function,
        arrays: Sequence[Any],
        count: int,
        describe: Callable[[int], str],
        as_array: Callable[[Any], np.ndarray],
    ) -> list[np.ndarray]:
        """Return the results at all points, along the first axis.

        The arrays have that axis too. `describe` says what a point is, for errors, and `as_array`
        makes an array of a result.
        """
        with self.counters.lock:
            self.counters.evaluations += count
            if self.vectorized:
                return self._call_batches(fn, arrays, count, as_array)
            return self._call_each(fn, arrays, count, describe, as_array)

    def _call_each(
        self,
        fn: Function,
        arrays: Sequence[Any],
        count: int,
        describe: Callable[[int], str],
        as_array: Callable[[Any], np.ndarray],
    ) -> list[np.ndarray]:
        rows = ([_point(x, n) for x in arrays] for n in range(count))
        results: list[list[np.ndarray]] = []
        try:
            for row in self._run_calls(fn, rows, count):
                results.append([as_array(y) for y in row])
        except Exception as error:
            if text := describe(len(results)):
                error.add_note(f"{self.name} was evaluated for a derivative, at {text}.")
            raise
        for n, row in enumerate(results):
            if [y.shape for y in row] != [y.shape for y in results[0]]:
                raise ArgumentError(
                    f"{self.name} returned {_shapes(results[0])} at one point and {_shapes(row)} "
                    f"at another ({describe(n)}). Shapes have to be the same everywhere."
                )
        return [np.stack(column) for column in zip(*results, strict=True)]

    def _call_batches(
        self,
        fn: Function,
        arrays: Sequence[Any],
        count: int,
        as_array: Callable[[Any], np.ndarray],
    ) -> list[np.ndarray]:
        size = self.batch_size or count
        starts = range(0, count, size)
        batches = ([x[start : start + size] for x in arrays] for start in starts)
        parts: list[list[np.ndarray]] = []
        for start, row in zip(starts, self._run_calls(fn, batches, len(starts)), strict=True):
            parts.append([as_array(y) for y in row])
            self._check_first_axis(parts[-1], min(size, count - start))
        if len(parts) == 1:
            return parts[0]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _run_calls(
        self, fn: Function, rows: Iterable[Sequence[np.ndarray]], count: int
    ) -> Iterator[Sequence[Any]]:
        """Yield the results of calls, in their order."""
        self.counters.calls += count
        if self.executor is None or count == 1:
            return (fn(*row) for row in rows)
        return self.executor.map(_Spread(fn), rows)

    def _check_first_axis(self, row: Sequence[np.ndarray], count: int) -> None:
        for i, y in enumerate(row):
            if y.ndim == 0 or len(y) != count:
                spec = ArraySpec(y.shape, y.dtype.name)
                raise ArgumentError(
                    f"{self.name} is vectorized, but its result {i} is {spec} for {count} points: "
                    "results have to have the leading axis of the arguments, of the same length."
                )


@dataclasses.dataclass(frozen=True)
class _Spread:
    """Calls a function with a sequence of arguments, also in another process."""

    fn: Function

    def __call__(self, row: Sequence[np.ndarray]) -> Sequence[Any]:
        return self.fn(*row)


def _point(x: Any, n: int) -> Any:
    """Return what a function gets for a point: an array of its own, or a generator."""
    return np.array(x[n]) if isinstance(x, np.ndarray) else x[n]


def _shapes(row: Sequence[np.ndarray]) -> str:
    return ", ".join(str(ArraySpec(y.shape, y.dtype.name)) for y in row)
