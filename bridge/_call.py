"""A function of one framework that is called from another.

NOTE [plans]
What a call needs besides the values of its arrays is worked out once for each structure, spec and
static value of its arguments, and kept as a plan. The key holds all a trace depends on, so that
one plan is one trace.
"""

import dataclasses
import functools
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _arguments, _registry, _transfer, _tree
from bridge._errors import ArgumentError, NoValuesError
from bridge._spec import ArraySpec

_MANY_TRACES = 16
_MOST_PLANS = 1024


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """One leaf of the arguments, described.

    Attributes:
        label: As the user would write it.
        signature: Its part in the key.
        spec: What is known of it as an array, `None` for a static one.
        kind: How leaves of its class are treated.
    """

    label: str
    signature: Any
    spec: ArraySpec | None
    kind: _arguments.Kind


class _Flat:
    """The user's function on the arrays among its leaves; notes the structure of its results."""

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        direction: tuple[str, str],
        structure: Any,
        leaves: Sequence[Any],
    ) -> None:
        self.__name__ = self.__qualname__ = name  # what a tracer's errors call it
        self._fn, self._structure, self._leaves = fn, structure, leaves
        self._home, self._away = direction
        self._at = [i for i, leaf in enumerate(leaves) if leaf is _ARRAY]
        self.results: Any = None

    def __call__(self, *arrays: Any) -> list[Any]:
        leaves = _tree.spread(arrays, self._at, self._leaves)
        args, kwargs = _tree.unflatten(self._structure, leaves)
        results = self._fn(*args, **kwargs)
        outputs, self.results = _tree.flatten(results, _registry.container)
        for output, path in zip(outputs, _tree.paths(self.results), strict=True):
            self._check(output, path)
        return outputs

    def _check(self, output: Any, path: Sequence[Any]) -> None:
        """Raise for a result that the caller's framework cannot hold."""
        if isinstance(output, (bool, int, float, complex)):
            return
        owner = _registry.owner(output)
        where = f"result{''.join(f'[{key!r}]' for key in path)} of {self.__name__}"
        if owner is None or owner.name not in (self._home, "numpy"):
            kind = type(output)
            what = kind.__name__ if owner is None else f"{owner.name} {kind.__name__}"
            raise ArgumentError(f"{where} is a {what}, no array of {self._home} or number.")
        spec = owner.spec(output)
        if not _registry.away(self._away).holds(spec.dtype):
            raise ArgumentError(
                f"{where} is {spec}, which {self._away} has no counterpart of. Convert it in the "
                "function: a number to another dtype, a PRNG key to its data."
            )


_ARRAY = object()


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What is done for calls with arguments of one structure: NOTE [plans].

    Attributes:
        native: The function of flat arrays, of the caller's framework.
        flat: The user's function behind it, which knows the structure of the results.
        dynamic: Positions of the leaves handed to `native`, each with what prepares it;
            `None` where these are all leaves as they are.
    """

    native: Callable[..., Any]
    flat: _Flat
    dynamic: Sequence[tuple[int, Callable[[Any], Any] | None]] | None

    def __call__(self, leaves: Sequence[Any]) -> Any:
        if self.dynamic is not None:
            leaves = [
                leaves[i] if prepare is None else prepare(leaves[i]) for i, prepare in self.dynamic
            ]
        outputs = self.native(*leaves)
        return _tree.unflatten(self.flat.results, outputs)


def _name(fn: Callable[..., Any]) -> str:
    """What a function is called; a partial one as the function it is of."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return getattr(fn, "__name__", type(fn).__name__)


class BridgedFunction:
    """A function of one framework that is called from another; `jax2torch` makes them."""

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        direction: tuple[str, str],
        static: tuple[Sequence[int], Sequence[str]],
        device: str | None,
        options: dict[str, Any],
    ) -> None:
        self._home, self._away = direction
        if not callable(fn):
            raise ArgumentError(
                f"{self._home}2{self._away} wraps functions, and {type(fn).__name__} is none. "
                f"Values are converted by bridge.to_{self._away}."
            )
        functools.update_wrapper(self, fn, updated=())
        self._fn = fn
        self._name = _name(fn)
        self._source = _registry.source(self._home)
        self._target = _registry.target(self._away)
        self._source.check(**options)
        self._device, self._options = device, options
        self._parameters = _arguments.parameters(fn, *static)
        self._kinds: dict[type, _arguments.Kind] = {}
        self._plans: dict[Any, _Plan] = {}
        self._traced: dict[str, dict[str, None]] = {}
        self._traces = 0

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        return f"<{self._home}2{self._away} {self._name} ({options})>"

    def __reduce__(self) -> str:
        return getattr(
            self, "__qualname__", self._name
        )  # pickled by name and copied as itself, as functions are

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else types.MethodType(self, instance)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._parameters.static:
            args, kwargs = self._parameters.mark(args, kwargs)
        if len(kwargs) > 1:  # which are one call in whatever order
            kwargs = dict(sorted(kwargs.items()))
        leaves, structure = _tree.leaves((args, kwargs))
        kinds = self._kinds
        try:
            signatures = [kinds[leaf.__class__].signature(leaf) for leaf in leaves]
        except (KeyError, ArgumentError, NoValuesError):
            plan = None  # found out again where the argument has a name
        else:
            plan = self._plans.get((structure, self._source.ambient(), *signatures))
        if plan is None:
            leaves, structure = _tree.flatten((args, kwargs), _registry.container)
            plan = self._plan(leaves, structure)
        return plan(leaves)

    def _plan(self, leaves: Sequence[Any], structure: Any) -> _Plan:
        """A new plan for arguments like these, kept if it is a trace."""
        paths = _tree.paths(structure)
        described = [self._describe(leaf, path) for leaf, path in zip(leaves, paths, strict=True)]
        key = (structure, self._source.ambient(), *(leaf.signature for leaf in described))
        if key in self._plans:  # only the class of a leaf was new
            return self._plans[key]
        plan = self._make(leaves, structure, described)
        if self._options["jit"]:
            while len(self._plans) >= _MOST_PLANS:
                self._plans.pop(next(iter(self._plans)), None)
            self._plans[key] = plan
            self._count(described)
        return plan

    def _describe(self, leaf: Any, path: Sequence[Any]) -> _Leaf:
        label = self._parameters.label(path)
        try:
            kind = self._kinds.get(leaf.__class__)
            if kind is None:
                kind = _arguments.kind(leaf, self._home, self._away)
                self._kinds[leaf.__class__] = kind
            if kind.spec is None:
                _arguments.check_static(leaf, self._away)
            return _Leaf(label, kind.signature(leaf), kind.spec and kind.spec(leaf), kind)
        except (ArgumentError, NoValuesError) as error:
            raise type(error)(f"argument {label} of {self._name}: {error}") from None

    def _make(self, leaves: Sequence[Any], structure: Any, described: Sequence[_Leaf]) -> _Plan:
        arrays = [leaf for leaf in described if leaf.spec is not None]
        fixed = [
            _arguments.value(leaf) if about.spec is None else _ARRAY
            for leaf, about in zip(leaves, described, strict=True)
        ]
        flat = _Flat(self._fn, self._name, (self._home, self._away), structure, fixed)
        device = self._place(arrays)
        computes_on = device if device == "meta" else self._source.device(device, self._device)
        op = self._source.op(
            flat,
            name=self._name,
            primals=tuple(leaf.spec for leaf in arrays if leaf.spec),
            labels=[f"argument {leaf.label} of {self._name}" for leaf in arrays],
            **self._options,
        )
        run = _transfer.carrier(self._home, self._away, device=device, computes_on=computes_on)
        dynamic = [(i, x.kind.prepare) for i, x in enumerate(described) if x.spec is not None]
        as_they_are = len(dynamic) == len(leaves) and not any(prepare for _, prepare in dynamic)
        return _Plan(self._target.expose(op, run), flat, None if as_they_are else dynamic)

    def _place(self, arrays: Sequence[_Leaf]) -> str:
        """The device that all arrays of the caller's framework live on."""
        found = {x.spec.device: x.label for x in arrays if x.spec and x.kind.owner == self._away}
        if len(found) > 1:
            where = ", ".join(f"{label} on {device}" for device, label in found.items())
            raise ArgumentError(f"arguments of {self._name} are on different devices: {where}.")
        return next(iter(found), self._device or "cpu")

    def _count(self, described: Sequence[_Leaf]) -> None:
        """Note a trace; warn once when there are many, and say what varies."""
        self._traces += 1
        if self._traces > _MANY_TRACES + 1:
            return
        for leaf in described:
            seen = self._traced.setdefault(leaf.label, {})
            seen[str(leaf.spec if leaf.spec else leaf.signature)] = None
        if self._traces > _MANY_TRACES:
            varying = "; ".join(
                f"{label} ({', '.join([*values][:4])}, ...)"
                for label, values in self._traced.items()
                if len(values) > 1
            )
            warnings.warn(
                f"{self._name} has been traced {self._traces} times, which is slow. Varying: "
                f"{varying or 'the structure of its arguments'}. Each new shape, dtype and "
                "static value is traced and compiled anew: pad shapes, or pass a static number "
                "as an array.",
                stacklevel=4,
            )
