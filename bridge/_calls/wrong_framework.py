"""Functions and arrays of one framework where those of another are expected.

NOTE [whose code has failed]
An exception that a function raises on arrays of the wrong framework speaks of classes that its user
has never heard of. Whose code it was is told by the function itself, or by what the code that has
failed names: a module, a function or an array of another framework.
"""

import dataclasses
import functools
import inspect
import re
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from bridge import _registry
from bridge._calls.held_arrays import holds_arrays
from bridge._core import import_path, pytree
from bridge._core.array_protocols import ArrayBackend
from bridge._core.errors import ArgumentError, BridgeError
from bridge._core.tracebacks import is_skipped

# The errors that frameworks raise for an argument of a class that they do not know.
USER_ERRORS = (TypeError, AttributeError, ValueError, RuntimeError, BufferError, IndexError)
_PACKAGE = __name__.partition(".")[0]
# Texts in the notes of an inner call; where one of them is, no note is added.
_IS_WRAPPED, _IS_ARRAY = "is wrapped by", "is an array of"
_LISTS = re.compile(r"\b(list|tuple)\b")


@dataclasses.dataclass(frozen=True)
class Direction:
    """The frameworks that a function is brought from and to, as its user wrote it.

    Attributes:
        source: The framework the function is to be written with.
        target: The framework it is called from.
    """

    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.source}2{self.target}"

    def suggest_wrapper(self, other: str) -> str:
        """Return the name of the wrapper for a function of `other`, which is not `source`."""
        return f"{other}2{self.target if self.target != other else self.source}"


def check_function(fn: Any, crossing: Direction) -> None:
    """Raise unless `fn` can be a function, or a module, of the framework that is expected."""
    expected = f"{crossing} expects a function of {crossing.source}"
    if inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn):
        raise ArgumentError(
            f"{expected}, but {import_path.function_name(fn)} is a coroutine function, which "
            "returns no arrays. Write it without `async`."
        )
    if inspect.isgeneratorfunction(fn):
        raise ArgumentError(
            f"{expected}, but {import_path.function_name(fn)} is a generator function, which "
            "returns no arrays. Return a list of them."
        )
    other = _registry.module_owner(fn)
    if other is not None and isinstance(fn, type):
        wrapper = crossing if other == crossing.source else crossing.suggest_wrapper(other)
        raise ArgumentError(
            f"{crossing} expects a function or a module, but got the class {fn.__name__}. Make a "
            f"module of it: {wrapper}({fn.__name__}(...))."
        )
    if other not in (None, crossing.source):
        raise ArgumentError(
            f"{expected}, but got a module of {other}, {type(fn).__name__}. Did you mean "
            f"{crossing.suggest_wrapper(str(other))}?"
        )


def check_result(output: Any, where: str, fn: Any, crossing: Direction) -> ArrayBackend:
    """Return the backend of a result of `fn`; raise unless it is of its framework, or NumPy."""
    owner = _registry.array_owner(output)
    kind = type(output).__name__
    if owner is not None and owner.name in (crossing.source, "numpy"):
        return owner
    if owner is not None and owner.name in _registry.autodiff_frameworks():
        raise ArgumentError(
            f"{where} is a {owner.name} {kind}, but {crossing} expects a function of "
            f"{crossing.source}, which returns arrays of {crossing.source} or numbers. Did you "
            f"mean {crossing.suggest_wrapper(owner.name)}?"
        )
    holds_any = holds_arrays(output, lambda _: True)
    advice = held_arrays_advice(type(output)) if holds_any else "Return arrays and numbers only."
    if isinstance(fn, type) and isinstance(output, fn):
        advice = f"It is a class: pass an instance, {kind}(...)."
    elif inspect.isgenerator(output) or inspect.iscoroutine(output):
        advice = "Return a list of arrays."
    raise ArgumentError(
        f"{where} is a {kind}, no array of {crossing.source} or number, nor a known container of "
        f"these. {advice}"
    )


def held_arrays_advice(kind: type) -> str:
    """Say what a function can return in place of a container of this class."""
    caches = " (`use_cache=False`)" if "cache" in kind.__name__.lower() else ""
    return f"Return its arrays, or call the function without it{caches}."


def foreign_array_error(x: Any, crossing: Direction) -> ArgumentError:
    """Return the error for an argument that is an array of neither framework of a crossing."""
    owner = _registry.array_owner(x)
    if owner is None or owner.name not in _registry.autodiff_frameworks():
        return ArgumentError(
            f"it is a {type(x).__name__}, no array of {crossing.target}. Convert it with "
            f"bridge.to_{crossing.target}."
        )
    return ArgumentError(
        f"it is an array of {owner.name}, but {crossing} makes functions of arrays of "
        f"{crossing.target}. Convert it with bridge.to_{crossing.target}, or make a function of "
        f"arrays of {owner.name} with {crossing.source}2{owner.name}."
    )


def is_array_like(x: Any) -> bool:
    """Return True if `x` is no array, but has the values of one, as a data frame has."""
    is_numpy = any(base.__module__ == "numpy" for base in type(x).__mro__)  # bfloat16(1) too
    return hasattr(type(x), "__array__") and not is_numpy


def array_like_advice(x: Any) -> str:
    """Say how to make an array of an array-like object."""
    return "`.to_numpy()` of it" if hasattr(x, "to_numpy") else "`numpy.asarray` of it"


def check_non_array(x: Any, target: str, *, alone: bool) -> None:
    """Raise if `x` is no array, and was meant to be converted: a data frame, a module.

    If it is `alone`, it was all that was to be converted.
    """
    if is_array_like(x):
        raise ArgumentError(
            f"to_{target} converts arrays, but got a {type(x).__name__}. Pass "
            f"{array_like_advice(x)}."
        )
    owner = _registry.module_owner(x)
    if owner == target:
        return
    if owner is not None and not isinstance(x, type):
        raise ArgumentError(
            f"to_{target} converts arrays, but got a module of {owner}, {type(x).__name__}. "
            f"{owner}2{target} makes a module of {target} of it."
        )
    if alone and callable(x):
        raise ArgumentError(
            f"to_{target} converts arrays, but got the function {import_path.function_name(x)}. "
            f"{_wrappers(x, target)} makes a function of {target} of it."
        )
    if alone and isinstance(x, Iterator):
        raise ArgumentError(
            f"to_{target} converts arrays and containers of them, but got a {type(x).__name__}, "
            "which can be read once. Pass a list."
        )
    others = {name for name in _registry.autodiff_frameworks() if name != target}
    if holds_arrays(x, lambda owner: alone or owner in others):
        raise ArgumentError(
            f"to_{target} converts arrays and containers of them, but got a {type(x).__name__}, "
            f"which holds arrays and is no known container. {_container_advice(x)}"
        )


def _container_advice(x: Any) -> str:
    """Say what to pass in place of an object that holds arrays."""
    if isinstance(x, Mapping):
        return "Pass a dict."
    if isinstance(x, Collection):
        return "Pass a list."
    return "Make it a dataclass, or register it as a pytree, or pass its arrays."


def check_result_named_tuples(result_structure: Any, name: str, crossing: Direction) -> None:
    """Raise for results in a named tuple that takes arrays of the function's framework alone."""
    for kind in pytree.node_types(result_structure):
        own = _registry.framework(kind.__module__) == crossing.source
        if own and pytree.is_named_tuple_with_own_new(kind):
            raise ArgumentError(
                f"{name} returns a {_class(kind)}, which holds arrays of {crossing.source} alone. "
                "Return its fields, as by tuple()."
            )


def _wrappers(fn: Any, target: str) -> str:
    sources = [source for source, other in _registry.directions() if other == target]
    source = _registry.framework(_defining_module(fn))
    return (
        f"{source}2{target}" if source in sources else " or ".join(f"{s}2{target}" for s in sources)
    )


def add_note(error: Exception, fn: Any, arrays: Any, crossing: Direction) -> None:
    """Add a note to what `fn` has raised, if arrays of the wrong framework may be the cause."""
    if isinstance(error, BridgeError) or _has_note(error):
        return
    name = import_path.function_name(fn)
    spoken = sorted({_class(type(x)) for x in arrays if _mentions(error, type(x))})
    others = _foreign_frameworks(error, fn, crossing.source, about_arrays=bool(spoken))
    captured = [(n, owner) for n, owner in _captured_arrays_at(error) if owner in others]
    if captured:
        array, other = captured[0]
        error.add_note(
            f"{crossing} calls {name} with arrays of {crossing.source}, and `{array}` {_IS_ARRAY} "
            f"{other}. Pass it as an argument, or convert it with bridge.to_{crossing.source}."
        )
    elif len(others) == 1:
        (other,) = others
        error.add_note(
            f"{crossing} calls {name} with arrays of {crossing.source}, and {name} uses {other}. "
            f"Did you mean {crossing.suggest_wrapper(other)}? A part of {name} that is written "
            f"with {other} {_IS_WRAPPED} {other}2{crossing.source}; dtypes are those of "
            f"{crossing.source}."
        )
    elif spoken:
        lists = " A list or tuple stays one: pass an array." if _LISTS.search(str(error)) else ""
        error.add_note(
            f"{crossing} calls {name} with arrays of {crossing.source}: each "
            f"{' and each '.join(spoken)} is one.{lists}"
        )


def _class(kind: type) -> str:
    return f"{kind.__module__}.{kind.__name__}"


def _mentions(error: Exception, kind: type) -> bool:
    """Return True if the text names the class, not just by a word that has other senses."""
    return bool(re.search(rf"(?:not |and |type |^|['.]){kind.__name__}\b", str(error)))


def _has_note(error: Exception) -> bool:
    notes: list[str] = getattr(error, "__notes__", [])
    return any(text in note for note in notes for text in (_IS_WRAPPED, _IS_ARRAY))


def _foreign_frameworks(error: Exception, fn: Any, source: str, *, about_arrays: bool) -> set[str]:
    """Return frameworks besides `source` whose code has failed: NOTE [whose code has failed].

    Code that names both is innocent, unless the error is surely about arrays of `source`.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    names = _frameworks([_defining_module(fn)]) - {source} or _frameworks(
        _modules_captured_at(error)
    )
    return names - {source} if about_arrays or source not in names else set()


def _frameworks(places: Iterable[str]) -> set[str]:
    return {name for place in places if (name := _registry.framework(place))} - {"numpy"}


def _modules_captured_at(error: Exception) -> Iterator[str]:
    """Yield the modules of what the innermost code of the user names."""
    return (_defining_module(value) for _, value in _captured_at(error))


def _captured_arrays_at(error: Exception) -> Iterator[tuple[str, str]]:
    """Yield arrays that the innermost code of the user captures: their names and frameworks."""
    for name, value in _captured_at(error):
        owner = _registry.array_owner(value)
        if owner is not None and owner.name in _registry.autodiff_frameworks():
            yield name, owner.name


def _captured_at(error: Exception) -> Iterator[tuple[str, Any]]:
    """Yield names in the innermost code of the user that are no arguments, and their values."""
    frames: list[types.FrameType] = []
    step = error.__traceback__
    while step is not None:
        frames.append(step.tb_frame)
        step = step.tb_next
    for frame in reversed(frames):
        if not is_skipped(frame):
            yield from ((name, frame.f_globals.get(name)) for name in frame.f_code.co_names)
            yield from ((name, frame.f_locals.get(name)) for name in frame.f_code.co_freevars)
            return


def _defining_module(thing: Any) -> str:
    """Return the name of the module of a function, or of the framework of an array."""
    owner = _registry.array_owner(thing)
    if owner is not None:
        return owner.name
    if isinstance(thing, types.ModuleType):
        return thing.__name__
    if type(thing).__module__.partition(".")[0] == _PACKAGE:  # made of a function of another
        return ""
    place = getattr(thing, "__module__", None)
    return place if isinstance(place, str) else ""
