"""Comparison of derivatives with finite differences."""

import dataclasses
import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._api.convert import convert
from bridge._calls import arguments
from bridge._core import import_path, pytree
from bridge._core.errors import ArgumentError, OptionError
from bridge._testing.backend import Backend, backend
from bridge._testing.numpy import arrays
from bridge._testing.plot import draw_errors

_MODES = ("fwd", "rev")
_MANY_ELEMENTS = 100
_MUCH = 20  # standard deviations
# Two for central differences, then nine equally spaced ones to estimate the rounding error. Their
# distance is no round number, because rounding errors can vanish at round numbers.
_STEPS = (-1.0, 1.0, *(0.37 * k for k in range(-4, 5)))
_STEP = 1e-6  # finite differences of doubles have half of their digits


def check_gradients(
    fn: Callable[..., Any],
    *args: Any,
    order: int = 2,
    modes: str | Sequence[str] | None = None,
    eps: float | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    plot: Any = None,
    **kwargs: Any,
) -> None:
    """Raise unless the derivatives of `fn` agree with finite differences.

    Reverse mode, forward mode and, for `order=2`, the gradient of the gradient are checked, by the
    checker of the framework that the arguments belong to, at the values of the arguments; for MLX,
    which has no checker, along one random direction. A note on the error says which element of
    which argument differs, and whether the function is too inaccurate for finite differences.

    Args:
        fn: A function, bridged or not.
        *args: Its arguments, pytrees. Every floating-point tensor in them is differentiated: they
            must be of double precision, since finite differences have half of their digits.
        order: 1 for gradients, 2 for gradients of gradients as well.
        modes: `"rev"` for gradients, `"fwd"` for tangents, or both. By default both, where forward
            mode is skipped with a warning if `fn` has no rule for it.
        eps: Step of the finite differences, 1e-6 by default. With a step, arguments of single
            precision are accepted too: 1e-2 suits them, with tolerances of the same size.
        atol: Absolute tolerance.
        rtol: Relative tolerance.
        plot: A path to write a figure to, or axes of matplotlib to draw on: the error of finite
            differences against their step, a V if the gradient is right, and a floor if not. It is
            drawn before the check, so that there is one of a function that fails.
        **kwargs: Keyword arguments of `fn`, differentiated likewise.

    Raises:
        ArgumentError: If no array among the arguments can be differentiated, or one is of single
            precision.
        MissingFrameworkError: If there is to be a figure, and matplotlib is not installed.
        OptionError: If `modes` names another mode.
        NoRuleError: If `fn` has no rule for one of `modes`.
        RuntimeError: If a derivative is wrong, with both values (torch's `GradcheckError`);
            an `AssertionError` where the arguments are of JAX or MLX.

    Example:
        >>> import torch, jax.numpy as jnp
        >>> from bridge import jax2torch
        >>> from bridge.testing import check_gradients
        >>> check_gradients(jax2torch(jnp.tanh), torch.tensor([0.3, -1.2], dtype=torch.float64))

    `torch.autograd.gradcheck`: https://docs.pytorch.org/docs/stable/autograd.html
    """
    checked_modes = (
        (modes,) if isinstance(modes, str) else tuple(_MODES if modes is None else modes)
    )
    if not checked_modes or {*checked_modes} - {*_MODES}:
        raise OptionError(f'modes={modes!r}, but the modes are "fwd" and "rev".')
    subject = _make_subject(fn, args, kwargs)
    if eps is None:
        _check_precision(subject.xs, subject.labels)
    if plot is not None:
        steps, errors = subject.errors_by_step()
        draw_errors(steps, errors, chosen=eps or _STEP, name=subject.name, plot=plot)
    options = {"order": order, "eps": eps or _STEP, "atol": atol, "rtol": rtol}
    try:
        subject.check(checked_modes, **options)
    except NotImplementedError as error:
        if modes is not None:
            raise
        warnings.warn(
            f"check_gradients skips forward mode of {subject.name}, which has no rule for it "
            f'({error}). With modes="rev" it is not asked for.',
            stacklevel=2,
        )
        subject.check(("rev",), **options)


def _make_subject(fn: Callable[..., Any], args: Any, kwargs: Any) -> "_Subject":
    """Make a function of the differentiable arrays alone; all other leaves stay as they are."""
    leaves, structure = pytree.flatten((args, kwargs), _registry.pytree_node_functions)
    argnums = _differentiable_positions(leaves)
    xs = [leaves[i] for i in argnums]
    names = {owner.name for x in xs if (owner := _registry.array_owner(x))}
    if len(names) != 1 or not names <= _registry.autodiff_frameworks():
        raise ArgumentError(
            f"check_gradients needs floating-point arrays of one framework, not of {sorted(names)}."
        )
    parameters = arguments.parameters(fn, (), ())
    labels = [f"argument {parameters.argument_name(p)}" for p in pytree.paths(structure)]

    def flat(*xs: Any) -> tuple[Any, ...]:
        positional, named = pytree.unflatten(structure, pytree.scatter(xs, argnums, leaves))
        outputs = pytree.flatten(fn(*positional, **named), _registry.pytree_node_functions)[0]
        return tuple(outputs[i] for i in _differentiable_positions(outputs))

    name = import_path.function_name(inspect.unwrap(fn))
    return _Subject(flat, name, names.pop(), xs, [labels[i] for i in argnums])


def _differentiable_positions(leaves: Sequence[Any]) -> list[int]:
    """Return the positions of the floating-point arrays of frameworks; NumPy's do not count."""
    owners = [_registry.array_owner(leaf) for leaf in leaves]
    return [
        i
        for i, owner in enumerate(owners)
        if owner
        and owner.name in _registry.autodiff_frameworks()
        and owner.spec(leaves[i]).differentiable
    ]


def _check_precision(xs: Sequence[Any], labels: Sequence[str]) -> None:
    """Raise for arguments of single precision."""
    for x, label in zip(xs, labels, strict=True):
        owner = _registry.array_owner(x)
        if owner and owner.spec(x).dtype not in ("float64", "complex128"):
            raise ArgumentError(
                f"{label} is {owner.spec(x)}, and finite differences need float64: a step of "
                f"{_STEP} is lost in its rounding. Convert it, or pass a larger step, with "
                "tolerances of the same size: eps=1e-2, atol=1e-2, rtol=1e-2."
            )


@dataclasses.dataclass(frozen=True)
class _Subject:
    """A function of flat arrays that is checked at the values `xs`."""

    fn: Callable[..., tuple[Any, ...]]
    name: str
    framework: str
    xs: Sequence[Any]
    labels: Sequence[str]

    def check(self, modes: Sequence[str], *, eps: float, **options: Any) -> None:
        """Raise unless the derivatives are right, with a note on the element that differs most."""
        target = _registry.target(self.framework)
        try:
            target.check_gradients(self.fn, self.xs, modes=modes, eps=eps, **options)
        except NotImplementedError:
            raise
        except (AssertionError, RuntimeError) as error:
            if self._is_small_on_cpu():
                tolerance = lambda expected: options["atol"] + options["rtol"] * abs(expected)
                error.add_note(self._describe_largest_difference(eps, tolerance))
            raise

    def errors_by_step(self) -> tuple[list[float], list[float]]:
        """Return steps, and relative errors of differences with them along a random direction."""
        outputs, pullback = _registry.target(self.framework).pullback(self.fn, self.xs)
        kit, random = backend(self.framework), arrays.generator(0)
        directions = [arrays.draw_real(x, random) for x in kit.numpy(list(self.xs))]
        weights = [arrays.draw_real(y, random) for y in kit.numpy(list(outputs))]
        gradients = kit.numpy(list(pullback(convert(weights, self.framework, copy=True))))
        expected = arrays.inner_product(gradients, directions)
        steps = [10.0 ** (-k / 4) for k in range(49)]
        errors: list[float] = []
        for step in steps:
            above, below = (self._results_along(directions, s * step, kit) for s in (1, -1))
            rise = arrays.inner_product(above, weights) - arrays.inner_product(below, weights)
            errors.append(abs(rise / (2 * step) - expected) / (abs(expected) or 1.0))
        return steps, errors

    def _results_along(self, directions: Sequence[Any], step: float, kit: Backend) -> list[Any]:
        """Return the results, as NumPy arrays, where all arguments move along their directions."""
        pairs = zip(kit.numpy(list(self.xs)), directions, strict=True)
        moved = [kit.array((x + step * d).astype(x.dtype)) for x, d in pairs]
        return kit.numpy(list(_registry.target(self.framework).pullback(self.fn, moved)[0]))

    def _is_small_on_cpu(self) -> bool:
        specs = [owner.spec(x) for x in self.xs if (owner := _registry.array_owner(x))]
        on_host = all(spec.device == "cpu" for spec in specs)
        return on_host and sum(math.prod(spec.shape) for spec in specs) <= _MANY_ELEMENTS

    def _describe_largest_difference(self, eps: float, tolerance: Callable[[float], float]) -> str:
        """Return a sentence on the element of the Jacobian that differs most, for real steps."""
        outputs, pullback = _registry.target(self.framework).pullback(self.fn, self.xs)
        names = [f"result[{k}]" for k in range(len(outputs))] if len(outputs) > 1 else ["result"]
        result_labels = _element_labels(outputs, names)
        argument_labels = _element_labels(self.xs, self.labels)
        jacobian = [
            _real_parts(pullback(self._unit_cotangents(outputs, y)))
            for y in range(len(result_labels))
        ]
        worst, text = 0.0, "Gradients of first order agree with finite differences."
        for x, argument in enumerate(argument_labels):
            results = [_real_parts(self._results_at_step(x, step * eps)) for step in _STEPS]
            for y, result in enumerate(result_labels):
                values = [elements[y] for elements in results]
                expected = (values[1] - values[0]) / (2 * eps)
                difference = abs(jacobian[y][x] - expected)
                if difference - tolerance(expected) > worst:
                    worst = difference - tolerance(expected)
                    text = (
                        f"The derivative of {result} of {self.name} by {argument} is "
                        f"{jacobian[y][x]:.6g}, and finite differences give {expected:.6g}."
                        f"{_explain_by_rounding(values[2:], difference, eps)}"
                    )
        return text

    def _unit_cotangents(self, outputs: Sequence[Any], position: int) -> list[Any]:
        """Return cotangents that are 1 for one element of all outputs and 0 for the others."""
        cotangents = [y * 0 for y in convert(list(outputs), "numpy", copy=True)]
        _add_at(cotangents, position, 1)
        return convert(cotangents, self.framework, copy=True)

    def _results_at_step(self, position: int, step: float) -> Sequence[Any]:
        """Return the results where `step` is added to one element of all arguments."""
        target = _registry.target(self.framework)
        detached = target.pullback(lambda *xs: xs, self.xs)[0]
        xs = [x + 0 for x in convert(list(detached), "numpy", copy=True)]  # + 0: writable
        _add_at(xs, position, step)
        return target.pullback(self.fn, convert(xs, self.framework, copy=True))[0]


def _add_at(arrays: Sequence[Any], position: int, step: float) -> None:
    """Add `step` to one element of NumPy arrays, counted through all of them."""
    for array in arrays:
        if position < array.size:
            array.flat[position] += step
            return
        position -= array.size


def _real_parts(arrays: Sequence[Any]) -> list[float]:
    """Return the real parts of all elements."""
    on_host = convert(list(arrays), "numpy", copy=True)
    return [float(element.real) for array in on_host for element in array.flat]


def _element_labels(arrays: Sequence[Any], labels: Sequence[str]) -> list[str]:
    """Return a label for each element, as a reader of code would write it: `result[2, 1]`."""
    return [
        f"{label}{list(index) if index else ''}"
        for array, label in zip(arrays, labels, strict=True)
        for index in itertools.product(*map(range, array.shape))
    ]


def _explain_by_rounding(values_at_steps: Sequence[float], difference: float, step: float) -> str:
    """Return a sentence if the rounding errors of the function may explain a difference, else "".

    The fourth difference of values at equal steps is all rounding error if the function is smooth,
    and its variance is 70 times that of one value.
    """
    windows = zip(*(values_at_steps[k:] for k in range(5)), strict=False)
    fourth_differences = [a - 4 * b + 6 * c - 4 * d + e for a, b, c, d, e in windows]
    noise = math.sqrt(sum(x * x for x in fourth_differences) / len(fourth_differences) / 70)
    if difference > _MUCH * noise / step:
        return ""
    return (
        f" But the function is accurate to about {noise:.0e} only, as it is where it computes in "
        f"single precision, and a step of {step:.0e} magnifies that. Compute in double precision, "
        "or pass a larger step, with tolerances of the same size: eps=1e-2, atol=1e-2, rtol=1e-2."
    )
