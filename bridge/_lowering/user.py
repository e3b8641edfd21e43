"""Lowerings that users register, for operators in compiled code."""

import re
import warnings
from collections.abc import Callable
from typing import Any

from bridge._core.errors import OptionError
from bridge._core.tracebacks import user_stacklevel

Lowering = Callable[..., Any]
# By the names of operators.
USER_LOWERINGS: dict[str, Lowering] = {}
_PARTS_OF_A_NAME = 3  # namespace, operator, overload


def register_lowering(name: str, /) -> Callable[[Lowering], Lowering]:
    """Register the lowering of an operator of torch to `jax.numpy`; a decorator.

    With `lower="xla"`, a function of torch is compiled operator by operator. The decorated
    function computes one of them. JAX never differentiates it, since the derivatives of an operator
    are operators too. It takes precedence over a lowering that is built in, in everything that is
    compiled from then on.

    Args:
        name: The operator and its overload, as in `aten.add.Tensor` and `mine.scale.default`.

    Returns:
        A decorator, which returns its argument: a function with the signature of the operator, of
        arrays where that has tensors and of names such as `"float32"` where that has dtypes. Its
        results must have the shapes that torch says; they are cast to its dtypes.

    Raises:
        OptionError: If `name` does not have three parts.

    Example:
        >>> import jax.numpy as jnp
        >>> @register_lowering("aten.sinc.default")
        ... def sinc(x):
        ...     return jnp.sinc(x)
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance], as a decorator
        example = str(name) if re.fullmatch(r"\w+\.\w+\.\w+", str(name)) else "aten.add.Tensor"
        raise OptionError(
            "register_lowering expects the name of an operator, but got "
            f'{getattr(name, "__name__", name)}. Write @register_lowering("{example}").'
        )
    if name.count(".") != _PARTS_OF_A_NAME - 1 or not all(name.split(".")):
        raise OptionError(
            f"{name!r} names no operator. Write its namespace, name and overload, as in "
            '"aten.add.Tensor" or "mine.scale.default".'
        )

    def register(rule: Lowering) -> Lowering:
        USER_LOWERINGS[name] = rule
        return rule

    return register


def torch_operator(name: str, /) -> Callable[[Lowering], Lowering]:
    """Register a lowering; deprecated, use `register_lowering`."""
    warnings.warn(
        "bridge.torch_operator is called bridge.register_lowering now, and goes with version 0.2.",
        DeprecationWarning,
        stacklevel=user_stacklevel(),
    )
    return register_lowering(name)
