"""Functions of torch that run anew on each call, since they look at values.

NOTE [made-up values]
What such a function returns is not known before it runs. So it is run once, on values that are
made up: between 0 and 1 by a fixed generator, integers 0. Each call is then held to the shapes and
dtypes that were found.

NOTE [tangents that torch ignores]
`torch.func.jvp` ignores operators that it does not know of, as `torch.library` makes them, and
hooks. So tangents are held to gradients: each is the transpose of the other. That is tried on
made-up values, and since another call may take another way, again on each.
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
from bridge._core.pytree import replace_at
from bridge._core.spec import ArraySpec, check_specs_unchanged
from bridge._sources.torch.autodiff.function_calls import intercept_apply
from bridge._sources.torch.autodiff.unrecorded_outputs import TrainingRun
from bridge._sources.torch.capture.environment import default_state, with_seed
from bridge._sources.torch.capture.trace import Fun, contiguous_copy
from bridge._sources.torch.internals import GradientObserver
from bridge._sources.torch.program import Settings
from bridge._sources.torch.state.dry_run import dry_run

DISAGREE = (
    "tangents and gradients disagree, where an autograd.Function or a custom operator has "
    "a gradient that cannot be differentiated itself. Give that a jvp, or use reverse mode."
)


def is_transpose(
    tangents: Any, gradients: Any, primals: Specs, moving: Specs, given: Specs
) -> bool:
    """Whether two functions are linear maps and each the transpose of the other.

    NOTE [tangents that torch ignores].
    """
    dx, dy = example_inputs(moving, 1), example_inputs(given, 2)
    state = torch.get_rng_state()

    def sides(xs: Sequence[torch.Tensor]) -> Sides:
        torch.set_rng_state(state)
        ys = tangents(*xs, *dx)
        torch.set_rng_state(state)
        return (ys, dy), (dx, gradients(*xs, *dy))

    # Integers that are all 0 are indices of one element, where much is undefined. Others may be out
    # of bounds, for which CUDA ends the process.
    varied = all(spec.device == "cpu" for spec in primals) and any(map(_is_index, primals))
    counts = (1, sys.maxsize, 3, 2) if varied else (1,)
    try:
        return any(_at(highest, sides, primals) for highest in counts)
    finally:
        torch.set_rng_state(state)


def follows_tangents(
    function: Any, sides: tuple[Any, Any], primals: Specs, argnums: Positions, smooth: Positions
) -> bool:
    """Whether values go with tangents, the first of the `sides`, rather than with gradients."""
    xs, dx = example_inputs(primals), example_inputs(tuple(primals[i] for i in argnums), 1)
    step = max(torch.finfo(x.dtype).eps for x in dx) ** (1 / 3)

    def values(sign: int) -> list[torch.Tensor]:
        moved = [xs[i] + sign * step * d for i, d in _pairs(argnums, dx)]
        outputs = function(*replace_at(moved, argnums, xs))
        return [outputs[i] for i in smooth]

    generator = torch.Generator().manual_seed(2)
    try:
        with dry_run():
            slopes = [(a - b) / (2 * step) for a, b in _pairs(values(1), values(-1))]
            dy = [torch.rand(y.shape, generator=generator).to(y) for y in slopes]
            tangents, gradients = sides[0](*xs, *dx), sides[1](*xs, *dy)
    except (RuntimeError, IndexError):
        return False
    expected = _inner((slopes, dy))
    off = [abs(_inner(pair) - expected) for pair in ((tangents, dy), (dx, gradients))]
    return off[0] < 0.1 * off[1]


def _at(highest: int, sides: "Callable[[Any], Sides]", primals: Specs) -> bool:
    """Whether two sides agree on made-up values; also if these say nothing, and are usual ones."""
    try:
        return _agree(sides, example_inputs(primals, highest=highest))
    except (RuntimeError, IndexError):  # as of a singular matrix
        return highest == 1


def _is_index(spec: ArraySpec) -> bool:
    return not spec.differentiable


# Outputs with their cotangents, and primals with their gradients.
Sides = tuple[tuple[Any, Any], tuple[Any, Any]]


def _agree(
    sides: Callable[[Sequence[torch.Tensor]], Sides],
    xs: Sequence[torch.Tensor],
    least: float = 0.0,
) -> bool:
    """Whether tangents times cotangents is the same for both sides, but for rounding."""
    with dry_run():
        first = sides(xs)
    left, right = map(_inner, first)
    size = sum(
        float((_in_double(a) * _in_double(b)).abs().sum()) for p in first for a, b in _pairs(*p)
    )
    eps = max(torch.finfo(x.dtype).eps for x in [*first[0][0], *first[1][1]])
    if not abs(left - right) > max(1e3 * eps, least) * size:  # what is not a number says nothing
        return True
    noise = 0.0  # of derivatives that are 0 but for rounding, nearby ones differ as much
    for n in range(_NEARBY):
        with dry_run():
            other = sides([_nearby(x, n) for x in xs])
        noise += sum(abs(_inner(y) - z) for y, z in _pairs(other, (left, right)))
    return abs(left - right) <= 10 * noise


_NEARBY = 3


def _inner(pair: tuple[Any, Any]) -> float:
    return sum(float((_in_double(a) * _in_double(b)).sum()) for a, b in _pairs(*pair))


def _pairs(xs: Any, ys: Any) -> Any:
    return zip(xs, ys, strict=True)


def _nearby(x: torch.Tensor, seed: int) -> torch.Tensor:
    """`x`, as far as it is a float moved by a few of the smallest steps that it can make."""
    if not (x.is_floating_point() or x.is_complex()):
        return x
    steps = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)).to(x.device)
    return x * (1 + 8 * torch.finfo(x.dtype).eps * steps).to(x.dtype)


def tangent_check(
    gradients: Any, given: Specs, count: int, name: str
) -> Callable[[Any, Any], None]:
    """A check of each call that computes tangents: NOTE [tangents that torch ignores].

    It takes the arguments, `count` primals and their tangents, and the results, and does not look
    closely, since a function may be ill-conditioned where it is called.
    """
    dy = example_inputs(given, seed=2)

    def check(xs: Sequence[torch.Tensor], ys: Sequence[torch.Tensor]) -> None:
        sides = lambda primals: ((ys, dy), (xs[count:], gradients(*primals, *dy)))
        if not _agree(sides, xs[:count], least=0.01):
            raise NoRuleError(f"torch has no jvp of {name}: {DISAGREE}")

    return check


def _in_double(x: torch.Tensor) -> torch.Tensor:
    """`x` as real numbers of double precision."""
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.double().reshape(-1)


@dataclasses.dataclass(frozen=True)
class Inferred:
    """What a run on made-up values tells of a function.

    Attributes:
        outputs: Its results.
        uses_rng: Whether random numbers were drawn.
        observer: What was done to gradients.
        unrecorded: Positions of the results that torch records no gradient of.
    """

    outputs: Specs
    uses_rng: bool
    observer: GradientObserver
    unrecorded: frozenset[int]


def infer_outputs(fun: Fun, primals: Specs, *, settings: Settings, training: bool) -> Inferred:
    """What a run on made-up values tells of `fun`; if `training`, with gradients by all of them."""
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
            # The user's arguments require no gradients, only those that are made up.
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad=True")
            found = run(fun, example_inputs(primals))
            outputs = [contiguous_copy(y.detach()) for y in found]
        run.look(found)
        drawn = not torch.equal(before, torch.get_rng_state())
    finally:
        torch.set_rng_state(before)
    return Inferred(tuple(map(ARRAYS.spec, outputs)), drawn, observer, run.unrecorded)


def example_inputs(specs: Specs, seed: int = 0, highest: int = 1) -> list[torch.Tensor]:
    """Tensors of these specs, integers in them below `highest`: NOTE [made-up values]."""
    generator = torch.Generator().manual_seed(seed)
    return [_like(spec, generator, highest).to(spec.device) for spec in specs]


def _like(spec: ArraySpec, generator: torch.Generator, highest: int) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    if not spec.differentiable:
        return (torch.arange(math.prod(spec.shape)) % highest).to(dtype).reshape(spec.shape)
    wide = dtype if dtype.is_complex else torch.float32
    return torch.rand(spec.shape, dtype=wide, generator=generator).to(dtype)


def run_eagerly(
    fun: Fun,
    outputs: Specs,
    check: Callable[[Any, Any], None] | None,
    *,
    name: str,
    settings: Settings,
) -> Callable[..., Any]:
    """`fun` on copies of its arguments, with copies of its results, which are checked."""

    def call(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with default_state(settings.dtype):
            found = [contiguous_copy(y.detach()) for y in fun(*[x.detach().clone() for x in xs])]
        check_specs_unchanged([*map(ARRAYS.spec, found)], outputs, name)
        if check:
            check(xs, found)
        return tuple(found)

    return call if settings.seed is None else with_seed(call, settings.seed)
