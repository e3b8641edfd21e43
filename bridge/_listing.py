"""A function written out: its operators one after the other, in no framework's terms."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

from bridge._errors import OptionError
from bridge._spec import ArraySpec


@dataclasses.dataclass(frozen=True, slots=True)
class Value:
    """An array of a listing: an input, a constant or the result of an instruction.

    Attributes:
        number: Which one, inputs counted first, then constants, then instructions.
        item: Which of several results, if an instruction has several.
    """

    number: int
    item: int | None = None


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Instruction:
    """An operator applied to values.

    Attributes:
        operator: Its name, as its framework spells it: `aten.add.Tensor`.
        args: Numbers, strings, None, dtypes by name, Values, and sequences of them.
        kwargs: The same by keyword.
        results: The spec of the result, specs of several; `None` for what is no array.
        operands: The Values among the arguments, in the order in which `parts` takes them.
        draw: For an operator that draws random numbers, how many others draw before it.
        parts: The same in terms of other operators, `None` where there is no such thing.
    """

    operator: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: Any
    operands: tuple[Value, ...]
    draw: int | None
    parts: Callable[[], "Listing | None"]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Listing:
    """A pure function of arrays as instructions, with static shapes.

    Attributes:
        inputs: Of the arguments.
        constants: NumPy arrays.
        instructions: In an order in which they can be evaluated.
        outputs: What is returned, `None` for what is no array.
        seed: Position of the input that random numbers follow from, if there is one.
    """

    inputs: tuple[ArraySpec, ...]
    constants: tuple[Any, ...]
    instructions: tuple[Instruction, ...]
    outputs: tuple[Value | None, ...]
    seed: int | None = None


Rule = Callable[..., Any]
# What users have registered, by the names of operators.
RULES: dict[str, Rule] = {}
_PARTS_OF_A_NAME = 3  # namespace, operator, overload


def torch_operator(name: str, /) -> Callable[[Rule], Rule]:
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

    def register(rule: Rule) -> Rule:
        RULES[name] = rule
        return rule

    return register
