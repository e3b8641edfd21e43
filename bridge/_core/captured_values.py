"""The places besides its arguments where a function finds values, and can store others.

NOTE [what a function can reach]
A function names globals and cells, and goes on from there: through containers, attributes, slots,
classes, and functions. Code of installed packages is left out, since their caches are no state of
the user's; objects of their classes are. Few objects are enough: what is long or deep is data.
"""

import collections
import contextlib
import functools
import itertools
import sys
import sysconfig
import types
from collections.abc import Callable, Iterator
from typing import Any

from bridge._core.holder import EMPTY, Attributes, Holder as Holder, own_slot_names


def holders(x: Any) -> list[Holder]:
    """Return the places of values in `x`; for a function, those that its code can name."""
    if _is_own(x):
        return []
    if isinstance(x, types.FunctionType):
        return _holders_of_function(x)
    if isinstance(x, type):
        return [Holder(Attributes(x), x.__name__)] if _is_written_by_user(x) else []
    if wrapped := _wrapped(x):  # a method, as `random.uniform`, may be of what changes in place
        return [Holder(tuple(wrapped), type(x).__name__)]
    if isinstance(x, types.ModuleType):
        return []
    places = [Holder(vars(x), str(type(x).__name__))] if hasattr(x, "__dict__") else []
    if isinstance(x, (dict, list, collections.deque, set, tuple, frozenset)):
        places.append(Holder(x, type(x).__name__))
    if slots := _slots(type(x)):
        places.append(Holder(Attributes(x, slots), type(x).__name__))
    return places


def _holders_of_function(fn: types.FunctionType) -> list[Holder]:
    named = frozenset(names(fn.__code__))
    closed = zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True)
    modules: list[Any] = [x for x in map(fn.__globals__.get, named) if _is_users_module(x)]
    places = [
        Holder(fn.__globals__, names=named),
        *(Holder(cell, name) for name, cell in closed),
        *(Holder(vars(module), module.__name__, named) for module in modules),
        Holder(vars(fn), fn.__name__),
    ]
    if fn.__defaults__:
        places.append(Holder(Attributes(fn, ["__defaults__"]), fn.__name__))
    return places


def names(code: types.CodeType) -> set[str]:
    """Return the names that `code`, or a function defined in it, looks up."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return {*code.co_names}.union(*map(names, inner))


def walk_holders(
    x: Any, is_module: Callable[[Any], bool], seen: set[int] | None = None
) -> Iterator[Any]:
    """Yield `x` and what it can reach, no parts of modules: NOTE [what a function can reach]."""
    seen, count = set() if seen is None else seen, itertools.count()
    queue = collections.deque([(x, 0)])
    while queue and next(count) < _MOST_OBJECTS:
        x, depth = queue.popleft()
        if id(x) in seen:
            continue
        seen.add(id(x))
        yield x
        if depth < _DEPTH and not is_module(x):
            queue.extend((y, depth + 1) for y in _parts(x) if not _is_atom(y))


def _is_atom(x: Any) -> bool:
    """Return True if `x` holds nothing; a builtin may be the method of an object."""
    if isinstance(x, types.BuiltinFunctionType):
        return x.__self__ is None or isinstance(x.__self__, (types.ModuleType, type))
    return isinstance(x, _ATOMS)


_ATOMS = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice),
    *(types.GetSetDescriptorType, types.MemberDescriptorType),
)
_MOST = 100  # a list of layers is short; a longer one is data
_MOST_OBJECTS = 3000
_DEPTH = 16


def _parts(x: Any) -> list[Any]:
    """Return what `x` holds; for a function, what it names, but no functions of other packages."""
    if isinstance(x, types.FunctionType):
        return _parts_of_function(x)
    if isinstance(x, type):
        return [*vars(x).values(), *x.__bases__] if _is_written_by_user(x) else []
    if isinstance(x, types.ModuleType):
        return []
    if wrapped := _wrapped(x):
        return wrapped
    if _is_own(x):
        referents = getattr(x, "referents", None)
        return referents() if referents else [*vars(x).values()] if _is_callable_object(x) else []
    parts = [*_elements(x), *_attribute_values(x)]
    return [*parts, type(x)] if _is_written_by_user(type(x)) else parts


def _wrapped(x: Any) -> list[Any]:
    """Return what a wrapper of functions holds, such as a method."""
    for kind, names_of_parts in _WRAPPERS.items():
        if isinstance(x, kind):
            return [getattr(x, name) for name in names_of_parts]
    return []


_WRAPPERS: dict[type, tuple[str, ...]] = {
    types.BuiltinFunctionType: ("__self__",),
    types.MethodType: ("__func__", "__self__"),
    functools.partial: ("func", "args", "keywords"),
    staticmethod: ("__func__",),
    classmethod: ("__func__",),
    property: ("fget", "fset"),
}


def _parts_of_function(fn: types.FunctionType) -> list[Any]:
    cells = [cell.cell_contents for cell in fn.__closure__ or () if cell != EMPTY]
    looked_up = names(fn.__code__)
    named = [fn.__globals__[name] for name in looked_up if name in fn.__globals__]
    modules = [y for y in named if _is_users_module(y)]
    named += [vars(y)[name] for y in modules for name in looked_up if name in vars(y)]
    here = [y for y in named if not _is_function_installed_elsewhere(y, fn)]
    defaults = [*(fn.__defaults__ or ()), *(fn.__kwdefaults__ or {}).values()]
    return [*cells, *here, *defaults, *vars(fn).values()]


def _elements(x: Any) -> list[Any]:
    if isinstance(x, dict):
        return [*itertools.islice(x.values(), _MOST)]
    if isinstance(x, (list, tuple, set, frozenset, collections.deque)):
        return [*itertools.islice(x, _MOST)]
    return []


def _attribute_values(x: Any) -> list[Any]:
    own = vars(x) if hasattr(x, "__dict__") else {}
    values = [*own.values()] if isinstance(own, dict) else []
    return [*values, *Attributes(x, _slots(type(x))).values()]


@functools.lru_cache(maxsize=256)  # bounded, since it keeps classes of the user alive
def _slots(cls: type) -> tuple[str, ...]:
    """Return the names of the slots that classes of the user give to objects of `cls`."""
    written = filter(_is_written_by_user, cls.__mro__)
    return tuple(name for c in written for name in own_slot_names(c))


def _is_function_installed_elsewhere(x: Any, fn: types.FunctionType) -> bool:
    if not isinstance(x, types.FunctionType) or x.__globals__ is fn.__globals__:
        return False
    return _is_installed(x.__globals__.get("__name__", ""))


def _is_callable_object(x: Any) -> bool:
    return callable(x) and hasattr(x, "__dict__") and not isinstance(x, (type, types.ModuleType))


_HEAP_TYPE = 1 << 9  # whose attributes can be set


def _is_written_by_user(cls: type) -> bool:
    return bool(cls.__flags__ & _HEAP_TYPE) and not _is_installed(cls.__module__)


def _is_users_module(x: Any) -> bool:
    return isinstance(x, types.ModuleType) and not _is_installed(x.__name__)


_PACKAGE = __name__.partition(".")[0]


def _is_own(x: Any) -> bool:
    """Return True if `x` is a function or an object of this package."""
    if isinstance(x, types.FunctionType):
        name = x.__globals__.get("__name__", "")
    else:
        name = type(x).__module__
    return str(name).partition(".")[0] == _PACKAGE


@functools.cache
def _is_installed(module_name: Any) -> bool:
    """Return True if a module of this name is of Python, an installed package, or this one."""
    if module_name in sys.builtin_module_names or str(module_name).partition(".")[0] == _PACKAGE:
        return True
    file = None
    with contextlib.suppress(AttributeError):
        file = sys.modules[module_name].__file__ if module_name in sys.modules else None
    if file is None:
        return False
    return any(x in file for x in ("site-packages", "dist-packages")) or file.startswith(_STDLIB)


_STDLIB = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib"))
