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
        needs_recorded_derivatives: True if torch.func cannot take its derivatives: NOTE [two ways].
        by_example: If it is a batched form, the same batch by NOTE [example by example].
        strategy: If it is a derivative, the strategy by which it was taken.
        transformed_fun: The same function derived by torch.func only, if it was not:
            NOTE [two ways].
        check_rerun: Raises if the results of a rerun are wrong; takes arguments and results.
        differentiable_fun: The same function with differentiable gradients, if it calls an
            `autograd.Function`: NOTE [gradients of gradients].
        make_by_example: If it is a derivative of a batched form, makes its `by_example`.
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
    needs_recorded_derivatives: bool = False
    by_example: Batched | None = None
    strategy: Callable[..., Fun] | None = None
    transformed_fun: Fun | None = None
    check_rerun: Callable[[Any, Any], None] | None = None
    differentiable_fun: Fun | None = None
    make_by_example: Callable[[], Batched] | None = None
    unrecorded: frozenset[int] = frozenset()

    @property
    def has_seeded_program(self) -> bool:
        """True if it is captured, and its random numbers follow from a seed."""
        return self.uses_rng and self.settings.seed_argnum is not None and self.program is not None

    @property
    def computes_custom_gradients(self) -> bool:
        """True if its derivative is the derivative of a user's gradient."""
        return self.differentiable_fun is not None and (
            self.strategy is not None or self.observer.differentiates
        )

    @property
    def fun_to_differentiate(self) -> Fun:
        """The function that derivatives are taken of."""
        return (
            self.differentiable_fun
            if self.differentiable_fun and self.computes_custom_gradients
            else self.fun
        )

    @property
    def batch_settings(self) -> Settings:
        """Settings for a transformed form that is useless unless it is captured as this is."""
        return (
            dataclasses.replace(self.settings, capture="require") if self.program else self.settings
        )
