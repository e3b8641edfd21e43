"""A check that a module keeps no values from call to call but in its buffers.

NOTE [kept values]
A module may count its calls in an attribute, or make a tensor in its first call. Its graph starts
from what it was when it was captured, and where it is rerun, its attributes are restored. A cache
is an attribute too, but one that changes no results. So where a call has changed attributes, the
module is called twice on example inputs, which are others in the second call: with the attributes
that the first call has left, and with those of before. If the results differ, it is refused. Its
parameters are near its own, since random ones may overflow, and zeros hide what they multiply.
"""

import contextlib
import warnings
from collections.abc import Collection, Sequence
from typing import Any

import torch

from bridge._core.errors import ArgumentError
from bridge._core.op import Specs
from bridge._core.tracebacks import user_stacklevel
from bridge._sources.torch.autodiff.example_inputs import example_inputs
from bridge._sources.torch.capture.environment import Fun, default_state, fork_generators
from bridge._sources.torch.state.attribute_changes import (
    AttributeWatch,
    Changes,
    is_plain,
    watching_attributes,
)
from bridge._sources.torch.state.dry_run import dry_run


def check_keeps_nothing(
    fun: Fun, primals: Specs, dtype: torch.dtype, name: str, watch: AttributeWatch
) -> None:
    """Raise if results of a module depend on its calls before, and warn if they may.

    Args:
        fun: The module as a function of tensors.
        primals: The specs of these.
        dtype: The default dtype.
        name: The name of the module.
        watch: What a call has changed, as far as that counts.
    """
    try:
        changes, trained, has_same_results = _call_twice(fun, primals, dtype, inside=watch.inside)
    except (RuntimeError, ValueError, LookupError, AssertionError):  # of values that are made up
        doubtful = changes = watch.changes
        trained, has_same_results = watch.trained, True
    else:
        doubtful = {k: xs for k, xs in changes.items() if len(xs) > 2 and is_plain(xs)}
    for attribute in trained:
        if len(changes[attribute]) == 2:  # the next call would go on with it
            raise _new_parameter_error(name, attribute, changes[attribute][-1])
    if changes and not has_same_results:
        raise ArgumentError(_text(name, changes, "and its results with it, ", "So "))
    for attribute, values in doubtful.items():
        text = _text(name, {attribute: values}, "", "If results depend on it, ")
        warnings.warn(text, UserWarning, stacklevel=user_stacklevel())


def _text(name: str, changes: Changes, effect: str, condition: str) -> str:
    """Say what calls change, and what to write instead."""
    attribute, values = max(changes.items(), key=lambda item: (len(item[1]), is_plain(item[1])))
    start, *later = map(_described, values)
    others = ", ".join(f"`{x}`" for x in changes if x != attribute)
    return (
        f"{name} changes its attribute `{attribute}` in {'each' if len(later) > 1 else 'a'} call, "
        f"from {start} to {', then to '.join(later)}, {f'and {others}, ' if others else ''}"
        f"{effect}but here each call starts from {start}, as it was when a graph was made. "
        f"{condition}make it a buffer, by `register_buffer`, with a tensor from the start: new "
        "buffers are returned."
    )


def _new_parameter_error(name: str, attribute: str, value: Any) -> ArgumentError:
    return ArgumentError(
        f"{name} makes `{attribute}`, {_described(value)}, while it is called. Each call would "
        "make it anew, and it would not be trained. Make it in `__init__`, or call the module once "
        "in torch before it is wrapped."
    )


def _described(x: Any) -> str:
    if isinstance(x, torch.Tensor):
        return f"a tensor of shape {tuple(x.shape)}"
    if is_plain([x]):
        return repr(x)
    return f"a {'module' if isinstance(x, torch.nn.Module) else 'value'} of type {type(x).__name__}"


def _call_twice(
    fun: Fun, primals: Specs, dtype: torch.dtype, *, inside: bool
) -> tuple[Changes, Collection[str], bool]:
    """Call a module twice in a row; return what the calls change, and what is trained of that.

    Return True as well if the second call has the results that it has after no call.
    """

    def run(seed: int) -> Sequence[torch.Tensor]:
        xs = example_inputs(primals, seed, 1 + seed)
        with fork_generators(xs) as generators:
            for generator in generators:
                generator.manual_seed(seed)
            return [y.detach().clone() for y in fun(*xs)]

    with (
        default_state(dtype),
        watching_attributes(inside=inside, replaces=True) as watch,
        dry_run() as trial,
    ):
        run(0)
        first, trained, buffers = watch.changes, watch.trained, watch.end_buffers
        watch.start, watch.start_buffers = watch.end, buffers
        with trial.keeping_state():
            results = run(1)
        second, watch.start = watch.changes, ()
        if not inside:  # objects in attributes go on too
            watch.start_buffers = {}
            run(0)
            watch.start_buffers = buffers
        with trial.keeping_state() if not inside else contextlib.nullcontext():
            same = all(map(_are_equal, results, run(1)))
    later = {name: values[1:] for name, values in second.items()}
    changes = {name: (*values, *later.get(name, ())) for name, values in first.items()}
    return changes, trained, same


def _are_equal(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())
