"""Execution of functions that are rerun on each call, since they look at values."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import torch

from bridge._arrays.torch import ARRAYS as ARRAYS
from bridge._core.op import Specs
from bridge._core.spec import check_specs_unchanged
from bridge._sources.torch.autodiff.example_inputs import example_inputs
from bridge._sources.torch.autodiff.function_calls import intercept_apply
from bridge._sources.torch.autodiff.unrecorded_outputs import TrainingRun
from bridge._sources.torch.capture.environment import Fun, default_state, preserve_rng, with_seed
from bridge._sources.torch.capture.trace import contiguous_copy
from bridge._sources.torch.gradient_observer import GradientObserver
from bridge._sources.torch.program import Settings
from bridge._sources.torch.state.dry_run import dry_run


@dataclasses.dataclass(frozen=True)
class Observed:
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


def observe_outputs(fun: Fun, primals: Specs, *, settings: Settings, training: bool) -> Observed:
    """Run `fun` on example inputs, which require gradients if `training`."""
    observer, run = GradientObserver(), TrainingRun(training=training)
    with preserve_rng() as before:
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
    return Observed(tuple(map(ARRAYS.spec, outputs)), uses_rng, observer, run.unrecorded)


def run_eagerly(
    fun: Fun,
    outputs: Specs,
    check_rerun: Callable[[Any, Any], None] | None,
    *,
    name: str,
    settings: Settings,
) -> Callable[..., Any]:
    """Make the `call` of an Op that runs `fun` on copies, and checks and copies its results."""

    def call(*xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with default_state(settings.dtype):
            copies = [contiguous_copy(y.detach()) for y in fun(*[x.detach().clone() for x in xs])]
        check_specs_unchanged([*map(ARRAYS.spec, copies)], outputs, name)
        if check_rerun:
            check_rerun(xs, copies)
        return tuple(copies)

    return call if settings.seed_argnum is None else with_seed(call, settings.seed_argnum)
