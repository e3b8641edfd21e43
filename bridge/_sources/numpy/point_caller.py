"""Calls of a function at many points: one by one, in batches, or by an executor."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
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
        *,
        knows_results: bool = True,
    ) -> list[np.ndarray]:
        """Return the results at all points, along the first axis.

        The arrays have that axis too. `describe` says what a point is, for errors, and `as_array`
        makes an array of a result. Unless it `knows_results`, the function is called here first:
        it notes what its results are.
        """
        call = _CopyResults(fn, as_array)
        with self.counters.lock:
            self.counters.evaluations += count
            if self.vectorized:
                return self._call_batches(call, arrays, count, is_first_here=not knows_results)
            return self._call_each(call, arrays, count, describe, is_first_here=not knows_results)

    def _call_each(
        self,
        call: "_CopyResults",
        arrays: Sequence[Any],
        count: int,
        describe: Callable[[int], str],
        *,
        is_first_here: bool,
    ) -> list[np.ndarray]:
        rows = ([_point(x, n) for x in arrays] for n in range(count))
        results: list[list[np.ndarray]] = []
        try:
            for row in self._run_calls(call, rows, count, is_first_here=is_first_here):
                results.append(row)
        except Exception as error:
            if text := describe(len(results)):
                error.add_note(f"{self.name} was evaluated {text}.")
            raise
        for n, row in enumerate(results):
            self._check_shapes(results[0], row, lambda n=n: describe(n))
        return [np.stack(column) for column in zip(*results, strict=True)]

    def _call_batches(
        self, call: "_CopyResults", arrays: Sequence[Any], count: int, *, is_first_here: bool
    ) -> list[np.ndarray]:
        size = self.batch_size or count
        starts = range(0, count, size)
        batches = ([x[start : start + size] for x in arrays] for start in starts)
        parts: list[list[np.ndarray]] = []
        results = self._run_calls(call, batches, len(starts), is_first_here=is_first_here)
        for start, row in zip(starts, results, strict=True):
            self._check_first_axis(row, min(size, count - start))
            parts.append(row)
        if len(parts) == 1:
            return parts[0]
        for row in parts:
            self._check_shapes([y[0] for y in parts[0]], [y[0] for y in row], lambda: "")
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _run_calls(
        self,
        call: "_CopyResults",
        rows: Iterator[Sequence[Any]],
        count: int,
        *,
        is_first_here: bool,
    ) -> Iterator[list[np.ndarray]]:
        """Yield the results of calls, in their order."""
        self.counters.calls += count
        if self.executor is None or count == 1:
            return map(call, rows)
        first = [call(next(rows))] if is_first_here else []
        return itertools.chain(first, self.executor.map(call, rows))

    def _check_shapes(
        self,
        first: Sequence[np.ndarray],
        row: Sequence[np.ndarray],
        describe: Callable[[], str],
    ) -> None:
        if [y.shape for y in row] != [y.shape for y in first]:
            where = f" ({describe()})" if describe() else ""
            raise ArgumentError(
                f"{self.name} returned {_shapes(first)} at one point and {_shapes(row)} at another"
                f"{where}. Shapes have to be the same everywhere."
            )

    def _check_first_axis(self, row: Sequence[np.ndarray], count: int) -> None:
        for i, y in enumerate(row):
            if y.ndim == 0 or len(y) != count:
                spec = ArraySpec(y.shape, y.dtype.name)
                raise ArgumentError(
                    f"{self.name} is vectorized, but its result {i} is {spec} for {count} points: "
                    "results have to have the leading axis of the arguments, of the same length."
                )


@dataclasses.dataclass(frozen=True)
class AsArray:
    """Copies a result into an array of its own, also in another process.

    Attributes:
        dtypes: The dtypes that Python numbers become, by class; others keep their own.
    """

    dtypes: dict[type, np.dtype]

    def __call__(self, y: Any) -> np.ndarray:
        return np.array(y, self.dtypes.get(type(y)))


@dataclasses.dataclass(frozen=True)
class _CopyResults:
    """Calls a function, and copies its results where it runs: it may return one buffer again."""

    fn: Function
    as_array: Callable[[Any], np.ndarray]

    def __call__(self, row: Sequence[Any]) -> list[np.ndarray]:
        return [self.as_array(y) for y in self.fn(*row)]


def _point(x: Any, n: int) -> Any:
    """Return what a function gets for a point: an array of its own, or a generator."""
    return np.array(x[n]) if isinstance(x, np.ndarray) else x[n]


def _shapes(row: Sequence[np.ndarray]) -> str:
    return ", ".join(str(ArraySpec(y.shape, y.dtype.name)) for y in row)
