"""What a call costs as the work grows: with more arrays, plans, levels of a tree, and threads."""

import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import mlx.core as mx
import torch

from benchmarks._machine import Effort
from benchmarks._results import Bar, Measurement
from benchmarks._timing import Step, timed
from bridge import jax2mlx, jax2torch, mlx2jax, mlx2torch, torch2jax, torch2mlx

_ARRAYS, _LEVELS, _THREADS = (1, 3, 10, 30, 100, 300, 1000), (1, 2, 3, 4, 5, 6, 8, 10), (1, 2, 4, 8)
_PLANS, _QUICK_PLANS = (1, 3, 10, 30, 100, 300, 1000), (1, 3, 10, 30, 100, 300)
_SIZE, _CALLS_OF_A_THREAD = 4, 20
Wrap = Callable[..., Any]
# For each direction the wrapper, an array of the caller, and what waits for results.
_DIRECTIONS: dict[str, tuple[Wrap, Callable[[], Any], Callable[[Any], object]]] = {
    "jax2torch": (jax2torch, lambda: torch.ones(_SIZE), lambda y: y),
    "torch2jax": (torch2jax, lambda: jnp.ones(_SIZE), jax.block_until_ready),
    "mlx2torch": (mlx2torch, lambda: torch.ones(_SIZE), lambda y: y),
    "mlx2jax": (mlx2jax, lambda: jnp.ones(_SIZE), jax.block_until_ready),
    "torch2mlx": (torch2mlx, lambda: mx.ones(_SIZE), lambda y: mx.eval(y)),
    "jax2mlx": (jax2mlx, lambda: mx.ones(_SIZE), lambda y: mx.eval(y)),
}


def growth(effort: Effort) -> Iterator[Measurement]:
    """Each kind of growth in each direction."""
    for name in _DIRECTIONS:
        yield _measure(effort, name, "arrays", _with_arrays(name), (1000, 100, 12))
        yield _measure(effort, name, "levels", _with_levels(name), (10, 5, 2.4))
        yield _measure(effort, name, "threads", _with_threads(name), (8, 1, 2))
    for name in ("jax2torch", "mlx2torch"):  # a graph of torch takes a hundred times as long
        plans = _QUICK_PLANS if effort.quick else _PLANS
        yield _measure(effort, name, "plans", _with_plans(name, plans), (plans[-1], 100, 1.3))


def _measure(
    effort: Effort,
    direction: str,
    kind: str,
    steps: Mapping[int, tuple[Step, int]],
    bar: tuple[int, int, float],
) -> Measurement:
    """Time steps by their size; each makes a number of calls."""
    name = lambda size: f"{size} {kind}"
    taken = timed(
        {name(size): step for size, (step, _) in steps.items()},
        seconds=effort.seconds(4),
        scale=1e6,
    )
    per_call = {
        name(size): [seconds / calls for seconds in taken[name(size)]]
        for size, (_, calls) in steps.items()
    }
    large, small, limit = bar
    return Measurement(
        title=f"a call of {direction} by {kind}",
        unit="us",
        values=per_call,
        reference=name(small),
        bars=[Bar(f"{large} {kind}, within {limit:g}x {small}", name(large), name(small), limit)],
        grows_by=kind,
    )


def _doubled(tree: Any) -> Any:
    """Double each array of a tree of dicts."""
    if isinstance(tree, dict):
        return {name: _doubled(x) for name, x in tree.items()}
    return tree + tree


def _with_arrays(direction: str) -> dict[int, tuple[Step, int]]:
    make = _DIRECTIONS[direction][1]
    trees = {n: {f"layer{i}.weight": make() for i in range(n)} for n in _ARRAYS}
    return _calls(direction, trees)


def _with_levels(direction: str) -> dict[int, tuple[Step, int]]:
    trees: dict[int, Any] = {}
    for levels in _LEVELS:
        tree = _DIRECTIONS[direction][1]()
        for _ in range(levels):
            tree = {"inner": tree, "own": _DIRECTIONS[direction][1]()}
        trees[levels] = tree
    return _calls(direction, trees)


def _calls(direction: str, trees: Mapping[int, Any]) -> dict[int, tuple[Step, int]]:
    wrap, _, wait = _DIRECTIONS[direction]
    function = wrap(_doubled)

    def step(tree: Any) -> Step:
        return lambda: wait(function(tree))

    return {size: (step(tree), 1) for size, tree in trees.items()}


def _with_plans(direction: str, counts: Iterable[int]) -> dict[int, tuple[Step, int]]:
    """Calls that go round so many static values, each of which has a plan of its own."""
    wrap, make, wait = _DIRECTIONS[direction]

    def step(count: int) -> Step:
        function, x = wrap(lambda x, n: x + n, static_argnames="n"), make()
        return lambda: [wait(function(x, n=n)) for n in range(count)]

    return {count: (step(count), count) for count in counts}


def _with_threads(direction: str) -> dict[int, tuple[Step, int]]:
    """Calls of one function from so many threads at the same time."""
    wrap, make, wait = _DIRECTIONS[direction]
    function = wrap(_doubled)

    def work() -> None:
        x = make()
        for _ in range(_CALLS_OF_A_THREAD):
            wait(function(x))

    def step(count: int) -> Step:
        pool = concurrent.futures.ThreadPoolExecutor(count)
        return lambda: [done.result() for done in [pool.submit(work) for _ in range(count)]]

    return {count: (step(count), count * _CALLS_OF_A_THREAD) for count in _THREADS}
