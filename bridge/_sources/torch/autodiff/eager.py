"""Execution of functions that are rerun on each call, since they look at values.

NOTE [example inputs]
What such a function returns is not known before it runs. So it runs once on example inputs:
numbers between 0 and 1 from a fixed generator, and integers 0. Every call must then return the
shapes and dtypes of this run.

NOTE [tangents that torch ignores]
`torch.func.jvp` ignores hooks, and operators that it does not know, as those of `torch.library`. So
tangents are compared with gradients, since each map is the transpose of the other. This is checked
on example inputs, and on every call too, since that may take another branch.
"""

import dataclasses
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bridge._arrays.torch import ARRAYS as ARRAYS
from bridge._core.errors import NoRuleError
from bridge._core.op import Positions, Specs
from bridge._core.pytree import scatter
from bridge._core.spec import ArraySpec, check_specs_unchanged
from bridge._sources.torch.autodiff.function_calls import intercept_apply
from bridge._sources.torch.autodiff.unrecorded_outputs import TrainingRun
from bridge._sources.torch.capture.environment import default_state, with_seed
from bridge._sources.torch.capture.trace import Fun, contiguous_copy
from bridge._sources.torch.gradient_observer import GradientObserver
from bridge._sources.torch.program import Settings
from bridge._sources.torch.state.dry_run import dry_run

DISAGREE = (
    "tangents and gradients disagree, where an autograd.Function or a custom operator has "
    "a gradient that cannot be differentiated itself. Give that a jvp, or use reverse mode."
)


def is_transpose(
    tangents: Any, gradients: Any, primals: Specs, tangent_specs: Specs, cotangent_specs: Specs
) -> bool:
    """Return True if a jvp and a vjp are linear maps and each the transpose of the other.

    NOTE [tangents that torch ignores].
    """
    dx, dy = example_inputs(tangent_specs, 1), example_inputs(cotangent_specs, 2)
    state = torch.get_rng_state()

    def sides(xs: Sequence[torch.Tensor]) -> Sides:
        torch.set_rng_state(state)
        ys = tangents(*xs, *dx)
        torch.set_rng_state(state)
        return (ys, dy), (dx, gradients(*xs, *dy))

    # Integers that are all 0 are indices of one element, where much is undefined. Others may be out
    # of bounds, and then CUDA ends the process.
    varied = all(spec.device == "cpu" for spec in primals) and any(map(_may_be_index, primals))
    bounds = (1, sys.maxsize, 3, 2) if varied else (1,)
    try:
        return any(_agree_on_examples(bound, sides, primals) for bound in bounds)
    finally:
        torch.set_rng_state(state)


def follows_tangents(
    function: Any, maps: tuple[Any, Any], primals: Specs, argnums: Positions, outnums: Positions
) -> bool:
    """Return True if finite differences agree with the jvp, and not with the vjp.

    `maps` are the jvp and the vjp.
    """
    xs, dx = example_inputs(primals), example_inputs(tuple(primals[i] for i in argnums), 1)
    step = max(torch.finfo(x.dtype).eps for x in dx) ** (1 / 3)

    def values(sign: int) -> list[torch.Tensor]:
        moved = [xs[i] + sign * step * d for i, d in _pairs(argnums, dx)]
        outputs = function(*scatter(moved, argnums, xs))
        return [outputs[i] for i in outnums]

    generator = torch.Generator().manual_seed(2)
    try:
        with dry_run():
            slopes = [(a - b) / (2 * step) for a, b in _pairs(values(1), values(-1))]
            dy = [torch.rand(y.shape, generator=generator).to(y) for y in slopes]
            tangents, gradients = maps[0](*xs, *dx), maps[1](*xs, *dy)
    except (RuntimeError, IndexError):
        return False
    expected = _inner((slopes, dy))
    errors = [abs(_inner(pair) - expected) for pair in ((tangents, dy), (dx, gradients))]
    return errors[0] < 0.1 * errors[1]


def _agree_on_examples(bound: int, sides: "Callable[[Any], Sides]", primals: Specs) -> bool:
    """Return True if both sides agree on example inputs, with integers below `bound`."""
    try:
        return _agree(sides, example_inputs(primals, bound=bound))
    except (RuntimeError, IndexError):  # as of a singular matrix, which tells nothing
        return bound == 1


def _may_be_index(spec: ArraySpec) -> bool:
    return not spec.differentiable


# The tangents of outputs with the cotangents; the tangents of primals with the gradients.
Sides = tuple[tuple[Any, Any], tuple[Any, Any]]


def _agree(
    sides: Callable[[Sequence[torch.Tensor]], Sides],
    xs: Sequence[torch.Tensor],
    least: float = 0.0,
) -> bool:
    """Return True if the inner products of both sides are equal, but for rounding."""
    with dry_run():
        first = sides(xs)
    left, right = map(_inner, first)
    size = sum(
        float((_in_double(a) * _in_double(b)).abs().sum()) for p in first for a, b in _pairs(*p)
    )
    eps = max(torch.finfo(x.dtype).eps for x in [*first[0][0], *first[1][1]])
    if not abs(left - right) > max(1e3 * eps, least) * size:  # true for NaN too, which says nothing
        return True
    noise = 0.0  # a derivative that is 0 but for rounding differs as much from one nearby
    for n in range(_NEARBY_POINTS):
        with dry_run():
            other = sides([_nearby(x, n) for x in xs])
        noise += sum(abs(_inner(y) - z) for y, z in _pairs(other, (left, right)))
    return abs(left - right) <= 10 * noise


_NEARBY_POINTS = 3


def _inner(pair: tuple[Any, Any]) -> float:
    """Return the inner product of two lists of tensors."""
    return sum(float((_in_double(a) * _in_double(b)).sum()) for a, b in _pairs(*pair))


def _pairs(xs: Any, ys: Any) -> Any:
    return zip(xs, ys, strict=True)


def _nearby(x: torch.Tensor, seed: int) -> torch.Tensor:
    """Return `x`, with floats moved by a few units in the last place."""
    if not (x.is_floating_point() or x.is_complex()):
        return x
    steps = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device)
    return x * (1 + 8 * torch.finfo(x.dtype).eps * steps).to(x.dtype)


def tangent_check(
    gradients: Any, cotangent_specs: Specs, count: int, name: str
) -> Callable[[Any, Any], None]:
    """Make a check for calls of a jvp: NOTE [tangents that torch ignores].

    It takes the arguments, which are `count` primals and their tangents, and the results. Its
    tolerance is large, since a function may be ill-conditioned where it is called.
    """
    dy = example_inputs(cotangent_specs, seed=2)

    def check(xs: Sequence[torch.Tensor], ys: Sequence[torch.Tensor]) -> None:
        sides = lambda primals: ((ys, dy), (xs[count:], gradients(*primals, *dy)))
        if not _agree(sides, xs[:count], least=0.01):
            raise NoRuleError(f"torch has no jvp of {name}: {DISAGREE}")

    return check


def _in_double(x: torch.Tensor) -> torch.Tensor:
    """Return `x` as a vector of float64."""
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.double().reshape(-1)


@dataclasses.dataclass(frozen=True)
class Inferred:
    """Facts about a function, learned from a run on example inputs.

    Attributes:
        outputs: The specs of its outputs.
        uses_rng: True if it drew random numbers.
        observer: Notes on gradients.
        unrecorded: Positions of the outputs that torch records no gradient of.
    """

    outputs: Specs
    uses_rng: bool
    observer: GradientObserver
    unrecorded: frozenset[int]


def infer_outputs(fun: Fun, primals: Specs, *, settings: Settings, training: bool) -> Inferred:
    """Run `fun` on example inputs, which require gradients if `training`."""
    before = torch.get_rng_state()
    observer, run = GradientObserver(), TrainingRun(training=training)
    try:
        with (
            default_state(settings.dtype),
            dry_run(),
            observer,
            intercept_apply(observer.apply, observes=True),
            warnings.catch_warnings(),
        ):
            # Example inputs require gradients, but the arguments of the user do not.
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")
            returned = run(fun, example_inputs(primals))
            outputs = [contiguous_copy(y.detach()) for y in returned]
        run.look(returned)
        uses_rng = not torch.equal(before, torch.get_rng_state())
    finally:
        torch.set_rng_state(before)
    return Inferred(tuple(map(ARRAYS.spec, outputs)), uses_rng, observer, run.unrecorded)


def example_inputs(specs: Specs, seed: int = 0, bound: int = 1) -> list[torch.Tensor]:
    """Make tensors of these specs, with integers below `bound`: NOTE [example inputs]."""
    generator = torch.Generator().manual_seed(seed)
    return [_example_input(spec, generator, bound).to(spec.device) for spec in specs]


def _example_input(spec: ArraySpec, generator: torch.Generator, bound: int) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    if not spec.differentiable:
        return (torch.arange(math.prod(spec.shape)) % bound).to(dtype).reshape(spec.shape)
    drawn_dtype = dtype if dtype.is_complex else torch.float32
    return torch.rand(spec.shape, dtype=drawn_dtype, generator=generator).to(dtype)


def run_eagerly(
    fun: Fun,
    outputs: Specs,
    check: Callable[[Any, Any], None] | None,
    *,
    name: str,
    settings: Settings,
) -> Callable[..., Any]:
    """Make the `call` of an Op that runs `fun` on copies, and checks and copies its results."""

    def call(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with default_state(settings.dtype):
            copies = [contiguous_copy(y.detach()) for y in fun(*[x.detach().clone() for x in xs])]
        check_specs_unchanged([*map(ARRAYS.spec, copies)], outputs, name)
        if check:
            check(xs, copies)
        return tuple(copies)

    return call if settings.seed_argnum is None else with_seed(call, settings.seed_argnum)
