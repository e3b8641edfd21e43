"""Checks of the rules of custom functions, which are observed while MLX calls them.

NOTE [rules that are watched]
MLX does not tell which rules a custom function has, and accepts whatever a rule returns: where
there are fewer arrays than arguments, it uses the cotangent as a gradient. So a derivative is built
once for nothing, and the calls of Python functions are observed meanwhile: whatever MLX calls after
it has run the function is a rule of the user, or a function that is rerun where there is no rule.
This happens in a thread of ours, so that the user's profiler is left alone.
"""

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import TracerError, lazy_stream, on_other_thread
from bridge._arrays.mlx.upstream.dot_graph import active_arrays, read_graph
from bridge._arrays.mlx.upstream.errors import describe_missing_rule, looks_at_values
from bridge._core.errors import NoRuleError
from bridge._core.op import Positions, Specs
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.eager import example_inputs
from bridge._sources.mlx.graph_summary import has_float64, placeholders
from bridge._sources.mlx.random import Fun

_GRADIENT_ARGUMENTS = 3  # primals, cotangents, outputs
# From all primals to the function of the free ones.
Partial = Callable[[Sequence[mx.array]], Fun]


@dataclasses.dataclass(frozen=True)
class _RuleCall:
    """A call of a rule.

    Attributes:
        name: The name of the rule.
        arguments: The positional arguments, then those by keyword.
        result: The value that it returned.
    """

    name: str
    arguments: list[Any]
    result: Any


@dataclasses.dataclass(eq=False)
class _Observer:
    """A profiler of the calls while a derivative is built: NOTE [rules that are watched].

    Attributes:
        free_primals: The arrays that the derivative is taken by.
        derivative_frame: The frame that asks MLX for the derivative.
        rules: The calls of rules.
        rerun_count: How many functions were rerun.
        has_run: True if the function has run, so that MLX calls rules now.
    """

    free_primals: list[mx.array] = dataclasses.field(default_factory=list)
    derivative_frame: types.FrameType | None = None
    rules: list[_RuleCall] = dataclasses.field(default_factory=list)
    rerun_count: int = 0
    has_run: bool = False
    _functions: set[tuple[Any, ...]] = dataclasses.field(default_factory=set)
    _last_arguments: list[Any] = dataclasses.field(default_factory=list)

    def __call__(self, frame: types.FrameType, event: str, result: Any) -> None:
        """Note an event, as `sys.setprofile` reports it."""
        if event not in {"call", "return"}:
            return
        if not self.has_run:
            self._functions.add(_function_key(frame))
        elif frame.f_back is not self.derivative_frame:
            return
        elif event == "call":
            self._last_arguments = _arguments(frame)
            self.rerun_count += _function_key(frame) in self._functions
        elif _function_key(frame) not in self._functions:
            self.rules.append(_RuleCall(frame.f_code.co_name, self._last_arguments, result))

    def noting_run(self, fun: Fun) -> Fun:
        """Return `fun` so that it notes its arguments, and that it has run."""

        def run(*xs: mx.array) -> list[mx.array]:
            self.free_primals[:] = xs
            outputs = fun(*xs)
            self.has_run = True
            return outputs

        return run


def _function_key(frame: types.FrameType) -> tuple[Any, ...]:
    """Return a key of the function of a frame: its code, and the objects that it closes over."""
    closed = frame.f_code.co_freevars
    local = frame.f_locals if closed else {}
    return frame.f_code, *(id(local.get(name)) for name in closed)


def _arguments(frame: types.FrameType) -> list[Any]:
    """Return the arguments of the call of a frame: positional ones without `self`, then others."""
    code, local = frame.f_code, frame.f_locals
    count = code.co_argcount
    names = code.co_varnames
    positional = [local[name] for name in names[:count] if name != "self"]
    by_keyword = [local[name] for name in names[count : count + code.co_kwonlyargcount]]
    end = count + code.co_kwonlyargcount
    if code.co_flags & inspect.CO_VARARGS:
        positional += local[names[end]]
        if not count:  # a wrapper of a method also gets its object
            positional = positional[-_GRADIENT_ARGUMENTS:]
        end += 1
    if code.co_flags & inspect.CO_VARKEYWORDS:
        by_keyword.append(local[names[end]])
    return [*positional, *by_keyword]


def has_forward_rules(partial: Partial, primals: Specs, argnums: Positions, name: str) -> bool:
    """Return True if tangents follow from forward rules of the user alone."""

    def build(observer: _Observer, args: list[mx.array]) -> None:
        xs = [args[i] for i in argnums]
        observer.derivative_frame = inspect.currentframe()
        try:
            mx.jvp(observer.noting_run(partial(args)), xs, xs)
        except (ValueError, RuntimeError) as error:
            reason = describe_missing_rule(error)
            if reason is None:
                raise
            raise NoRuleError(
                f"{name} has no forward mode: {reason} in forward mode, so that nothing tells "
                "whether a custom function after that has a forward rule. Use reverse mode, or put "
                "that operation into an mx.custom_function with a .jvp."
            ) from error

    observer = _observe(build, primals)
    if observer.rules and observer.rerun_count:
        raise NoRuleError(
            f"{name} has no forward mode: a custom function in it has a forward rule, "
            f"{observer.rules[0].name}, and another custom function or checkpoint has none. Give "
            "each of them one, with its .jvp."
        )
    return bool(observer.rules)


def check_rule_gradients(
    partial: Partial, primals: Specs, argnums: Positions, cotangents: Specs, name: str
) -> None:
    """Raise if a rule returns gradients that do not fit: NOTE [rules that are watched]."""
    count = len(primals)

    def build(observer: _Observer, args: list[mx.array]) -> None:
        observer.derivative_frame = inspect.currentframe()
        fun = observer.noting_run(partial(args[:count]))
        mx.vjp(fun, [args[i] for i in argnums], args[count:])

    def check(observer: _Observer) -> None:
        for rule in observer.rules:
            if len(rule.arguments) >= _GRADIENT_ARGUMENTS:
                _check_rule(rule, observer.free_primals, name)

    _observe(build, (*primals, *cotangents), check)


def _observe(
    build: Callable[[_Observer, list[mx.array]], None],
    specs: Specs,
    check: Callable[[_Observer], None] = lambda _: None,
) -> _Observer:
    """Observe `build` on arrays without values, or on examples if it needs values; then check."""

    def run(make_arrays: Callable[[Specs], list[mx.array]]) -> _Observer:
        observer = _Observer()
        with lazy_stream(has_float64=has_float64(specs)), dry_run():
            args = make_arrays(specs)
            sys.setprofile(observer)
            try:
                build(observer, args)
            except NoRuleError:
                if make_arrays is placeholders:
                    raise  # made-up values may take a branch that no call takes
            finally:
                sys.setprofile(None)
            check(observer)
        return observer

    try:
        return on_other_thread(lambda: run(placeholders))
    except (ValueError, RuntimeError, TracerError) as error:  # the last if bridge converts one
        if not (isinstance(error, TracerError) or looks_at_values(error)):
            raise
    return on_other_thread(lambda: run(example_inputs))


def _check_rule(rule: _RuleCall, free_primals: Sequence[mx.array], name: str) -> None:
    """Raise unless a rule returned a gradient of the right shape for each active argument."""
    primals, _, _, *by_keyword = rule.arguments
    inputs = [x for x in _leaves([primals, by_keyword]) if isinstance(x, mx.array)]
    returned = [*_leaves(rule.result)]
    arrays = [x for x in returned if isinstance(x, mx.array)]
    for i, x in enumerate(inputs):
        intended = returned[i] if i < len(returned) else None
        # MLX takes the i-th array for the gradient, whatever else was returned before it.
        if i < len(arrays) and arrays[i] is intended:
            if arrays[i].shape != x.shape and _depends_on(x, free_primals):
                raise NoRuleError(
                    f"the rule {rule.name} of a custom function in {name} returned a gradient of "
                    f"shape {list(arrays[i].shape)} for argument {i}, whose shape is "
                    f"{list(x.shape)}. Where an argument is broadcast, add its gradient up over "
                    "the axes that it lacks, with mx.sum."
                )
            continue
        if _depends_on(x, free_primals):
            what = f"{type(intended).__name__} for" if i < len(returned) else "nothing for"
            raise NoRuleError(
                f"the rule {rule.name} of a custom function in {name} returned {what} argument {i} "
                f"of {len(inputs)}, and MLX would take another array for its gradient. Return an "
                "array of MLX for each argument, mx.zeros_like(x) where it has no gradient."
            )


def _leaves(tree: Any) -> Iterator[Any]:
    """Return the leaves of a tree in the order of MLX."""
    if isinstance(tree, dict):
        tree = [*tree.values()]
    if not isinstance(tree, (list, tuple)):
        yield tree
        return
    for part in tree:
        yield from _leaves(part)


def _depends_on(x: mx.array, free_primals: Sequence[mx.array]) -> bool:
    """Return True if MLX computes a derivative of `x` by one of `free_primals`."""
    if not mx.issubdtype(x.dtype, mx.inexact):
        return False
    y = mx.contiguous(x)
    names = {f"x_{i}": primal for i, primal in enumerate(free_primals)}
    return "y" in active_arrays(read_graph([y], {**names, "y": y}), names)
