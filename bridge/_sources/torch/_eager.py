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

from collections.abc import Callable, Sequence
from typing import Any

import torch

from bridge._arrays.torch import FACE as ARRAYS
from bridge._errors import NoRuleError
from bridge._op import Specs
from bridge._sources.torch._ambient import fresh, seeded
from bridge._sources.torch._applied import intercepted
from bridge._sources.torch._capture import Fun, dense
from bridge._sources.torch._internals import Blocks
from bridge._sources.torch._program import Settings
from bridge._spec import ArraySpec, check_same

DISAGREE = (
    "tangents and gradients disagree, where an autograd.Function or a custom operator has "
    "a gradient that cannot be differentiated itself. Give that a jvp, or use reverse mode."
)


def transposed(tangents: Any, gradients: Any, primals: Specs, moving: Specs, given: Specs) -> bool:
    """Whether two functions are linear maps and each the transpose of the other.

    NOTE [tangents that torch ignores].
    """
    xs, dx, dy = (made_up(specs, seed) for seed, specs in enumerate((primals, moving, given)))
    state = torch.get_rng_state()
    try:
        ys = tangents(*xs, *dx)
        torch.set_rng_state(state)
        gs = gradients(*xs, *dy)
    except RuntimeError:  # as of a singular matrix, about which made-up values say nothing
        return True
    finally:
        torch.set_rng_state(state)
    return _paired((ys, dy), (dx, gs))


def _paired(outputs: tuple[Any, Any], primals: tuple[Any, Any], least: float = 0.0) -> bool:
    """Whether tangents times cotangents is the same for both, but for rounding."""
    left, right = (
        [_wide(a) * _wide(b) for a, b in zip(*p, strict=True)] for p in (outputs, primals)
    )
    difference = sum(float(term.sum()) for term in left) - sum(float(term.sum()) for term in right)
    size = sum(float(term.abs().sum()) for term in [*left, *right])
    eps = max(torch.finfo(x.dtype).eps for x in [*outputs[0], *primals[1]])
    return not abs(difference) > max(1e3 * eps, least) * size  # what is not a number says nothing


def held_to(gradients: Any, given: Specs, count: int, name: str) -> Callable[[Any, Any], None]:
    """A check of each call that computes tangents: NOTE [tangents that torch ignores].

    It takes the arguments, `count` primals and their tangents, and the results, and does not look
    closely, since a function may be ill-conditioned where it is called.
    """
    dy = made_up(given, seed=2)

    def check(xs: Sequence[torch.Tensor], ys: Sequence[torch.Tensor]) -> None:
        if not _paired((ys, dy), (xs[count:], gradients(*xs[:count], *dy)), least=0.01):
            raise NoRuleError(f"torch has no jvp of {name}: {DISAGREE}")

    return check


def _wide(x: torch.Tensor) -> torch.Tensor:
    """`x` as real numbers of double precision."""
    x = torch.view_as_real(x) if x.is_complex() else x
    return x.double().reshape(-1)


def outline(fun: Fun, primals: Specs, *, settings: Settings) -> tuple[Specs, bool, Blocks]:
    """Specs of the outputs, whether random numbers were drawn, and what was done to gradients."""
    before = torch.get_rng_state()
    blocks = Blocks()
    with fresh(settings.dtype), blocks, intercepted(blocks.apply):
        outputs = [dense(y.detach()) for y in fun(*made_up(primals))]
    drawn = not torch.equal(before, torch.get_rng_state())
    torch.set_rng_state(before)
    return tuple(map(ARRAYS.spec, outputs)), drawn, blocks


def made_up(specs: Specs, seed: int = 0) -> list[torch.Tensor]:
    """Tensors of these specs: NOTE [made-up values]."""
    generator = torch.Generator().manual_seed(seed)
    return [_like(spec, generator).to(spec.device) for spec in specs]


def _like(spec: ArraySpec, generator: torch.Generator) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    if not spec.differentiable:
        return torch.zeros(spec.shape, dtype=dtype)
    wide = dtype if dtype.is_complex else torch.float32
    return torch.rand(spec.shape, dtype=wide, generator=generator).to(dtype)


def anew(
    fun: Fun,
    outputs: Specs,
    check: Callable[[Any, Any], None] | None,
    *,
    name: str,
    settings: Settings,
) -> Callable[..., Any]:
    """`fun` on copies of its arguments, with copies of its results, which are checked."""

    def call(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with fresh(settings.dtype):
            found = [dense(y.detach()) for y in fun(*[x.detach().clone() for x in xs])]
        check_same([*map(ARRAYS.spec, found)], outputs, name)
        if check:
            check(xs, found)
        return tuple(found)

    return call if settings.seed is None else seeded(call, settings.seed)
