"""Which framework a function lives in."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bridge import _registry
from bridge._core import import_path, pytree
from bridge._core.errors import ArgumentError
from bridge._testing.arguments import Arguments, flatten
from bridge._testing.backend import Backend, backend
from bridge._testing.numpy import arrays

# What code may raise that is given arrays of another framework than its own.
_STRANGE = (TypeError, ValueError, AttributeError, RuntimeError, LookupError, AssertionError)


@dataclasses.dataclass(frozen=True)
class Implementation:
    """A function of one framework.

    Attributes:
        label: The framework, with the name of the function where several are of that framework.
        kit: The framework in tests.
        fn: The function.
    """

    label: str
    kit: Backend
    fn: Callable[..., Any]


def find(
    positional: Sequence[Callable[..., Any]],
    named: Mapping[str, Callable[..., Any] | None],
    arguments: Arguments,
) -> list[Implementation]:
    """Return the implementations; raise if it cannot be told where a function lives."""
    pairs = [(find_framework(fn, arguments), fn) for fn in positional]
    pairs += [(name, fn) for name, fn in named.items() if fn is not None]
    if len(pairs) < 2:
        raise ArgumentError(
            f"check_same compares two implementations or more, and got {len(pairs)}. To check the "
            "derivatives of one, use check_gradients."
        )
    names = [name for name, _ in pairs]
    labels = [
        name if names.count(name) == 1 else f"{import_path.function_name(fn)} of {name}"
        for name, fn in pairs
    ]
    unique = [
        label if labels.count(label) == 1 else f"{label} ({labels[:i].count(label) + 1})"
        for i, label in enumerate(labels)
    ]
    return [
        Implementation(label, backend(name), fn)
        for label, (name, fn) in zip(unique, pairs, strict=True)
    ]


def find_framework(fn: Callable[..., Any], arguments: Arguments) -> str:
    """Return the framework whose arrays `fn` returns, whichever of them it takes."""
    told = _framework_of_class(fn)
    if told:
        return told
    name = import_path.function_name(fn)
    failures: dict[str, Exception] = {}
    found: set[str] = set()
    loaded = {owner.name for owner in _registry.loaded()} & _registry.autodiff_frameworks()
    for framework in sorted(loaded):
        try:
            found |= {*_result_frameworks(fn, framework, arguments)}
        except _STRANGE as error:
            failures[framework] = error
    if len(found) == 1:
        return found.pop()
    how = f"Say where it lives by keyword, as in check_same(torch={name}, ...)."
    if found:
        raise ArgumentError(
            f"{name} is a function of {' and of '.join(sorted(found))}: it returns arrays of "
            f"either. {how}"
        )
    reasons = "; ".join(f"with arrays of {k} it raised {e!r:.300}" for k, e in failures.items())
    raise ArgumentError(f"{name} returned arrays of no framework: {reasons or 'none'}. {how}")


def _framework_of_class(fn: Callable[..., Any]) -> str | None:
    """Return the framework that has made the class of `fn`, or that of which it is a method.

    The `apply` of an `autograd.Function` and a `jax.custom_vjp` may compute with any arrays.
    """
    owner: Any = getattr(fn, "__self__", None)
    kind: Any = type(fn)  # which a checker takes for that of functions alone
    classes = [*kind.__mro__, *(owner.__mro__ if isinstance(owner, type) else ())]
    found = {_registry.framework(each.__module__) for each in classes} - {None}
    return found.pop() if len(found) == 1 else None


def _result_frameworks(
    fn: Callable[..., Any], framework: str, arguments: Arguments
) -> Iterator[str]:
    kit = backend(framework)
    with arguments.precision_context(kit):
        flat = arguments.make_flat(fn, kit)
        results = flatten(flat(*map(kit.array, arguments.primals)))[0]
    for result in results:
        owner = _registry.array_owner(result)
        if owner and owner.name in _registry.autodiff_frameworks():
            yield owner.name


def outputs_by_path(implementation: Implementation, result: Any) -> dict[tuple[Any, ...], Any]:
    """Return the leaves of a result by their paths; raise for what is neither array nor number."""
    kit, label = implementation.kit, implementation.label
    leaves, structure = flatten(result)
    for leaf in leaves:
        owner = _registry.array_owner(leaf)
        is_number = owner is None and isinstance(leaf, bool | int | float | complex)
        is_number |= kit.name == "numpy" and arrays.is_scalar(leaf)
        if not is_number and (owner is None or owner.name != kit.name):
            what = f"{type(leaf).__module__}.{type(leaf).__qualname__}"
            raise ArgumentError(
                f"{import_path.function_name(implementation.fn)}, the implementation of {label}, "
                f"returned a {what}, which is no array of {kit.name}."
            )
    return dict(zip(pytree.paths(structure), leaves, strict=True))
