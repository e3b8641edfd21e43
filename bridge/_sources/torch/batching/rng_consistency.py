"""Whether a function and what is derived from it draw the same random numbers from a seed.

NOTE [the same numbers]
torch computes the same function by other operators where it is differentiated or batched, and these
may draw otherwise: dropout in attention does. A gradient would then be that of another mask than
the value has. Nothing in a graph tells which draws agree, so for a few seeds the results of both
are compared, on values that are made up.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch

from bridge._core.errors import NoRuleError
from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._sources.torch.autodiff.eager import example_inputs
from bridge._sources.torch.capture.graph import is_random
from bridge._sources.torch.capture.trace import Fun
from bridge._sources.torch.program import Program

_SEEDS = 4
RNG_MISMATCH = (
    "it would draw other random numbers from the same seed, as dropout in attention does. Draw "
    "them by operators of their own, such as torch.nn.functional.dropout."
)


def missing_key_error(name: str) -> NoRuleError:
    """The error of a function whose gradient is not that of another call."""
    return NoRuleError(
        f"{name} draws random numbers in its gradient, which have to follow from an argument. Pass "
        "a key, `rng=`."
    )


def _arguments(primals: Specs, seed: int | None) -> Iterator[list[torch.Tensor]]:
    for n in range(_SEEDS):
        xs = example_inputs(primals, n)
        if seed is not None:
            xs[seed] = torch.full_like(xs[seed], 7 * n + 1)
        yield xs


def same_first_draws(one: Program, other: Program) -> bool:
    """Whether one graph draws what another begins with."""
    rows = [
        [(x.target, x.meta["val"].shape) for x in p.module.graph.nodes if is_random(x)]
        for p in (one, other)
    ]
    return rows[0] == rows[1][: len(rows[0])]


def same_results(one: Fun, other: Fun, primals: Specs) -> bool:
    """Whether two functions have the same results."""
    state = torch.get_rng_state()
    try:
        xs = example_inputs(primals)
        found = one(*xs)
        torch.set_rng_state(state)
        return _close(found, other(*xs))
    finally:
        torch.set_rng_state(state)


def same_gradients(
    op: Op,
    vjp: Op,
    split: ForwardBackward,
    argnums: Positions,
    outnums: Positions,
    *,
    primals: Specs,
    seed: int | None,
) -> bool:
    """Whether value and gradients are those of one draw."""
    outputs = op.output_specs()
    for n, xs in enumerate(_arguments(primals, seed)):
        results = split.forward.call(*xs)
        cotangents = example_inputs(tuple(outputs[i] for i in outnums), n)
        kept = [*(xs[i] for i in split.saved_primals), *(results[i] for i in split.saved_outputs)]
        found = split.backward(argnums).call(*kept, *results[split.output_count :], *cotangents)
        if not _close(op.call(*xs), results) or not _close(vjp.call(*xs, *cotangents), found):
            return False
    return True


def same_tangents(
    op: Op, jvp: Op, argnums: Positions, smooth: Positions, *, primals: Specs, seed: int
) -> bool:
    """Whether tangents and gradients are those of one draw."""
    gradients = op.derive("vjp", argnums, smooth)
    outputs = op.output_specs()
    moving = tuple(primals[i] for i in argnums)
    for n, xs in enumerate(_arguments(primals, seed)):
        dx, dy = (
            example_inputs(moving, n + 1),
            example_inputs(tuple(outputs[i] for i in smooth), n + 2),
        )
        left, right = jvp.call(*xs, *dx), gradients.call(*xs, *dy)
        if not _close([_dot(left, dy)], [_dot(dx, right)]):
            return False
    return True


def same_examples(
    op: Op, vmap: Op, axes: Sequence[int | None], *, primals: Specs, seed: int
) -> bool:
    """Whether the first and the last example draw what each would alone."""
    for xs in _arguments(primals, seed):
        rows = vmap.call(*xs)
        for n in (0, -1):
            one = [x if a is None else x.select(a, n) for x, a in zip(xs, axes, strict=True)]
            if not _close(op.call(*one), [y[n] for y in rows]):
                return False
    return True


def _dot(xs: Iterable[torch.Tensor], ys: Iterable[torch.Tensor]) -> torch.Tensor:
    return sum(
        (torch.real(x * y.conj()).double().sum() for x, y in zip(xs, ys, strict=True)),
        torch.zeros((), dtype=torch.float64),
    )


def _close(found: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]) -> bool:
    """Whether two rows agree as far as rounding lets them; another draw differs by far more."""
    for x, y in zip(found, expected, strict=False):
        if not (x.is_floating_point() or x.is_complex()):
            continue
        scale = y.abs().double().nan_to_num(0, 0, 0).amax() if y.numel() else 0
        if ((x - y).abs().double() > 0.01 * scale + 1e-12).any():
            return False
    return True
