"""Values that a module changes in a call, besides the tensors that are passed to it."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from typing import Any

import torch

from bridge._arrays.torch.upstream.tensors import member_dicts, tensors_of
from bridge._core.captured_values import holders
from bridge._core.holder import Attributes

_Values = dict[str, Any]
Changes = Mapping[str, tuple[Any, ...]]
_STANDARD = vars(torch.nn.Module()).keys()
_MISSING = object()


@dataclasses.dataclass(eq=False)
class AttributeWatch:
    """Notes on the attributes of a module in the last of its calls.

    Attributes:
        inside: True to look into dicts and objects that attributes hold.
        replaces: True to let calls take tensors near those of the module in place of theirs.
        changes: What the call has changed: by name, the values before and after.
        start: What the parts hold when the next call starts, if not what they hold by themselves.
        trained: The names of those that are then parameters, or modules with some of their own.
        end: What they hold after the call.
        start_buffers: The buffers of the next call by name, if not those of the module.
        end_buffers: The buffers after the call.
    """

    inside: bool
    replaces: bool = False
    changes: Changes = dataclasses.field(default_factory=dict)
    trained: Collection[str] = ()
    start: Sequence[Sequence[_Values]] = ()
    end: Sequence[Sequence[_Values]] = ()
    start_buffers: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)
    end_buffers: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)

    @contextlib.contextmanager
    def watch_call(self, module: torch.nn.Module) -> Generator[None]:
        """Note what the call within changes."""
        parts = dict(module.named_modules())  # those that the call makes have nothing before it
        passed = {
            _join(prefix, name)
            for prefix, part in parts.items()
            for members in tensors_of(part)
            for name, x in members.items()
            if x is not None
        }
        for part, contents in zip(parts.values(), self.start, strict=False):
            _set_contents(part, contents)
        before = self._read(parts, passed)
        yield
        after = self._read(parts, passed)
        self.changes = {
            name: (before.get(name), x)
            for name, x in after.items()
            if _differ(before.get(name, _MISSING), x)
        }
        # Old modules hold tensors now that are no parameters, as they were passed.
        self.trained = [name for name, xs in self.changes.items() if _has_parameters(xs[-1])]
        self.end = [[dict(x) for x in member_dicts(part)] for part in parts.values()]
        if self.replaces:
            self.end_buffers = {name: x.detach().clone() for name, x in module.named_buffers()}

    def _read(self, parts: Mapping[str, torch.nn.Module], passed: Collection[str]) -> _Values:
        """Return what parts of a module hold besides the tensors that are `passed`, by name."""
        return {
            label: x
            for prefix, part in parts.items()
            for path, x in _values(part, inside=self.inside)
            if (label := _join(prefix, *path)) not in passed
        }

    def replace(self, module: torch.nn.Module, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Return tensors near those of the module in place of `tensors`, by name."""
        buffers = {**dict(module.named_buffers()), **self.start_buffers}
        params = dict(module.named_parameters())
        generator = torch.Generator().manual_seed(0)
        replaced = dict(tensors)
        for name, x in tensors.items():
            own = params.get(name, buffers.get(name))
            if own is None or (own.shape != x.shape and name not in self.start_buffers):
                continue
            value = torch.zeros_like(x) if own.is_meta else own.detach().to(x, copy=True)
            if name in params and x.is_floating_point():
                noise = torch.rand(x.shape, generator=generator)
                value += 0.1 * noise.to(value)
            replaced[name] = value
        return replaced


_current = contextvars.ContextVar[AttributeWatch | None]("watch of attributes", default=None)


@contextlib.contextmanager
def watching_attributes(*, inside: bool, replaces: bool = False) -> Generator[AttributeWatch]:
    """Yield notes on what calls of a module within change."""
    watch = AttributeWatch(inside, replaces)
    token = _current.set(watch)
    try:
        yield watch
    finally:
        _current.reset(token)


def watched_call(module: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a context for a call of a module, which notes what it changes if that is asked."""
    watch = _current.get()
    return contextlib.nullcontext() if watch is None else watch.watch_call(module)


def in_trial() -> bool:
    """Return True in a call whose results are compared with those of another, name by name."""
    watch = _current.get()
    return watch is not None and watch.replaces


def watched_tensors(module: torch.nn.Module, tensors: Any) -> Any:
    """Return `tensors`, or those that a watch lets a call take in place of them."""
    watch = _current.get()
    return watch.replace(module, tensors) if watch and watch.replaces else tensors


def _differ(x: Any, y: Any) -> bool:
    return x is not y and not (_is_comparable(x) and _is_comparable(y) and x == y)


def _is_comparable(x: Any) -> bool:
    return all(map(_is_comparable, x)) if isinstance(x, tuple) else isinstance(x, _PLAIN)


def is_plain(xs: Sequence[Any]) -> bool:
    return all(isinstance(x, _PLAIN) for x in xs)


def _has_parameters(x: Any) -> bool:
    """Return True for what is trained: a parameter, or a module with some."""
    xs = x.parameters() if isinstance(x, torch.nn.Module) else [x]
    return any(isinstance(y, torch.nn.Parameter) and y.requires_grad for y in xs)


def _set_contents(part: torch.nn.Module, contents: Sequence[_Values]) -> None:
    """Let a module hold what it held after a call, besides the tensors that are passed to it."""
    tensors = tensors_of(part)
    for members, values in zip(member_dicts(part), contents, strict=True):
        if any(members is x for x in tensors):
            members.update({k: x for k, x in values.items() if members.get(k) is None})
        else:
            for name in members.keys() - values.keys():  # `None` hides a module of that name
                del members[name]
            members.update(values)


def _join(*path: str) -> str:
    return ".".join(filter(None, path))


def _values(part: torch.nn.Module, *, inside: bool) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values of a module itself that a call may change, with their names."""
    yield from _plain_values(part, inside=inside)
    for name, x in vars(part).items():
        if name not in _STANDARD and not isinstance(x, _PLAIN):
            yield (name,), x
    for members in (*tensors_of(part), dict(part.named_children())):
        yield from (((name,), x) for name, x in members.items() if x is not None)


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
