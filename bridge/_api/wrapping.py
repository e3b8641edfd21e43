"""The wrapping of a function or a module of any framework for any other."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._api.convert import convert
from bridge._api.module_parts import check_no_parameters
from bridge._calls.bridged_function import BridgedFunction
from bridge._calls.bridged_module import BridgedModule
from bridge._calls.rewrapping import make_counter
from bridge._calls.wrong_framework import Direction, check_function
from bridge._core.errors import ArgumentError, OptionError


def wrap(
    fn: Callable[..., Any] | None,
    *,
    direction: Direction,
    static: tuple[int | Sequence[int], str | Sequence[str]],
    device: str | None,
    options: dict[str, Any],
    make_function: type[BridgedFunction] = BridgedFunction,
) -> Any:
    """Wrap `fn` for callers of another framework; without `fn`, return a decorator."""
    nums, names = static
    make = functools.partial(
        _wrap,
        direction=direction,
        make_function=make_function,
        static=(_sequence(nums), _sequence(names)),
        device=device,
        options=options,
    )
    return make if fn is None else make(fn)


def _wrap(
    fn: Any, *, direction: Direction, make_function: type[BridgedFunction], **options: Any
) -> Any:
    _check(fn, direction)
    source, target = direction.source, direction.target
    if not _registry.source(source).can_functionalize(fn):
        check_no_parameters(fn, direction)
        function = make_function(fn, frameworks=(source, target), **options)
        function.wrapper_counter = make_counter(fn, str(direction))
        return function
    if any(options["static"]):
        raise OptionError(
            "a module has no static arguments: numbers, strings and other values that are no "
            "arrays reach it as they are."
        )
    has_64_bits = _registry.target_arrays(target).supports_dtype("float64")
    rewrap = functools.partial(_wrap, direction=direction, make_function=make_function, **options)
    apply, modes, *values = _registry.source(source).functionalize(fn, allow_64_bits=has_64_bits)
    apply.__name__ = apply.__qualname__ = type(fn).__name__
    options["static"] = ((0,), ())  # the modes, such as training or evaluation
    function = BridgedFunction(apply, frameworks=(source, target), **options)
    function.wrapper_counter = make_counter(fn, str(direction))
    params, buffers = convert(values, target)
    return BridgedModule(fn, function, modes, params, buffers, rewrap=rewrap)


def _check(fn: Any, direction: Direction) -> None:
    """Raise unless `fn` can be wrapped for this direction."""
    if isinstance(fn, BridgedModule):
        raise ArgumentError(
            f"{direction} expects a function of {direction.source}, but got {fn!r}. Its function "
            "is `apply(params, buffers, *args)`: pass that."
        )
    if isinstance(fn, BridgedFunction) and fn.target_name != direction.source:
        is_ready = fn.target_name == direction.target
        raise ArgumentError(
            f"{direction} expects a function of {direction.source}, but got {fn!r}, which is "
            f"called with arrays of {fn.target_name}. "
            + (
                "Call it as it is."
                if is_ready
                else f"Did you mean {direction.suggest_wrapper(fn.target_name)}?"
            )
        )
    check_function(fn, direction)


def _sequence(one_or_more: Any) -> Sequence[Any]:
    return (one_or_more,) if isinstance(one_or_more, (int, str)) else tuple(one_or_more)
