"""Comparison of gradient rules with the values of their functions."""

from collections.abc import Callable
from typing import Any

from bridge._calls.black_box_function import BlackBoxFunction
from bridge._core.errors import ArgumentError


def check_rule(
    fn: Callable[..., Any], *args: Any, atol: float = 1e-6, seed: int = 0, **kwargs: Any
) -> None:
    """Raise unless the gradient rules of `fn`, a function without autodiff, suit its values.

    For `ParameterShift`, values at random shifts of each element are compared with the
    trigonometric interpolation through others, which takes no small step: with an `atol` of some
    standard deviations it serves functions with shots too. So is `then=ParameterShift()` of other
    rules, whose gradients are compared with central differences of the values, for random
    cotangents.

    Args:
        fn: A function that `numpy2torch`, `numpy2jax` or `numpy2mlx` made.
        *args: Its arguments, at whose values the rules are checked.
        atol: The tolerance, relative to values that are larger than 1. Arguments of single
            precision need a larger one.
        seed: The seed of random shifts and cotangents.
        **kwargs: Keyword arguments of `fn`.

    Raises:
        AssertionError: If a rule is wrong, with the argument, the element and both values.
        ArgumentError: If `fn` is another function, or no rule can be checked.

    Example:
        >>> import numpy as np, torch
        >>> from bridge import numpy2torch
        >>> from bridge.rules import ParameterShift
        >>> from bridge.testing import check_rule
        >>> f = numpy2torch(lambda x: np.cos(2 * x), gradient=ParameterShift((2,)))
        >>> check_rule(f, torch.tensor(0.3, dtype=torch.float64))
    """
    if not isinstance(fn, BlackBoxFunction):
        raise ArgumentError(
            f"check_rule is for functions that numpy2torch, numpy2jax or numpy2mlx made, and got a "
            f"{type(fn).__name__}. Check its derivatives by check_gradients."
        )
    fn.check_rules(args, kwargs, atol=atol, seed=seed)
