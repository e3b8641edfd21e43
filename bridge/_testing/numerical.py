"""Gradients by differences of values."""

from collections.abc import Callable, Sequence
from typing import Any

from bridge._core import pytree
from bridge._core.errors import ArgumentError
from bridge._testing import arguments
from bridge._testing.backend import Backend, backend
from bridge._testing.numpy import arrays


def numerical_gradient(
    fn: Callable[..., Any], *args: Any, eps: float | None = None
) -> tuple[Any, ...]:
    """Return the gradient of `fn` by central differences of its values, to look at.

    Args:
        fn: A function whose result is one real number, of any shape with one element.
        *args: Its arguments, trees with arrays of one framework, or of NumPy.
        eps: The step. By default, for each element the cube root of the precision of its dtype,
            times its magnitude where that is more than 1: 6e-6 for float64, and 5e-3 for float32.

    Returns:
        A tuple like the arguments, with a gradient for each array of real or complex numbers, and
        None for each other leaf. It has about two thirds of the digits of the dtype. By complex
        numbers it is what the framework calls the gradient: df/dx + i df/dy in torch, MLX and for
        NumPy, and its conjugate in JAX.

    Raises:
        ArgumentError: If the result is no real number, or the arrays are of several frameworks.

    Example:
        >>> import torch
        >>> from bridge.testing import numerical_gradient
        >>> x = {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)}
        >>> (gradient,) = numerical_gradient(lambda x: (x["w"] ** 3).sum(), x)
        >>> gradient["w"].round(decimals=6)
        tensor([ 3., 12.], dtype=torch.float64)
    """
    given = arguments.read(args, [fn])
    kit = _find_kit(given.owners)
    with given.precision_context(kit):
        flat = given.make_flat(fn, kit)
        gradients = [
            kit.array(_differentiate(flat, given.primals, i, kit, eps))
            for i in range(len(given.primals))
        ]
    leaves = pytree.scatter(gradients, given.argnums, [None] * len(given.leaves))
    return pytree.unflatten(given.structure, leaves)


def _differentiate(
    flat: Callable[..., Any], primals: Sequence[Any], position: int, kit: Backend, eps: float | None
) -> Any:
    """Return the gradient by one of the primals as a NumPy array."""
    x = primals[position]
    sign = -1j if kit.conjugates_gradients else 1j

    def slope(index: int, step: complex) -> float:
        points = [arrays.nudge(x, index, each) for each in (step, -step)]
        values = [_value(flat, kit, pytree.scatter([p], [position], primals)) for p in points]
        taken = arrays.distance(*points)  # in the precision of `x` it is not quite twice the step
        if not taken:
            raise ArgumentError(f"a step of {abs(step)} is lost in the rounding of {x.dtype.name}.")
        return (values[0] - values[1]) / taken

    slopes: list[complex] = []
    for index, size in enumerate(arrays.magnitudes(x)):
        step = eps or arrays.precision(x.dtype.name) ** (1 / 3) * max(1.0, size)
        imaginary = sign * slope(index, 1j * step) if arrays.is_complex(x) else 0
        slopes.append(slope(index, step) + imaginary)
    return arrays.fill(x, slopes)


def _value(flat: Callable[..., Any], kit: Backend, primals: Sequence[Any]) -> float:
    """Return the result of a function as a number."""
    results = arguments.flatten(flat(*map(kit.array, primals)))[0]
    values = [arrays.make(y, None) for y in kit.numpy(results)]
    if len(values) != 1 or values[0].size != 1 or arrays.is_complex(values[0]):
        shapes = ", ".join(f"{value.dtype.name}{list(value.shape)}" for value in values)
        raise ArgumentError(
            f"a gradient is of one real number, and the function returned {shapes or 'nothing'}. "
            "Take a sum of it, or the real part."
        )
    return float(values[0].item())


def _find_kit(owners: Sequence[str | None]) -> Backend:
    """Return the framework of the arguments."""
    names = {name for name in owners if name is not None and name != "numpy"}
    if len(names) > 1:
        raise ArgumentError(
            "numerical_gradient needs arrays of one framework, not of "
            f"{' and '.join(sorted(names))}."
        )
    return backend(names.pop() if names else "numpy")
