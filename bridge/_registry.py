"""Which frameworks there are, and whose an array is. Imports none of them."""

import functools
import importlib
import itertools
import re
import sys
from collections.abc import Iterator
from typing import Any, cast

from bridge._core import tracebacks
from bridge._core.array_protocols import ArrayBackend, SourceArrays, TargetArrays
from bridge._core.errors import MissingFrameworkError, OutdatedFrameworkError, UnknownFrameworkError
from bridge._core.protocols import Source, Target

_MODULES = {"torch": "torch", "jax": "jax", "mlx": "mlx.core", "numpy": "numpy"}
_PACKAGES = {"torch": "torch", "jax": "jax", "jaxlib": "jax", "mlx": "mlx", "numpy": "numpy"}
tracebacks.FRAMEWORKS |= {*_PACKAGES}
_NETWORKS = {"torch": "torch.nn", "mlx": "mlx.nn"}  # where their class `Module` is
# What each room shows of a framework.
_OBJECTS = {"_arrays": "ARRAYS", "_sources": "SOURCE", "_targets": "TARGET"}
_SOURCES: tuple[str, ...] = ("jax", "torch", "mlx")
_TARGETS: tuple[str, ...] = ("torch", "jax", "mlx")


def directions() -> list[tuple[str, str]]:
    """Every pair of a source and a target that a function can cross between."""
    return [pair for pair in itertools.product(_SOURCES, _TARGETS) if pair[0] != pair[1]]


def frameworks() -> set[str]:
    """Those that functions are written with."""
    return {*_SOURCES}


@functools.cache
def _load(room: str, name: str) -> Any:
    if name not in _MODULES:
        known = ", ".join(_MODULES)
        raise UnknownFrameworkError(f"{name!r} is not a framework bridge knows ({known}).")
    try:
        module = importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise MissingFrameworkError(
            f"{name} is not installed (import {_MODULES[name]} failed: {error}). "
            f"Install it with: pip install 'gradbridge[{name}]'"
        ) from error
    _check_version(name, getattr(module, "__version__", ""))
    return getattr(importlib.import_module(f"bridge.{room}.{name}"), _OBJECTS[room])


def _check_version(name: str, version: str) -> None:
    """Refuse a framework that is older than the metadata of bridge ask for."""
    for floor in _floors(name):
        if _release(version) and _release(version) < _release(floor):
            raise OutdatedFrameworkError(
                f"{name} {version} is installed, and bridge needs {floor} or later: "
                f"pip install -U 'gradbridge[{name}]'"
            )


def _floors(name: str) -> Iterator[str]:
    """The oldest versions of a framework that the metadata of bridge, where it has any, allow."""
    from importlib import metadata  # of no use to `import bridge`, which it would slow down

    try:
        requirements = metadata.requires("gradbridge") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return
    for requirement in requirements:
        versions = re.match(rf"{name}\b(?!-)(?:\[.*?\])?([^;]*)", requirement)
        yield from re.findall(r">=\s*([\d.]+)", versions[1]) if versions else ()


def _release(version: str) -> list[int]:
    """The numbers of a version, without the zeros that end it: `2.11.0a0+cpu` is 2.11."""
    numbers = re.match(r"[\d.]*\d", version)
    return (
        [int(number) for number in re.sub(r"(\.0)+$", "", numbers[0]).split(".")] if numbers else []
    )


def arrays(name: str) -> ArrayBackend:
    """The arrays of a framework."""
    return cast(ArrayBackend, _load("_arrays", name))


def source_arrays(name: str) -> SourceArrays:
    """The arrays of a framework, as the functions that live there take them."""
    return cast(SourceArrays, _load("_arrays", name))


def target_arrays(name: str) -> TargetArrays:
    """The arrays of a framework that functions are called from."""
    return cast(TargetArrays, _load("_arrays", name))


def source(name: str) -> Source:
    """The functions of a framework."""
    return cast(Source, _load("_sources", name))


def target(name: str) -> Target:
    """The call sites of a framework."""
    return cast(Target, _load("_targets", name))


def loaded() -> list[ArrayBackend]:
    """The arrays of every framework somebody has imported, and last those of nobody."""
    names = [name for name, module in _MODULES.items() if sys.modules.get(module)]
    return [*map(arrays, names), *([_exporters()] if "numpy" in names else [])]


@functools.cache
def _exporters() -> ArrayBackend:
    return importlib.import_module("bridge._arrays.exporters").ARRAYS


def framework(module: str) -> str | None:
    """The framework that a module of this name belongs to."""
    return _PACKAGES.get(module.partition(".")[0])


def module_owner(x: Any) -> str | None:
    """The framework that `x` is a module of, with parameters of its own, or such a class."""
    for name, place in _NETWORKS.items():
        base = getattr(sys.modules.get(place), "Module", None)
        if base is not None and (
            isinstance(x, base) or (isinstance(x, type) and issubclass(x, base))
        ):
            return name
    return None


def array_owner(x: Any) -> ArrayBackend | None:
    """The framework `x` is an array of; one that is not imported owns nothing."""
    return next((face for face in loaded() if face.is_array(x)), None)


def pytree_node(x: Any) -> Any:
    """How to take apart and rebuild `x`, if it is a node to a framework that is imported."""
    if array_owner(x) is not None:
        return None
    found = (face.pytree_node(x) for face in loaded())
    return next((how for how in found if how is not None), None)
