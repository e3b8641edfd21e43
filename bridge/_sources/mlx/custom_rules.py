"""The rules of custom functions, watched while MLX calls them.

NOTE [rules that are watched]
MLX does not tell which rules a custom function has, and takes whatever a rule returns: where there
are fewer arrays than arguments, it hands on the cotangent as a gradient. So a derivative is built
once for nothing, and the calls of Python are watched meanwhile: whatever MLX calls after it has run
the function is a rule of the user, or a function that is run again where there is no rule. A thread
of ours does so, which leaves the profiler of the user alone.
"""

import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import TracerError, build_stream, on_other_thread
from bridge._core.errors import NoRuleError
from bridge._core.op import Positions, Specs
from bridge._sources.mlx.dot_graph import reachable_from, read_graph
from bridge._sources.mlx.dry_run import dry_run
from bridge._sources.mlx.eager import example_inputs
from bridge._sources.mlx.graph_summary import has_float64, placeholders
from bridge._sources.mlx.missing_rules import looks_at_values
from bridge._sources.mlx.random import Fun

_OF_RULES = 3  # primals, cotangents, outputs
# From all primals to the function of those that move.
Partial = Callable[[Sequence[mx.array]], Fun]


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call of a rule.

    Attributes:
        name: Of the rule.
        arguments: The positional ones, then what it took by keyword.
        result: What it returned.
    """

    name: str
    arguments: list[Any]
    result: Any


@dataclasses.dataclass(eq=False)
class _Observer:
    """The calls of Python while a derivative is built: NOTE [rules that are watched].

    Attributes:
        moving: What the derivative is taken by.
        caller: The frame that asks MLX for the derivative.
        rules: The calls of rules.
        again: How many functions were run again.
        after: Whether the function has been run, so that rules are called.
    """

    moving: list[mx.array] = dataclasses.field(default_factory=list)
    caller: types.FrameType | None = None
    rules: list[_Call] = dataclasses.field(default_factory=list)
    again: int = 0
    after: bool = False
    _ran: set[tuple[Any, ...]] = dataclasses.field(default_factory=set)
    _arguments: list[Any] = dataclasses.field(default_factory=list)

    def __call__(self, frame: types.FrameType, event: str, result: Any) -> None:
        """Take note of an event, as `sys.setprofile` reports it."""
        if event not in {"call", "return"}:
            return
        if not self.after:
            self._ran.add(_function(frame))
        elif frame.f_back is not self.caller:
            return
        elif event == "call":
            self._arguments = _arguments(frame)
            self.again += _function(frame) in self._ran
        elif _function(frame) not in self._ran:
            self.rules.append(_Call(frame.f_code.co_name, self._arguments, result))

    def watch(self, fun: Fun) -> Fun:
        """`fun`, after which rules begin."""

        def run(*xs: mx.array) -> list[mx.array]:
            self.moving[:] = xs
            outputs = fun(*xs)
            self.after = True
            return outputs

        return run


def _function(frame: types.FrameType) -> tuple[Any, ...]:
    """What tells the function of a frame from others: its code, and what it closes over."""
    closed = frame.f_code.co_freevars
    local = frame.f_locals if closed else {}
    return frame.f_code, *(id(local.get(name)) for name in closed)


def _arguments(frame: types.FrameType) -> list[Any]:
    code, local = frame.f_code, frame.f_locals
    count = code.co_argcount
    names = code.co_varnames
    named = [local[name] for name in names[:count] if name != "self"]
    rest: list[Any] = []
    end = count + code.co_kwonlyargcount
    if code.co_flags & 0x04:  # *args
        named += local[names[end]]
        end += 1
    rest += [local[name] for name in names[count : count + code.co_kwonlyargcount]]
    if code.co_flags & 0x08:  # **kwargs
        rest.append(local[names[end]])
    return [*named, *rest]


def has_forward_rules(partial: Partial, primals: Specs, at: Positions, name: str) -> bool:
    """Whether tangents follow from forward rules of the user alone."""

    def build(watch: _Observer, args: list[mx.array]) -> None:
        xs = [args[i] for i in at]
        watch.caller = inspect.currentframe()
        mx.jvp(watch.watch(partial(args)), xs, xs)

    watch = _observe(build, primals)
    if watch.rules and watch.again:
        raise NoRuleError(
            f"forward mode of {name} cannot be had: a custom function in it has a forward rule, "
            f"{watch.rules[0].name}, and another custom function or checkpoint has none. Give each "
            "of them one, with its .jvp."
        )
    return bool(watch.rules)


def check_rules(
    partial: Partial, primals: Specs, at: Positions, cotangents: Specs, name: str
) -> None:
    """Raise where a rule returns gradients that do not fit: NOTE [rules that are watched]."""
    count = len(primals)

    def build(watch: _Observer, args: list[mx.array]) -> None:
        watch.caller = inspect.currentframe()
        mx.vjp(watch.watch(partial(args[:count])), [args[i] for i in at], args[count:])

    def check(watch: _Observer) -> None:
        for rule in watch.rules:
            if len(rule.arguments) >= _OF_RULES:
                _check_rule(rule, watch.moving, name)

    _observe(build, (*primals, *cotangents), check)


def _observe(
    build: Callable[[_Observer, list[mx.array]], None],
    specs: Specs,
    check: Callable[[_Observer], None] = lambda _: None,
) -> _Observer:
    """Watch `build`, on arrays without values unless it looks at them; then `check` it."""

    def run(xs: Callable[[Specs], list[mx.array]]) -> _Observer:
        watch = _Observer()
        with build_stream(has_float64=has_float64(specs)), dry_run():
            args = xs(specs)
            sys.setprofile(watch)
            try:
                build(watch, args)
            except NoRuleError:
                if xs is placeholders:
                    raise  # made-up values may lead where those of a call do not
            finally:
                sys.setprofile(None)
            check(watch)
        return watch

    try:
        return on_other_thread(lambda: run(placeholders))
    except (ValueError, RuntimeError, TracerError) as error:  # the last if bridge converts one
        if not (isinstance(error, TracerError) or looks_at_values(error)):
            raise
    return on_other_thread(lambda: run(example_inputs))


def _check_rule(rule: _Call, moving: Sequence[mx.array], name: str) -> None:
    """Raise unless it returned a gradient for each argument that moves, of its shape."""
    primals, _, _, *rest = rule.arguments  # after which come those by keyword
    inputs = [x for x in _leaves([primals, rest]) if isinstance(x, mx.array)]
    returned = [*_leaves(rule.result)]
    arrays = [x for x in returned if isinstance(x, mx.array)]
    for i, x in enumerate(inputs):
        intended = returned[i] if i < len(returned) else None
        if i < len(arrays) and arrays[i] is intended:
            if arrays[i].shape != x.shape and _depends_on(x, moving):
                raise NoRuleError(
                    f"the rule {rule.name} of a custom function in {name} returned a gradient of "
                    f"shape {list(arrays[i].shape)} for argument {i}, whose shape is "
                    f"{list(x.shape)}. Where an argument is broadcast, add its gradient up over "
                    "the axes that it lacks, with mx.sum."
                )
            continue
        if _depends_on(x, moving):
            what = f"{type(intended).__name__} for" if i < len(returned) else "nothing for"
            raise NoRuleError(
                f"the rule {rule.name} of a custom function in {name} returned {what} argument {i} "
                f"of {len(inputs)}, and MLX would take another array for its gradient. Return an "
                "array of MLX for each argument, mx.zeros_like(x) where it has no gradient."
            )


def _leaves(tree: Any) -> Iterator[Any]:
    """The leaves of a tree, as MLX finds them."""
    if isinstance(tree, dict):
        tree = [*tree.values()]
    if not isinstance(tree, (list, tuple)):
        yield tree
        return
    for part in tree:
        yield from _leaves(part)


def _depends_on(x: mx.array, moving: Sequence[mx.array]) -> bool:
    """Whether MLX computes a derivative of `x`."""
    if not mx.issubdtype(x.dtype, mx.inexact):
        return False
    y = mx.contiguous(x)
    names = {f"x_{i}": each for i, each in enumerate(moving)}
    return "y" in reachable_from(read_graph([y], {**names, "y": y}), names)
