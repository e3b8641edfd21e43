"""Facts about a function of torch that its rules read: specs, program, settings and flags."""

import dataclasses
from collections.abc import Callable
from typing import Any

from bridge._core.op import Specs
from bridge._sources.torch.batching.vmap import Batched
from bridge._sources.torch.capture.environment import Fun
from bridge._sources.torch.gradient_observer import GradientObserver
from bridge._sources.torch.program import Program, Settings


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FunctionInfo:
    """A pure function of flat tensors, a user's or a derivative, and what is known of it.

    Attributes:
        name: The name of the user's function and of the rules applied to it.
        primals: The specs of its arguments.
        outputs: The specs of its outputs.
        settings: The settings of the user's function.
        fun: The function that torch transforms.
        program: Its captured graph; `None` if it is rerun on each call.
        observer: Notes on what the user's function does to gradients.
        uses_rng: True if it draws random numbers.
        needs_autograd: True if torch.func cannot take its derivatives: NOTE [two ways].
        batched: If it is a batched form, the same batch by NOTE [example by example].
        strategy: If it is a derivative, the strategy by which it was taken.
        twin: The same function derived by torch.func only, if it was not: NOTE [two ways].
        check: Raises if the results of a rerun are wrong; takes the arguments and the results.
        differentiable_fun: The same function with differentiable gradients, if it calls an
            `autograd.Function`: NOTE [gradients of gradients].
        whole_batch: If it is a derivative of a batched form, makes the batch of derivatives.
        unrecorded: Positions of the outputs that torch records no gradient of.
    """

    name: str
    primals: Specs
    outputs: Specs
    settings: Settings
    fun: Fun
    program: Program | None
    observer: GradientObserver
    uses_rng: bool
    needs_autograd: bool = False
    batched: Batched | None = None
    strategy: Callable[..., Fun] | None = None
    twin: Fun | None = None
    check: Callable[[Any, Any], None] | None = None
    differentiable_fun: Fun | None = None
    whole_batch: Callable[[], Batched] | None = None
    unrecorded: frozenset[int] = frozenset()

    @property
    def is_seeded(self) -> bool:
        """True if it is captured, and its random numbers follow from a seed."""
        return self.uses_rng and self.settings.seed_argnum is not None and self.program is not None

    @property
    def is_second_order(self) -> bool:
        """True if its derivative is the derivative of a user's gradient."""
        return self.differentiable_fun is not None and (
            self.strategy is not None or self.observer.differentiates
        )

    @property
    def fun_to_differentiate(self) -> Fun:
        """The function that derivatives are taken of."""
        return (
            self.differentiable_fun
            if self.differentiable_fun and self.is_second_order
            else self.fun
        )

    @property
    def graph_settings(self) -> Settings:
        """Settings for a transformed form that is useless unless it is captured as this is."""
        return (
            dataclasses.replace(self.settings, capture="require") if self.program else self.settings
        )
