"""The arguments of a call: arrays and static values, and their names."""

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from bridge import _registry
from bridge._calls.held_arrays import holds_arrays
from bridge._calls.wrong_framework import (
    Direction,
    array_like_advice,
    foreign_array_error,
    is_array_like,
)
from bridge._core import pytree
from bridge._core.errors import ArgumentError, OptionError
from bridge._core.spec import ArraySpec


class Static:
    """An argument whose value is part of the key of a trace; no dataclass, so that it is a leaf."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and static_key(self.value) == static_key(other.value)

    def __hash__(self) -> int:
        return hash(static_key(self.value))


@dataclasses.dataclass(frozen=True)
class LeafHandler:
    """The treatment of leaves of one class.

    Attributes:
        signature: Returns the part of a leaf in the key of a call.
        spec: Returns the spec of a leaf as an array; `None` for static ones.
        prepare: Applied before they are handed on, `None` for nothing.
        owner: The framework whose arrays they are.
    """

    signature: Callable[[Any], Hashable]
    spec: Callable[[Any], ArraySpec] | None = None
    prepare: Callable[[Any], Any] | None = None
    owner: str | None = None


_NUMBERS = {int: "int64", float: "float64", complex: "complex128"}


def leaf_handler(leaf: Any, source: str, target: str, *, traces_scalars: bool) -> LeafHandler:
    """Return the handler of leaves like `leaf` for a function of `source` called from `target`."""
    face = _registry.array_owner(leaf)
    if face is not None:
        if face.name not in (source, target, "numpy"):
            raise foreign_array_error(leaf, Direction(source, target))
        if face.name == target:
            caller = _registry.target_arrays(target)
            return LeafHandler(caller.target_signature, caller.target_spec, owner=target)
        prepare = _copy_in_native_byte_order if face.name == "numpy" else face.copy_or_raise
        return LeafHandler(face.signature, face.spec, prepare, face.name)
    if traces_scalars and type(leaf) in _NUMBERS:
        return _number(type(leaf))
    if traces_scalars and _is_numpy_number(leaf):
        return _numpy_number(type(leaf), leaf.dtype.name)
    return LeafHandler(_static_key)


def _copy_in_native_byte_order(x: Any) -> Any:
    """Return a copy in native byte order; the NumPy array may change before a backward pass."""
    return x.astype(x.dtype.newbyteorder("="))


def _number(type_: type) -> LeafHandler:
    spec = ArraySpec((), _NUMBERS[type_], weak_type=True)
    return LeafHandler(lambda _: type_, lambda _: spec)


def _is_numpy_number(x: Any) -> bool:
    """Return True for a NumPy scalar of a dtype that frameworks have; truth values are static."""
    return type(x).__module__ == "numpy" and hasattr(x, "item") and type(x.item()) in _NUMBERS


def _numpy_number(type_: type, dtype: str) -> LeafHandler:
    """Return the handler of NumPy scalars, which are treated as arrays without axes."""
    spec = ArraySpec((), dtype, follows_mode=dtype in (*_NUMBERS.values(), "uint64"))
    return LeafHandler(lambda _: type_, lambda _: spec, lambda x: x.__array__())


def _static_key(leaf: Any) -> Hashable:
    return static_key(unwrap_static(leaf))


# Methods by which generators of random numbers are known: of NumPy, of Python, of a framework.
_DRAWS = ("bit_generator", "random_sample", "getrandbits", "initial_seed")


def check_static(leaf: Any, target: str) -> None:
    """Raise unless the value of a static leaf can be a constant of a trace, and part of its key."""
    value = unwrap_static(leaf)
    if isinstance(value, Iterator):
        raise ArgumentError(
            f"it is a {type(value).__name__}, which can be read once, but a function may run more "
            "than once, to be captured and for each derivative. Pass a list."
        )
    if any(hasattr(type(value), name) for name in _DRAWS):
        raise ArgumentError(
            f"it is a {type(value).__name__}, whose random numbers would be constants of a trace, "
            "or others where the function runs again for a derivative. Pass numbers that it has "
            "drawn."
        )
    if leaf is value and is_array_like(value):
        raise ArgumentError(
            f"it is a {type(value).__name__}, no array of a framework. Pass "
            f"{array_like_advice(value)}, or name it static."
        )
    if holds_arrays(value, lambda owner: owner == target):
        raise ArgumentError(
            f"it is static, and a {type(value).__name__} that holds arrays, which would be "
            "constants to the trace and get no gradient. Pass its arrays; for a class of your "
            "own, make it a dataclass or register it as a pytree."
        )
    _check_hashable(value)


def _check_hashable(value: Any) -> None:
    try:
        hash(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"it is a {type(value).__name__}, no array, number or known container, so it must be "
            f"static; but it cannot be hashed ({error})."
        ) from None


_SIMPLE = frozenset({bool, int, str, type(None)})  # of which there are many, as modes of modules


def static_key(value: Any) -> Hashable:
    """Return a key that tells apart equal values: `1`, `1.0` and `True`; `0.0` and `-0.0`."""
    if value.__class__ in _SIMPLE:
        return value.__class__, value
    if isinstance(value, (tuple, frozenset)):
        return type(value), type(value) is frozenset, _member_keys(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
        return type(value), value, _member_keys(tuple(fields))
    if isinstance(value, (float, complex)):
        return type(value), repr(value)
    return type(value), value


def _member_keys(value: Iterable[Any]) -> Hashable:
    members = map(static_key, value)
    return frozenset(members) if isinstance(value, frozenset) else tuple(members)


def _wrap_static(x: Any) -> Static:
    return x if isinstance(x, Static) else Static(x)


def unwrap_static(leaf: Any) -> Any:
    """Return the value that the user passed for a static leaf."""
    return leaf.value if isinstance(leaf, Static) else leaf


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The parameters of a function: their names, and which of them are static."""

    positional_names: tuple[str, ...]
    all_names: frozenset[str]
    variadic: str | None
    static: bool
    static_argnums: frozenset[int]
    static_argnames: frozenset[str]

    def wrap_static(
        self, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with the static ones wrapped, so that they are leaves."""
        values = list(args)
        for i in self.static_argnums:
            if -len(values) <= i < len(values):
                values[i] = _wrap_static(values[i])
        names = self.static_argnames
        return tuple(values), {k: _wrap_static(x) if k in names else x for k, x in kwargs.items()}

    def argument_name(self, path: Sequence[Any]) -> str:
        """Return the name of a leaf as a part of its argument: `x['weights'][0]`."""
        keyword, position, *rest = path
        if keyword:
            return pytree.format_path([position, *rest])
        if position < len(self.positional_names):
            return pytree.format_path([self.positional_names[position], *rest])
        if self.variadic:
            return pytree.format_path([self.variadic, position - len(self.positional_names), *rest])
        return pytree.format_path([position, *rest])


def parameters(
    fn: Callable[..., Any], static_argnums: Sequence[int], static_argnames: Sequence[str]
) -> Parameters:
    """Return the parameters of `fn`; static ones by position and by name, as in `jax.jit`."""
    try:
        known = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # some builtins have no signature
        known = []
    names = [p.name for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variadic = next((p.name for p in known if p.kind is p.VAR_POSITIONAL), None)
    if known and not any(p.kind is p.VAR_KEYWORD for p in known):
        unknown = {*static_argnames} - {p.name for p in known}
        if unknown:
            raise OptionError(f"static_argnames names {sorted(unknown)}, no parameter of {names}.")
    nums = {i + len(names) if i < 0 and not variadic else i for i in static_argnums}
    if known and not variadic and any(not 0 <= i < len(names) for i in nums):
        raise OptionError(
            f"static_argnums={tuple(static_argnums)}, but the parameters are {names}."
        )
    nums |= {names.index(name) for name in static_argnames if name in names}
    named = {*static_argnames, *(names[i] for i in nums if 0 <= i < len(names))}
    all_names = frozenset(p.name for p in known if p.kind is not p.VAR_KEYWORD)
    return Parameters(
        tuple(names), all_names, variadic, bool(nums or named), frozenset(nums), frozenset(named)
    )
