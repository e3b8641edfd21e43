"""Checks that tangents and gradients of a function agree, since each map is the other's transpose.

NOTE [tangents that torch ignores]
`torch.func.jvp` ignores hooks, and operators that it does not know, as those of `torch.library`. So
tangents are compared with gradients. This is checked on example inputs, and on every call of what
looks at values too, since that may take another branch.

NOTE [rounding or disagreement]
The inner products of both sides differ by rounding, by that of the lowest precision that any
operator within computes in, as where `torch.autocast` is on. How much is not known: a derivative
may be 0 but for rounding. But rounding changes from point to point, and a disagreement does not. So
where a difference is large it is taken at several points nearby. Measured in bfloat16, float16 and
float32 on ten layers and formulas: the mean of the differences is at most 1.4 times their standard
deviation if the derivatives agree, and at least 40 times if a term of 10 % lacks a tangent.
"""

import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._core.errors import NoRuleError
from bridge._core.op import Positions, Specs
from bridge._core.pytree import scatter
from bridge._sources.torch.autodiff.example_inputs import (
    SEEDS,
    example_inputs,
    with_seed_input,
)
from bridge._sources.torch.autodiff.gradient_flow import is_differentiable
from bridge._sources.torch.capture.environment import preserve_rng
from bridge._sources.torch.state.dry_run import dry_run

DISAGREE = (
    "tangents and gradients disagree, where an autograd.Function or a custom operator has "
    "a gradient that cannot be differentiated itself. Give that a jvp, or use reverse mode."
)
_NEARBY_POINTS = 8

Tensors = Sequence[torch.Tensor]
# The tangents of outputs with the cotangents; the tangents of primals with the gradients.
Sides = tuple[tuple[Tensors, Tensors], tuple[Tensors, Tensors]]
# Computes both sides at primals, tangents and cotangents.
Compare = Callable[[Tensors, Tensors, Tensors], Sides]


def is_transpose(
    tangents: Any,
    gradients: Any,
    primals: Specs,
    *,
    tangent_specs: Specs,
    cotangent_specs: Specs,
    seed_argnum: int | None = None,
) -> bool:
    """Return True if a jvp and a vjp are linear maps and each the transpose of the other.

    Checks it for a few seeds of random numbers, if the primal at `seed_argnum` is one.
    """

    def compare(xs: Tensors, dx: Tensors, dy: Tensors) -> Sides:
        torch.set_rng_state(state)
        ys = tangents(*xs, *dx)
        torch.set_rng_state(state)
        return (ys, dy), (dx, gradients(*xs, *dy))

    dx, dy = example_inputs(tangent_specs, 1), example_inputs(cotangent_specs, 2)
    bounds = _integer_bounds(primals, seed_argnum)
    seeds = SEEDS if seed_argnum is not None else SEEDS[:1]

    def agrees(seed: int, bound: int) -> bool:
        xs = example_inputs(primals, bound=bound)
        if seed_argnum is not None:
            xs = with_seed_input(xs, seed_argnum, seed)
        try:
            return _agree(compare, xs, dx, dy)
        except (RuntimeError, IndexError):  # as of a singular matrix, which tells nothing
            return bound == 1

    with preserve_rng() as state:
        return all(any(agrees(seed, bound) for bound in bounds) for seed in seeds)


def _integer_bounds(primals: Specs, seed_argnum: int | None) -> tuple[int, ...]:
    """Return the bounds of the integers among example inputs that are worth trying.

    Integers that are all 0 are indices of one element, where much is undefined. Others may be out
    of bounds, and then CUDA ends the process.
    """
    indices = [i for i, spec in enumerate(primals) if not spec.differentiable and i != seed_argnum]
    varied = indices and all(spec.device == "cpu" for spec in primals)
    return (1, sys.maxsize, 3, 2) if varied else (1,)


def tangent_check(
    tangents: Any, gradients: Any, cotangent_specs: Specs, *, primal_count: int, name: str
) -> Callable[[Tensors, Tensors], None]:
    """Make a check for calls of a jvp: NOTE [tangents that torch ignores].

    It takes the arguments, which are primals and their tangents, and the results.
    """
    dy = example_inputs(cotangent_specs, seed=2)

    def check(args: Tensors, results: Tensors) -> None:
        def compare(xs: Tensors, dx: Tensors, dy: Tensors) -> Sides:
            ys = results if xs is primals else tangents(*xs, *dx)
            return (ys, dy), (dx, gradients(*xs, *dy))

        primals = args[:primal_count]
        if not _agree(compare, primals, args[primal_count:], dy, least_tolerance=0.01):
            raise NoRuleError(f"torch has no jvp of {name}: {DISAGREE}")

    return check


def gradients_are_wrong(
    function: Any, maps: tuple[Any, Any], primals: Specs, argnums: Positions, outnums: Positions
) -> bool:
    """Return True if finite differences agree with the jvp, and not with the vjp.

    `maps` are the jvp and the vjp.
    """
    xs, dx = example_inputs(primals), example_inputs(tuple(primals[i] for i in argnums), 1)
    step = max(torch.finfo(x.dtype).eps for x in dx) ** (1 / 3)

    def values(sign: int) -> list[torch.Tensor]:
        moved = [xs[i] + sign * step * d for i, d in zip(argnums, dx, strict=True)]
        outputs = function(*scatter(moved, argnums, xs))
        return [outputs[i] for i in outnums]

    generator = torch.Generator().manual_seed(2)
    try:
        with dry_run():
            slopes = [(a - b) / (2 * step) for a, b in zip(values(1), values(-1), strict=True)]
            dy = [torch.rand(y.shape, generator=generator).to(y) for y in slopes]
            tangents, gradients = maps[0](*xs, *dx), maps[1](*xs, *dy)
    except (RuntimeError, IndexError):
        return False
    expected = _inner(slopes, dy)
    errors = [abs(_inner(*pair) - expected) for pair in ((tangents, dy), (dx, gradients))]
    return errors[0] < 0.1 * errors[1]


def _agree(
    compare: Compare, xs: Tensors, dx: Tensors, dy: Tensors, least_tolerance: float = 0.0
) -> bool:
    """Return True if both sides are equal, but for rounding: NOTE [rounding or disagreement]."""
    with dry_run():
        sides = compare(xs, dx, dy)
    difference = abs(_relative_difference(sides))
    eps = max(torch.finfo(x.dtype).eps for x in [*sides[0][0], *sides[1][1]])
    if not difference > max(_tolerance(eps), least_tolerance):  # true for NaN, which says nothing
        return True
    eps = max(eps, _largest_finfo_eps(lambda: compare(xs, dx, dy)))
    if difference <= _tolerance(eps):
        return True
    differences = []
    for n in range(_NEARBY_POINTS):
        with dry_run():
            sides = compare(*([_nearby(x, n, eps) for x in tensors] for tensors in (xs, dx, dy)))
        differences.append(_relative_difference(sides))
    return not abs(statistics.mean(differences)) > 5 * statistics.stdev(differences)


def _tolerance(eps: float) -> float:
    """Return the difference that rounding to `eps` makes at most, in nearly all functions."""
    return min(1e3 * eps, 0.01)


def _largest_finfo_eps(run: Callable[[], object]) -> float:
    """Return the rounding of the lowest precision that functions of torch in `run` return."""
    with dry_run(), _PrecisionObserver() as observer:
        run()
    return observer.largest_eps


class _PrecisionObserver(TorchFunctionMode):
    """Notes the lowest precision of results; a dispatch mode would not see what is rerun.

    Attributes:
        largest_eps: The rounding of this precision.
    """

    largest_eps = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, and note the precision of what it returns."""
        results = func(*args, **(kwargs or {}))
        for y in results if isinstance(results, (list, tuple)) else [results]:
            if is_differentiable(y):
                self.largest_eps = max(self.largest_eps, torch.finfo(y.dtype).eps)
        return results


def _relative_difference(sides: Sides) -> float:
    """Return the difference between the inner products, relative to the size of their terms."""
    left, right = (_inner(*side) for side in sides)
    terms = (abs(a * b) for side in sides for a, b in _vector_pairs(*side))
    return (left - right) / size if (size := _sum(terms)) else 0.0


def _inner(xs: Tensors, ys: Tensors) -> float:
    """Return the real inner product of two lists of tensors."""
    return _sum(a * b for a, b in _vector_pairs(xs, ys))


def _sum(terms: Iterable[torch.Tensor]) -> float:
    return sum(float(term.sum()) for term in terms)


def _vector_pairs(xs: Any, ys: Any) -> Any:
    """Return pairs of tensors, as vectors of float64."""
    return zip(map(_as_double_vector, xs), map(_as_double_vector, ys), strict=True)


def _as_double_vector(x: torch.Tensor) -> torch.Tensor:
    """Return `x` as a vector of float64."""
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.double().reshape(-1)


def _nearby(x: torch.Tensor, seed: int, eps: float) -> torch.Tensor:
    """Return `x`, with floats moved towards 0 by a few times `eps`, so that domains are kept."""
    if not is_differentiable(x):
        return x
    generator = torch.Generator().manual_seed(seed)
    steps = torch.rand(x.shape, dtype=torch.float64, generator=generator)
    return x * (1 - 8 * eps * steps).to(x)
