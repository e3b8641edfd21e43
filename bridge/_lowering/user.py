"""What users register: how operators are computed where they are compiled."""

import re
from collections.abc import Callable
from typing import Any

from bridge._core.errors import OptionError

Lowering = Callable[..., Any]
# What users have registered, by the names of operators.
USER_LOWERINGS: dict[str, Lowering] = {}
_PARTS_OF_A_NAME = 3  # namespace, operator, overload


def torch_operator(name: str, /) -> Callable[[Lowering], Lowering]:
    """A decorator that registers how an operator of torch is computed where it is compiled.

    With `lower="xla"`, a function of torch is compiled operator by operator. The decorated
    function computes one of them with `jax.numpy`; JAX never differentiates it, since the
    derivatives of an operator are operators, too. It takes precedence over what is built in, in
    whatever is compiled from then on.

    Args:
        name: The operator and its overload, as in `aten.add.Tensor` and `mine.scale.default`.

    Returns:
        A decorator, which returns its argument: a function with the signature of the operator, of
        arrays where that has tensors and of names such as `"float32"` where that has dtypes. Its
        results have the shapes and dtypes that torch finds.

    Raises:
        OptionError: When `name` is no name of three parts.

    Example:
        >>> import jax.numpy as jnp
        >>> @torch_operator("aten.sinc.default")
        ... def sinc(x):
        ...     return jnp.sinc(x)
    """
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance], as a decorator
        example = str(name) if re.fullmatch(r"\w+\.\w+\.\w+", str(name)) else "aten.add.Tensor"
        raise OptionError(
            "torch_operator expects the name of an operator, but got "
            f'{getattr(name, "__name__", name)}. Write @torch_operator("{example}").'
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
