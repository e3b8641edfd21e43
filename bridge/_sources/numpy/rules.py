"""The vjp, jvp and batched form of a function without autodiff, each again such a function."""

import dataclasses
import functools
from typing import Any

import numpy as np

from bridge._core.gradient_rules import FiniteDifference, Vjp
from bridge._core.op import Arrays, ForwardBackward, Op, Positions, Rules, Specs, Traits
from bridge._core.spec import ArraySpec, differentiable_positions
from bridge._sources.numpy.black_box import BlackBox
from bridge._sources.numpy.description import describe
from bridge._sources.numpy.evaluation import Evaluation
from bridge._sources.numpy.forms import Form, function_form
from bridge._sources.numpy.noise import tag_of
from bridge._sources.numpy.planner import Planner
from bridge._sources.numpy.plans import Plan

Batch = tuple[tuple[int | None, ...], int]  # axes of the inputs, and the size


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A derivative of a black box, or a batch of it: NOTE [terms].

    Attributes:
        box: The black box.
        name: Its name in errors.
        derived_form: The form of a derivative; None for the box itself or a batch of it, whose form
            is known once its outputs are.
        batches: The batches of that.
        derivatives: The derivatives that led here, without batches.
    """

    box: BlackBox
    name: str
    derived_form: Form | None = None
    batches: tuple[Batch, ...] = ()
    derivatives: tuple[Any, ...] = ()

    def make_op(self) -> Op:
        """Make an Op of the function."""
        return Op(
            name=self.name,
            framework="numpy",
            call=self._call,
            output_specs=lambda *_: self._output_specs(),
            rules=Rules(
                vjp=self._vjp,
                jvp=self._jvp,
                vmap=self._vmap,
                forward_backward=self._forward_backward if self._uses_outputs() else None,
            ),
            traits=Traits(
                knows_outputs=lambda: self.box.known_outputs is not None,
                description=lambda: describe(self),
            ),
        )

    @property
    def _form(self) -> Form:
        """The form; outputs that are not known yet are found by example inputs."""
        if self.derived_form is not None:
            return self.derived_form
        return self._apply_batches(function_form(len(self.box.primals), len(self.box.outputs)))

    def _apply_batches(self, form: Form) -> Form:
        for axes, size in self.batches:
            form = form.vmap(axes, size)
        return form

    @functools.cached_property
    def _plan(self) -> Plan:
        """The points, which follow from the form and the rules."""
        return Planner(self._form, self.box).plan()

    @functools.cached_property
    def _tag(self) -> int:
        return tag_of(self.derivatives)

    def _call(self, *xs: np.ndarray) -> Arrays:
        if self.derived_form is None and not self.batches:
            return self.box.call(xs, self._tag)
        values = None
        if self.derived_form is None and self.box.known_outputs is None:
            # Whatever the outputs are, one evaluation has all of them, and tells what they are.
            form = self._apply_batches(function_form(len(self.box.primals), 1))
            plan = Planner(form, self.box).plan()
            values = Evaluation(form, plan, self.box, xs, self._tag).evaluate_points()
        evaluation = Evaluation(self._form, self._plan, self.box, xs, self._tag)
        return evaluation.contract(evaluation.evaluate_points() if values is None else values)

    def _output_specs(self) -> Specs:
        form, specs = self._form, list[ArraySpec]()
        for result in form.results:
            spec = self.box.spec_of(result)
            for label, axis in reversed(result.axes):
                spec = spec.with_axis(axis, form.sizes[label])
            specs.append(spec)
        return tuple(specs)

    def _derive(self, rule: str, form: Form, *positions: Positions) -> Op:
        derivation = (*self.derivatives, *([(rule, *positions)] if positions else []))
        name = f"{self.name}.{rule}"
        return Function(self.box, name, form, derivatives=derivation).make_op()

    def _vjp(self, argnums: Positions, outnums: Positions) -> Op:
        self._check_rules(argnums)
        return self._derive("vjp", self._form.vjp(argnums, outnums), argnums, outnums)

    def _jvp(self, argnums: Positions) -> Op:
        self._check_rules(argnums)
        outnums = differentiable_positions(self._output_specs())
        return self._derive("jvp", self._form.jvp(argnums, outnums), argnums)

    def _check_rules(self, argnums: Positions) -> None:
        """Raise now, not in a compiled program, if an argument has no rule."""
        inputs = self._form.inputs
        for i in argnums:
            if inputs[i].kind == "primal":
                self.box.rule(inputs[i].position)

    def _vmap(self, axes: tuple[int | None, ...], size: int) -> Op:
        if self.derived_form is not None:
            return self._derive("vmap", self.derived_form.vmap(axes, size))
        batches = (*self.batches, (axes, size))
        return Function(self.box, f"{self.name}.vmap", None, batches).make_op()

    # The backward pass that uses the outputs.

    def _uses_outputs(self) -> bool:
        """Return True if a first derivative is cheaper with the outputs that were returned."""
        rules = self.box.rules if self.derived_form is None else []
        return any(
            isinstance(rule, Vjp)
            or (
                self.box.reuses_outputs
                and isinstance(rule, FiniteDifference)
                and rule.strategy != "center"
            )
            for rule in rules
        )

    def _forward_backward(self, argnums: Positions, outnums: Positions) -> ForwardBackward:
        self._check_rules(argnums)
        count, outputs = len(self.box.primals), self._form.results

        def backward_from(argnums: Positions, outnums: Positions) -> Op:
            form = self._form.vjp(argnums, outnums).with_outputs(count, outputs)
            return self._derive("vjp", form, argnums, outnums)

        return ForwardBackward(
            strategy="outputs",
            forward=Function(self.box, self.name, None, self.batches).make_op(),
            backward=lambda argnums: backward_from(argnums, outnums),
            output_count=len(outputs),
            saved_primals=tuple(range(count)),
            saved_outputs=tuple(range(len(outputs))),
            backward_from=backward_from,
        )
