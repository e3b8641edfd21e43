"""The wrapping of a function or a module of any framework for any other."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._api.convert import convert_values
from bridge._api.module_parts import check_no_parameters, is_module
from bridge._calls.bridged_function import BridgedFunction
from bridge._calls.functional import BridgedModule, Functional
from bridge._calls.functional_module import take_functional_apart
from bridge._calls.rewrapping import make_counter
from bridge._calls.wrong_framework import Direction, check_function
from bridge._core.errors import ArgumentError, OptionError
from bridge._core.import_path import function_name
from bridge._core.pure_module import PureModule, module_state


def wrap(
    fn: Callable[..., Any] | None,
    *,
    direction: Direction,
    static: tuple[int | Sequence[int], str | Sequence[str]],
    device: str | None,
    options: dict[str, Any],
    make_function: type[BridgedFunction] = BridgedFunction,
    method: Any = None,
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
        method=method,
    )
    return make if fn is None else make(fn)


def _wrap(
    fn: Any,
    *,
    direction: Direction,
    make_function: type[BridgedFunction],
    method: Any,
    **options: Any,
) -> Any:
    _check(fn, direction)
    source, target = direction.source, direction.target
    if isinstance(fn, Functional) or is_module(fn, source):
        return _wrap_module(fn, direction=direction, method=method, **options)
    _check_alone(fn, direction)
    if method is not None:
        kind = "function" if callable(fn) else type(fn).__name__
        raise OptionError(
            f"method= names a method of a module, and {direction} got a {kind}. Pass the module."
        )
    check_no_parameters(fn, direction)
    function = make_function(fn, frameworks=(source, target), **options)
    function.plans.wrapper_counter = make_counter(fn, str(direction))
    return function


def _wrap_module(
    module: Any,
    *,
    direction: Direction,
    method: Any,
    static: tuple[Sequence[int], Sequence[str]],
    **options: Any,
) -> Any:
    """Wrap a module, or a function with weights, as a module of the target."""
    if static[0]:
        raise OptionError("a module takes static_argnames=, but no static_argnums=.")
    target = _registry.target(direction.target)
    pure, params, buffers = _take_apart(module, direction, method)
    function = BridgedFunction(
        pure,
        frameworks=(direction.source, direction.target),
        static=((0,), static[1]),  # the modes and the method are static too
        **options,
    )
    function.plans.wrapper_counter = make_counter(module, str(direction))
    params, buffers = (convert_values(x, direction.target) for x in (params, buffers))
    if target.make_module is not None:
        return target.make_module(pure, function, params, buffers)
    rewrap = functools.partial(
        _wrap_module, direction=direction, method=method, static=static, **options
    )
    return BridgedModule(module, pure, function, params, buffers, rewrap=rewrap)


def _take_apart(
    module: Any, direction: Direction, method: Any
) -> tuple[PureModule, dict[str, Any], dict[str, Any]]:
    if isinstance(module, Functional):
        if method is not None:
            raise OptionError("a Functional is a function, which has no methods for method=.")
        return take_functional_apart(module, direction.source)
    has_64_bits = _registry.target_arrays(direction.target).supports_dtype("float64")
    source = _registry.source(direction.source)
    return source.take_apart(module, method=method, allow_64_bits=has_64_bits)


def _check(fn: Any, direction: Direction) -> None:
    """Raise unless `fn` can be wrapped for this direction."""
    if isinstance(fn, BridgedModule):
        raise ArgumentError(
            f"{direction} expects a function of {direction.source}, but got {fn!r}. Its function "
            "is `apply(params, buffers, *args)`: pass that."
        )
    state = module_state(fn)
    if state is not None and state.pure.framework == direction.source:
        raise ArgumentError(
            f"{direction} expects a module of {direction.source}, but got {fn!r}, which was made "
            f"of one. Call it as it is, or let bridge.to_{direction.source} give the original back."
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


def _check_alone(fn: Any, direction: Direction) -> None:
    """Raise if `fn` is a container with a module or a function, as one that comes with a state."""
    if callable(fn) or not isinstance(fn, (tuple, list, dict)):
        return
    parts = fn.values() if isinstance(fn, dict) else fn
    module = next((part for part in parts if is_module(part, direction.source)), None)
    if module is not None:
        raise ArgumentError(
            f"{direction} expects a function or a module, but got a {type(fn).__name__} with a "
            f"module, {type(module).__name__}. Pass the module alone, bound to its weights if "
            "they are apart from it. A state is an argument of each call, as in `y, state = "
            "layer(x, state)`."
        )
    function = next(filter(callable, parts), None)
    if function is not None and len(fn) > 1:
        raise ArgumentError(
            f"{direction} expects a function or a module, but got a {type(fn).__name__} with a "
            f"function, {function_name(function)}. Pass the function alone, or with its weights "
            "as one module: `bridge.Functional(function, params)`."
        )


def _sequence(one_or_more: Any) -> Sequence[Any]:
    return (one_or_more,) if isinstance(one_or_more, (int, str)) else tuple(one_or_more)
