"""Checks that a user can run on a function of their own."""

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

_MODES = ("fwd", "rev")
_MANY_ELEMENTS = 100
_MUCH = 20  # standard deviations
# Of finite differences, then equal ones for their rounding, which round numbers would hide.
_STEPS = (-1.0, 1.0, *(0.37 * k for k in range(-4, 5)))
_STEP = 1e-6  # finite differences of doubles have half the digits


def check_gradients(
    fn: Callable[..., Any],
    *args: Any,
    order: int = 2,
    modes: str | Sequence[str] | None = None,
    eps: float | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    **kwargs: Any,
) -> None:
    """Raise unless the derivatives of `fn` agree with finite differences.

    Reverse mode, forward mode and, for `order=2`, the gradient of the gradient are checked, by the
    checker of the framework that the arguments belong to, at the values they have; in MLX, which
    has none, along one random direction. A note on the error says which element of which argument
    differs, and whether the function is less accurate than its finite differences need.

    Args:
        fn: A function, bridged or not.
        *args: Its arguments, pytrees. Every floating-point tensor in them is differentiated: they
            must be of double precision, since finite differences have half the digits.
        order: 1 for gradients, 2 for gradients of gradients as well.
        modes: `"rev"` for gradients, `"fwd"` for tangents, or both. By default both, where forward
            mode is skipped with a warning if `fn` has no rule for it.
        eps: Step of the finite differences, 1e-6 by default. With a step, arguments of single
            precision are taken too: 1e-2 suits them, with tolerances alike.
        atol: Absolute tolerance.
        rtol: Relative tolerance.
        **kwargs: Keyword arguments of `fn`, checked likewise.

    Raises:
        ArgumentError: If no array among the arguments can be differentiated, or one is of single
            precision.
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
    chosen = (modes,) if isinstance(modes, str) else tuple(_MODES if modes is None else modes)
    if not chosen or {*chosen} - {*_MODES}:
        raise OptionError(f'modes={modes!r}, but the modes are "fwd" and "rev".')
    leaves, structure = pytree.flatten((args, kwargs), _registry.pytree_node)
    owners = [_registry.array_owner(leaf) for leaf in leaves]
    at = [i for i, face in enumerate(owners) if face and _smooth(face, leaves[i])]
    names = {face.name for i in at if (face := owners[i])}
    if len(names) != 1 or not names <= _registry.frameworks():
        raise ArgumentError(
            f"check_gradients needs floating-point arrays of one framework, not of {sorted(names)}."
        )
    name = names.pop()
    parameters = arguments.parameters(fn, (), ())
    labels = [f"argument {parameters.argument_name(p)}" for p in pytree.paths(structure)]
    if eps is None:
        _check_precision([leaves[i] for i in at], [labels[i] for i in at])

    def flat(*free: Any) -> tuple[Any, ...]:
        positional, named = pytree.unflatten(structure, pytree.replace_at(free, at, leaves))
        outputs = pytree.flatten(fn(*positional, **named), _registry.pytree_node)[0]
        faces = [_registry.array_owner(y) for y in outputs]
        return tuple(y for y, face in zip(outputs, faces, strict=True) if face and _smooth(face, y))

    subject = _Subject(
        flat,
        import_path.function_name(inspect.unwrap(fn)),
        name,
        [leaves[i] for i in at],
        [labels[i] for i in at],
    )
    how = {"order": order, "eps": eps or _STEP, "atol": atol, "rtol": rtol}
    try:
        subject.check(chosen, **how)
    except NotImplementedError as error:
        if modes is not None:
            raise
        warnings.warn(
            f"check_gradients skips forward mode of {subject.name}, which has no rule for it "
            f'({error}). With modes="rev" it is not asked for.',
            stacklevel=2,
        )
        subject.check(("rev",), **how)


def _smooth(face: Any, x: Any) -> bool:
    return face.name in _registry.frameworks() and face.spec(x).differentiable


def _check_precision(xs: Sequence[Any], labels: Sequence[str]) -> None:
    """Raise for arguments of single precision."""
    for x, label in zip(xs, labels, strict=True):
        face = _registry.array_owner(x)
        if face and face.spec(x).dtype not in ("float64", "complex128"):
            raise ArgumentError(
                f"{label} is {face.spec(x)}, and finite differences need float64: a step of "
                f"{_STEP} is lost in its rounding. Convert it, or pass a larger step, with "
                "tolerances alike: eps=1e-2, atol=1e-2, rtol=1e-2."
            )


@dataclasses.dataclass(frozen=True)
class _Subject:
    """A function of flat arrays that is checked, at the values of these arrays."""

    fn: Callable[..., tuple[Any, ...]]
    name: str
    framework: str
    xs: Sequence[Any]
    labels: Sequence[str]

    def check(self, modes: Sequence[str], *, eps: float, **how: Any) -> None:
        """Raise unless its derivatives are right, with a note on where they are not."""
        target = _registry.target(self.framework)
        try:
            target.check_gradients(self.fn, self.xs, modes=modes, eps=eps, **how)
        except NotImplementedError:
            raise
        except (AssertionError, RuntimeError) as error:
            if self._is_small():
                near = lambda expected: how["atol"] + how["rtol"] * abs(expected)
                error.add_note(self._difference(eps, near))
            raise

    def _is_small(self) -> bool:
        specs = [face.spec(x) for x in self.xs if (face := _registry.array_owner(x))]
        on_host = all(spec.device == "cpu" for spec in specs)
        return on_host and sum(math.prod(spec.shape) for spec in specs) <= _MANY_ELEMENTS

    def _difference(self, eps: float, tolerance: Callable[[float], float]) -> str:
        """The element of the Jacobian that differs most, by real steps, as a sentence."""
        outputs, pull = _registry.target(self.framework).pullback(self.fn, self.xs)
        names = [f"result[{k}]" for k in range(len(outputs))] if len(outputs) > 1 else ["result"]
        results = _elements(outputs, names)
        arguments = _elements(self.xs, self.labels)
        rows = [_numbers(pull(self._unit(outputs, r))) for r in range(len(results))]
        worst, text = 0.0, "Gradients of first order agree with finite differences."
        for x, argument in enumerate(arguments):
            columns = [_numbers(self._moved(x, step * eps)) for step in _STEPS]
            for y, result in enumerate(results):
                values = [column[y] for column in columns]
                expected = (values[1] - values[0]) / (2 * eps)
                difference = abs(rows[y][x] - expected)
                if difference - tolerance(expected) > worst:
                    worst = difference - tolerance(expected)
                    text = (
                        f"The derivative of {result} of {self.name} by {argument} is "
                        f"{rows[y][x]:.6g}, and finite differences give {expected:.6g}."
                        f"{_precision(values[2:], difference, eps)}"
                    )
        return text

    def _unit(self, outputs: Sequence[Any], position: int) -> list[Any]:
        """Cotangents that are 1 for one element of all results and 0 for the others."""
        hosts = [y * 0 for y in convert(list(outputs), "numpy", copy=True)]
        _at(hosts, position, 1)
        return convert(hosts, self.framework, copy=True)

    def _moved(self, position: int, step: float) -> Sequence[Any]:
        """The results where one element of all arguments is another."""
        target = _registry.target(self.framework)
        plain = target.pullback(lambda *xs: xs, self.xs)[0]
        hosts = [x + 0 for x in convert(list(plain), "numpy", copy=True)]  # to be written
        _at(hosts, position, step)
        return target.pullback(self.fn, convert(hosts, self.framework, copy=True))[0]


def _at(arrays: Sequence[Any], position: int, step: float) -> None:
    """Add to one element of all `arrays`, of NumPy."""
    for array in arrays:
        if position < array.size:
            array.flat[position] += step
            return
        position -= array.size


def _numbers(arrays: Sequence[Any]) -> list[float]:
    """The real parts of all elements."""
    hosts = convert(list(arrays), "numpy", copy=True)
    return [float(element.real) for array in hosts for element in array.flat]


def _elements(arrays: Sequence[Any], labels: Sequence[str]) -> list[str]:
    """Each element as a reader of code would write it: `result[2, 1]`."""
    return [
        f"{label}{list(index) if index else ''}"
        for array, label in zip(arrays, labels, strict=True)
        for index in itertools.product(*map(range, array.shape))
    ]


def _precision(values: Sequence[float], difference: float, eps: float) -> str:
    """A sentence on values at equal steps, if their rounding may be why a slope differs.

    The fourth difference of a smooth function is all rounding, 70 times its variance.
    """
    spans = zip(*(values[k:] for k in range(5)), strict=False)
    fourth = [a - 4 * b + 6 * c - 4 * d + e for a, b, c, d, e in spans]
    noise = math.sqrt(sum(x * x for x in fourth) / len(fourth) / 70)
    if difference > _MUCH * noise / eps:
        return ""
    return (
        f" But the function is accurate to about {noise:.0e} only, as it is where it computes in "
        f"single precision, and a step of {eps:.0e} magnifies that. Compute in double precision, "
        "or pass a larger step, with tolerances alike: eps=1e-2, atol=1e-2, rtol=1e-2."
    )
