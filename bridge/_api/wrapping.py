"""What wraps a function or a module of any framework for any other."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._api.convert import convert
from bridge._api.module_parts import check_no_parameters
from bridge._calls.bridged_function import BridgedFunction
from bridge._calls.bridged_module import BridgedModule
from bridge._calls.rewrapping import count_wrapper
from bridge._calls.wrong_framework import Direction, check_function
from bridge._core.errors import ArgumentError, OptionError


def wrap(
    fn: Callable[..., Any] | None,
    *,
    direction: tuple[str, str],
    static: tuple[int | Sequence[int], str | Sequence[str]],
    device: str | None,
    options: dict[str, Any],
) -> Any:
    """`fn` for the framework it is brought to; without `fn`, a decorator."""
    nums, names = static
    make = functools.partial(
        _wrap,
        direction=direction,
        static=(_sequence(nums), _sequence(names)),
        device=device,
        options=options,
    )
    return make if fn is None else make(fn)


def _wrap(fn: Any, *, direction: tuple[str, str], **how: Any) -> Any:
    home, away = direction
    _check(fn, Direction(home, away))
    if not _registry.source(home).is_module(fn):
        check_no_parameters(fn, Direction(home, away))
        function = BridgedFunction(fn, direction=direction, **how)
        function.wrapping = count_wrapper(fn, str(Direction(home, away)))
        return function
    if any(how["static"]):
        raise OptionError(
            "a module has no static arguments: numbers, strings and other values that are no "
            "arrays reach it as they are."
        )
    wide = _registry.target_arrays(away).supports_dtype("float64")
    again = functools.partial(_wrap, direction=direction, **how)
    apply, modes, *values = _registry.source(home).functionalize(fn, wide=wide)
    apply.__name__ = apply.__qualname__ = type(fn).__name__
    how["static"] = ((0,), ())
    function = BridgedFunction(apply, direction=direction, **how)
    function.wrapping = count_wrapper(fn, str(Direction(home, away)))
    params, buffers = convert(values, away)
    return BridgedModule(fn, function, modes, params, buffers, again=again)


def _check(fn: Any, crossing: Direction) -> None:
    """Raise unless `fn` can be brought from one framework to the other."""
    if isinstance(fn, BridgedModule):
        raise ArgumentError(
            f"{crossing} expects a function of {crossing.source}, but got {fn!r}. Its function is "
            "`apply(params, buffers, *args)`: pass that."
        )
    if isinstance(fn, BridgedFunction) and fn.target_name != crossing.source:
        called = "Call it as it is." if fn.target_name == crossing.target else ""
        raise ArgumentError(
            f"{crossing} expects a function of {crossing.source}, but got {fn!r}, which is called "
            f"with arrays of {fn.target_name}. "
            f"{called or f'Did you mean {crossing.suggest(fn.target_name)}?'}"
        )
    check_function(fn, crossing)


def _sequence(one_or_more: Any) -> Sequence[Any]:
    return (one_or_more,) if isinstance(one_or_more, (int, str)) else tuple(one_or_more)
