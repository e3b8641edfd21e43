"""Values of Python that a module changes in a call, for the next call to start from.

NOTE [counters]
A module may count its calls in an attribute. Its graph has the count of the first call in it, and
where it is rerun, its attributes are restored. A cache is an attribute too, which is another one
after the first call, and then stays. So where a call has changed attributes, it is made twice in a
row on example inputs: what the second changes again goes on. If the results are others too, the
module is refused.
"""

import contextlib
import contextvars
import dataclasses
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any

import torch

from bridge._arrays.torch.upstream.tensors import hook_dicts
from bridge._core.captured_values import holders
from bridge._core.errors import ArgumentError
from bridge._core.holder import Attributes
from bridge._core.op import Specs
from bridge._core.tracebacks import user_stacklevel
from bridge._sources.torch.autodiff.example_inputs import example_inputs
from bridge._sources.torch.capture.environment import Fun, default_state, fork_generators
from bridge._sources.torch.state.dry_run import dry_run

_Values = dict[str, Any]
_STANDARD = vars(torch.nn.Module()).keys()
_MISSING = object()


@dataclasses.dataclass(eq=False)
class AttributeWatch:
    """Notes on the attributes of a module in the last of its calls.

    Attributes:
        inside: True to look into dicts and objects that attributes hold.
        changes: What the call has changed: by name, the values before and after.
        start: What the parts hold when the next call starts, if not what they hold by themselves.
        end: What they hold after the call.
    """

    inside: bool
    changes: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    start: Sequence[Sequence[_Values]] = ()
    end: Sequence[Sequence[_Values]] = ()

    @contextlib.contextmanager
    def watch_call(self, module: torch.nn.Module) -> Generator[None]:
        """Note what the call within changes."""
        parts = dict(module.named_modules())  # those that the call makes have nothing before it
        for part, contents in zip(parts.values(), self.start, strict=False):
            for members, values in zip(_member_dicts(part), contents, strict=True):
                members.update(values)
        before = self._read(parts)
        yield
        self.changes = {
            name: (before.get(name), value)
            for name, value in self._read(parts).items()
            if value != before.get(name, _MISSING)
        }
        self.end = [[dict(x) for x in _member_dicts(part)] for part in parts.values()]

    def _read(self, parts: Mapping[str, torch.nn.Module]) -> _Values:
        """Return the numbers and strings that parts of a module hold, by name."""
        return {
            ".".join(filter(None, (prefix, *path))): x
            for prefix, part in parts.items()
            for path, x in _plain_values(part, inside=self.inside)
        }


_current = contextvars.ContextVar[AttributeWatch | None]("watch of attributes", default=None)


@contextlib.contextmanager
def watching_attributes(*, inside: bool) -> Generator[AttributeWatch]:
    """Yield notes on what calls of a module within change."""
    watch = AttributeWatch(inside)
    token = _current.set(watch)
    try:
        yield watch
    finally:
        _current.reset(token)


def watched_call(module: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context for a call of a module, which notes what it changes if that is asked."""
    watch = _current.get()
    return contextlib.nullcontext() if watch is None else watch.watch_call(module)


def check_no_counters(
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
        changes, has_same_results = _call_twice(fun, primals, dtype, inside=watch.inside)
    except (RuntimeError, ValueError, LookupError, AssertionError):  # of values that are made up
        changes, has_same_results = watch.changes, True
    for attribute, (start, *later) in changes.items():
        text = (
            f"{name} changes its attribute `{attribute}` in each call, from {start!r} to "
            f"{', then to '.join(map(repr, later))}, "
        )
        advice = "make it a buffer, by `register_buffer`: new buffers are returned."
        stays = f"but here each call starts from {start!r}, as it was when a graph was made."
        if not has_same_results:
            raise ArgumentError(f"{text}and its results with it, {stays} So {advice}")
        warnings.warn(
            f"{text}{stays} If results depend on it, {advice}",
            UserWarning,
            stacklevel=user_stacklevel(),
        )


def _call_twice(
    fun: Fun, primals: Specs, dtype: torch.dtype, *, inside: bool
) -> tuple[dict[str, tuple[Any, ...]], bool]:
    """Call a module twice in a row; return what both change, and True if the results are equal."""
    xs = example_inputs(primals)

    def run() -> Sequence[torch.Tensor]:
        with fork_generators(xs) as generators:
            for generator in generators:
                generator.manual_seed(0)
            return [y.detach().clone() for y in fun(*xs)]

    with default_state(dtype), watching_attributes(inside=inside) as watch, dry_run() as trial:
        results, first = run(), watch.changes
        watch.start = watch.end
        with trial.keeping_state():
            same = all(map(_are_equal, results, run()))
    both = [name for name in watch.changes if name in first]
    return {name: (*first[name], watch.changes[name][1]) for name in both}, same


def _are_equal(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())


def _member_dicts(part: torch.nn.Module) -> list[_Values]:
    """Return the dicts of hooks of a module itself; then its own attributes."""
    return [*hook_dicts(part), vars(part)]


def _plain_values(part: torch.nn.Module, *, inside: bool) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the numbers and strings among attributes, and in what these hold, with their names."""
    of_classes = {
        name: x for kind in reversed(type(part).__mro__) for name, x in vars(kind).items()
    }
    for name, x in {**of_classes, **vars(part)}.items():
        if name in _STANDARD or name.startswith("__"):
            continue
        if isinstance(x, _PLAIN):
            yield (name,), x
        elif inside and name in vars(part) and not isinstance(x, (torch.nn.Module, torch.Tensor)):
            for place in holders(x):
                if isinstance(place.holder, (dict, Attributes)):
                    values = place.contents().items()
                    yield from (((name, str(k)), y) for k, y in values if isinstance(y, _PLAIN))


_PLAIN = (type(None), bool, int, float, complex, str)
