"""Checks that a function and its derivatives draw the same random numbers from a seed.

NOTE [the same random numbers]
torch may compute a function by other operators where it is differentiated or batched, and these may
draw other random numbers: dropout in attention does. A gradient would then be that of another mask
than the value. A graph does not tell which draws agree, so results on example inputs are compared
for a few seeds.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch

from bridge._core.errors import NoRuleError
from bridge._core.op import ForwardBackward, Op, Positions, Specs
from bridge._sources.torch.autodiff.example_inputs import (
    SEEDS,
    example_inputs,
    with_seed_input,
)
from bridge._sources.torch.autodiff.gradient_flow import is_differentiable
from bridge._sources.torch.capture.environment import Fun, preserve_rng
from bridge._sources.torch.capture.graph import is_random
from bridge._sources.torch.program import Program

RNG_MISMATCH = (
    "it would draw other random numbers from the same seed, as dropout in attention does. Draw "
    "them by separate operators, such as torch.nn.functional.dropout."
)


def random_gradient_error(name: str) -> NoRuleError:
    """Make the error for a function that would draw other random numbers in its gradient."""
    return NoRuleError(
        f"{name} draws random numbers in its gradient, which have to follow from an argument. Pass "
        "a key, `rng=`."
    )


def _seeded_inputs(primals: Specs, seed_argnum: int | None) -> Iterator[list[torch.Tensor]]:
    """Yield example inputs for a few seeds; the argument at `seed_argnum` holds the seed."""
    for n, seed in enumerate(SEEDS):
        xs = example_inputs(primals, n)
        yield xs if seed_argnum is None else with_seed_input(xs, seed_argnum, seed)


def same_first_draws(one: Program, other: Program) -> bool:
    """Return True if one graph draws the random numbers that another draws first."""
    draws, other_draws = (
        [(x.target, x.meta["val"].shape) for x in p.module.graph.nodes if is_random(x)]
        for p in (one, other)
    )
    return draws == other_draws[: len(draws)]


def same_results(one: Fun, other: Fun, primals: Specs) -> bool:
    """Return True if two functions return the same on example inputs."""
    with preserve_rng() as state:
        xs = example_inputs(primals)
        outputs = one(*xs)
        torch.set_rng_state(state)
        return _all_close(outputs, other(*xs))


def same_gradients(
    op: Op,
    vjp: Op,
    pair: ForwardBackward,
    argnums: Positions,
    outnums: Positions,
    *,
    primals: Specs,
    seed_argnum: int | None,
) -> bool:
    """Return True if an Op, its vjp and its pair draw the same random numbers."""
    outputs = op.output_specs()
    for n, xs in enumerate(_seeded_inputs(primals, seed_argnum)):
        results = pair.forward.call(*xs)
        cotangents = example_inputs(tuple(outputs[i] for i in outnums), n)
        saved = [*(xs[i] for i in pair.saved_primals), *(results[i] for i in pair.saved_outputs)]
        residuals = results[pair.output_count :]
        gradients = pair.backward(argnums).call(*saved, *residuals, *cotangents)
        same_values = _all_close(op.call(*xs), results)
        if not same_values or not _all_close(vjp.call(*xs, *cotangents), gradients):
            return False
    return True


def same_as_unbatched(
    op: Op, vmap: Op, axes: Sequence[int | None], *, primals: Specs, seed_argnum: int
) -> bool:
    """Return True if the first and the last example draw what each would draw alone."""
    for xs in _seeded_inputs(primals, seed_argnum):
        batched = vmap.call(*xs)
        for n in (0, -1):
            one = [x if a is None else x.select(a, n) for x, a in zip(xs, axes, strict=True)]
            if not _all_close(op.call(*one), [y[n] for y in batched]):
                return False
    return True


def _all_close(actual: Iterable[torch.Tensor], expected: Iterable[torch.Tensor]) -> bool:
    """Return True if tensors agree but for rounding; other random numbers differ by far more."""
    for x, y in zip(actual, expected, strict=False):
        if not is_differentiable(x):
            continue
        scale = y.abs().double().nan_to_num(0, 0, 0).amax() if y.numel() else 0
        if ((x - y).abs().double() > 0.01 * scale + 1e-12).any():
            return False
    return True
