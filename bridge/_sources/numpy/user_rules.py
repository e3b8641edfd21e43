"""Calls of derivatives that the user's own code computes: `Vjp`, `Jvp` and `Jacobian`."""

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bridge._core.errors import ArgumentError
from bridge._core.gradient_rules import Jacobian, Jvp, UserRule, Vjp
from bridge._core.protocols import SEED
from bridge._core.spec import ArraySpec, differentiable_positions
from bridge._sources.numpy.elements import is_complex

if TYPE_CHECKING:
    from bridge._sources.numpy.black_box import BlackBox

Row = Sequence[Any]  # arrays, and a generator where there is a key


class UserDerivative:
    """A derivative that the user gave, as a function of flat arrays.

    It takes the primals, then cotangents or tangents, then for `Vjp` the outputs. It returns what
    `positions` lists.

    Args:
        rule: The user's rule.
        box: The function that it is a derivative of.
        linear: The outputs that have cotangents, or the primals that have tangents.
    """

    def __init__(self, rule: UserRule, box: "BlackBox", linear: Sequence[int]) -> None:
        self._rule, self._fn = rule, box.flat_fn
        self._name = f"the {type(rule).__name__} of {box.name}"
        self._primals, self._outputs = box.primals, box.outputs
        self._argument_names, self._seed_argnum = box.argument_names, box.seed_argnum
        self._linear, self._first_axes = linear, int(box.caller.vectorized)
        self._has_complex_step = False
        complex_argument = next(
            (i for i, spec in enumerate(self._primals) if is_complex(spec)), None
        )
        if isinstance(rule, Jacobian) and complex_argument is not None:
            raise ArgumentError(
                f"argument {box.argument_names[complex_argument]} of {box.name} is complex, and a "
                "Jacobian is by real arguments. Pass a Vjp or a Jvp."
            )
        if isinstance(rule, Jacobian) and len(box.outputs) != 1:
            raise ArgumentError(
                f"{box.name} has {len(box.outputs)} results, and a Jacobian is of a function with "
                "one. Pass a Vjp or a Jvp."
            )

    @property
    def positions(self) -> list[Any]:
        """What each result belongs to: a primal, an output, or for Jacobians both."""
        if isinstance(self._rule, Jvp):
            return list(differentiable_positions(self._outputs))
        argnums = list(differentiable_positions(self._primals))
        return [(0, i) for i in argnums] if isinstance(self._rule, Jacobian) else argnums

    def empty(self) -> list[np.ndarray]:
        """Return the results at no points."""
        shapes = [
            (*self._outputs[i[0]].shape, *self._primals[i[1]].shape)
            if isinstance(i, tuple)
            else (self._outputs if isinstance(self._rule, Jvp) else self._primals)[i].shape
            for i in self.positions
        ]
        return [np.empty((0, *shape)) for shape in shapes]

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        count = len(self._primals)
        xs = arrays[:count]
        self._has_complex_step = any(
            np.iscomplexobj(x) and not is_complex(spec)
            for x, spec in zip(xs, self._primals, strict=True)
        )
        linear = dict(zip(self._linear, arrays[count:], strict=False))
        outputs = arrays[count + len(linear) :]
        if isinstance(self._rule, Vjp):
            return self._vjp(self._rule, xs, linear, outputs)
        if isinstance(self._rule, Jvp):
            return self._jvp(self._rule, xs, linear)
        args, kwargs = self._fn.arguments.unflatten(xs)
        kwargs = {key: x for key, x in kwargs.items() if key != SEED}
        jacobian = self._rule.fn(*args, **kwargs, **self._generator(xs))
        return self._like_primals(jacobian, xs, self._outputs[0].shape)

    def _generator(self, xs: Row) -> dict[str, Any]:
        """Return the generator of random numbers as an argument, if the user's rule takes it."""
        i = self._seed_argnum
        if i is None or SEED not in inspect.signature(self._rule.fn).parameters:
            return {}
        return {SEED: xs[i]}

    def _vjp(
        self, rule: Vjp, xs: Row, cotangents: Mapping[int, np.ndarray], outputs: Row
    ) -> list[np.ndarray]:
        dense = [cotangents.get(i, np.zeros_like(y)) for i, y in enumerate(outputs)]
        unflatten = self._fn.unflatten_results
        gradients = rule.fn(
            self._fn.arguments.primals(xs),
            unflatten(dense),
            unflatten(outputs),
            **self._generator(xs),
        )
        return self._like_primals(gradients, xs)

    def _jvp(self, rule: Jvp, xs: Row, tangents: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        dense = [
            tangents.get(i, np.zeros_like(x) if isinstance(x, np.ndarray) else x)
            for i, x in enumerate(xs)
        ]
        unflatten = self._fn.arguments.primals
        results = self._fn.flatten_results(
            rule.fn(unflatten(xs), unflatten(dense), **self._generator(xs)), self._name
        )
        arrays = [x for x in (*xs, *tangents.values()) if isinstance(x, np.ndarray)]
        lead = arrays[0].shape[: self._first_axes]
        return [
            self._checked(results[i], spec, (*lead, *spec.shape), f"result {i} of {self._name}")
            for i, spec in enumerate(self._outputs)
            if spec.differentiable
        ]

    def _like_primals(self, tree: Any, xs: Row, shape: tuple[int, ...] = ()) -> list[np.ndarray]:
        """Return gradients, or Jacobians whose first axes have this shape, one for each primal."""
        by_argnum = self._fn.arguments.match(tree, self._name)
        arrays: list[np.ndarray] = []
        for i, (x, spec) in enumerate(zip(xs, self._primals, strict=True)):
            if not spec.differentiable:
                continue
            expected = (*x.shape[: self._first_axes], *shape, *spec.shape)
            label = f"{self._name} by {self._argument_names[i]}"
            gradient = by_argnum.get(i)
            kinds = spec if not shape else self._outputs[0]
            if gradient is None:
                gradient = np.zeros(expected, spec.dtype)
            arrays.append(self._checked(gradient, kinds, expected, label))
        return arrays

    def _checked(self, y: Any, spec: ArraySpec, shape: tuple[int, ...], label: str) -> np.ndarray:
        """Return an array of this shape; raise for others, and for unexpected complex numbers."""
        array = np.asarray(y)
        if array.shape != shape or array.dtype.kind in "OSUV":
            actual = ArraySpec(array.shape, array.dtype.name)
            raise ArgumentError(f"{label} is {actual}, where the shape {shape} was expected.")
        if np.iscomplexobj(array) and not (is_complex(spec) or self._has_complex_step):
            raise ArgumentError(f"{label} is complex, and {spec} was expected.")
        return array
