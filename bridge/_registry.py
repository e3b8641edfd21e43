"""The frameworks that bridge knows, found without importing them."""

import functools
import importlib
import importlib.util
import itertools
import re
import sys
import weakref
from collections.abc import Iterator
from typing import Any, cast

from bridge._core import forks, tracebacks
from bridge._core.array_protocols import ArrayBackend, SourceArrays, TargetArrays
from bridge._core.errors import MissingFrameworkError, OutdatedFrameworkError, UnknownFrameworkError
from bridge._core.protocols import Outline, Source, Target

_MODULES = {"torch": "torch", "jax": "jax", "mlx": "mlx.core", "numpy": "numpy"}
_PACKAGES = {"torch": "torch", "jax": "jax", "jaxlib": "jax", "mlx": "mlx", "numpy": "numpy"}
tracebacks.FRAMEWORKS |= {*_PACKAGES}
# The Python modules that define a class `Module`.
_NETWORKS = {
    "torch": ("torch.nn",),
    "mlx": ("mlx.nn",),
    "jax": ("flax.nnx", "flax.linen", "equinox"),
}
# The name of the object in each package `bridge.<package>.<framework>` that we load.
_OBJECTS = {"_arrays": "ARRAYS", "_sources": "SOURCE", "_targets": "TARGET"}
# Imported with us, so that wrapping imports nothing; by name, since we import no framework.
_OUTLINES: dict[str, Outline] = {
    name: importlib.import_module(f"bridge._frameworks.{name}").OUTLINE for name in _MODULES
}
_SOURCES: tuple[str, ...] = ("jax", "torch", "mlx")
_TARGETS: tuple[str, ...] = ("torch", "jax", "mlx")


def directions() -> list[tuple[str, str]]:
    """Return every pair of a source and a target for which functions can be wrapped."""
    return [pair for pair in itertools.product(_SOURCES, _TARGETS) if pair[0] != pair[1]]


def frameworks() -> list[str]:
    """Return the names of all frameworks."""
    return [*_MODULES]


def autodiff_frameworks() -> set[str]:
    """Return the frameworks that differentiate functions themselves, so not NumPy."""
    return {*_SOURCES}


@functools.cache
def _load(package: str, name: str) -> Any:
    """Import our modules for a framework; raise if it is missing or too old."""
    if name not in _MODULES:
        known = ", ".join(_MODULES)
        raise UnknownFrameworkError(f"{name!r} is not a framework bridge knows ({known}).")
    try:
        module = importlib.import_module(_MODULES[name])
    except ImportError as error:
        raise _missing(name, error) from error
    _check_version(name, getattr(module, "__version__", ""))
    return getattr(importlib.import_module(f"bridge.{package}.{name}"), _OBJECTS[package])


def _missing(name: str, why: object) -> MissingFrameworkError:
    return MissingFrameworkError(
        f"{name} is not installed (import {_MODULES[name]} failed: {why}). "
        f"Install it with: pip install 'gradbridge[{name}]'"
    )


def _check_version(name: str, version: str) -> None:
    """Raise if a framework is older than the metadata of bridge require."""
    for oldest in _oldest_versions(name):
        if _release(version) and _release(version) < _release(oldest):
            raise OutdatedFrameworkError(
                f"{name} {version} is installed, and bridge needs {oldest} or later: "
                f"pip install -U 'gradbridge[{name}]'"
            )


def _oldest_versions(name: str) -> Iterator[str]:
    """Yield the lower bounds on the version of a framework in the metadata of bridge."""
    from importlib import metadata  # here, because it would slow down `import bridge`

    try:
        requirements = metadata.requires("gradbridge") or []
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return
    for requirement in requirements:
        versions = re.match(rf"{name}\b(?!-)(?:\[.*?\])?([^;]*)", requirement)
        yield from re.findall(r">=\s*([\d.]+)", versions[1]) if versions else ()


def _release(version: str) -> list[int]:
    """Return the numbers of a version without trailing zeros: `2.11.0a0+cpu` gives 2 and 11."""
    numbers = re.match(r"[\d.]*\d", version)
    return (
        [int(number) for number in re.sub(r"(\.0)+$", "", numbers[0]).split(".")] if numbers else []
    )


def outline(name: str) -> Outline:
    """Return what is known of a framework that need not be imported."""
    return _OUTLINES[name]


@functools.cache
def expect(name: str) -> None:
    """Prepare for a later import of a framework: raise if it is not installed, and note forks."""
    package = _MODULES[name].partition(".")[0]  # to look for a submodule would import the package
    if sys.modules.get(package) is None:
        try:
            is_installed = package not in sys.modules and importlib.util.find_spec(package)
        except ImportError as error:
            raise _missing(name, error) from error
        if not is_installed:
            raise _missing(name, f"no module named {package!r}")
    forks.watch_forks(name, outline(name).has_threads)


def arrays(name: str) -> ArrayBackend:
    """Return the array backend of a framework."""
    return cast(ArrayBackend, _load("_arrays", name))


def source_arrays(name: str) -> SourceArrays:
    """Return the array backend of a framework as a source."""
    return cast(SourceArrays, _load("_arrays", name))


def target_arrays(name: str) -> TargetArrays:
    """Return the array backend of a framework as a target."""
    return cast(TargetArrays, _load("_arrays", name))


def source(name: str) -> Source:
    """Return the source of a framework."""
    return cast(Source, _load("_sources", name))


def target(name: str) -> Target:
    """Return the target of a framework."""
    return cast(Target, _load("_targets", name))


def loaded() -> list[ArrayBackend]:
    """Return the backends of all imported frameworks, last that of any other DLPack arrays."""
    return [*_iterate_loaded()]


def _iterate_loaded() -> Iterator[ArrayBackend]:
    names = [name for name, module in _MODULES.items() if sys.modules.get(module)]
    yield from map(arrays, names)
    if "numpy" in names:
        yield _dlpack_objects()


@functools.cache
def _dlpack_objects() -> ArrayBackend:
    return importlib.import_module("bridge._arrays.dlpack_objects").ARRAYS


def framework(module: str) -> str | None:
    """Return the framework that a Python module of this name belongs to."""
    return _PACKAGES.get(module.partition(".")[0])


def module_owner(x: Any) -> str | None:
    """Return the framework whose class `Module` is a base of `x` or of its class."""
    for name, python_modules in _NETWORKS.items():
        modules = (sys.modules.get(python_module) for python_module in python_modules)
        bases = tuple(base for m in modules if (base := getattr(m, "Module", None)) is not None)
        if isinstance(x, bases) or (isinstance(x, type) and issubclass(x, bases)):
            return name
    return None


def can_be_module(x: Any, name: str) -> bool:
    """Return False if `x` is surely no module of a source, which is told without its code."""
    return module_owner(x) is not None or not outline(name).is_leaf(x)


def array_owner(x: Any) -> ArrayBackend | None:
    """Return the backend that `x` is an array of, if any; only imported frameworks are asked."""
    for backend in _iterate_loaded():  # most often one of the first
        if backend.is_array(x):
            return backend
    return None


def watch_in_trees(cls: type) -> None:
    """Let JAX, if it is imported, not lose the parameters of objects of `cls` in trees."""
    _watched.add(cls)
    if sys.modules.get("jax"):
        _load("_targets", "jax").watch_in_trees(cls)


_watched = weakref.WeakSet[type]()


def pytree_node_functions(x: Any) -> Any:
    """Return how to flatten and rebuild `x`, if it is a pytree node of an imported framework."""
    if array_owner(x) is not None or type(x) in _watched:
        return None
    found = (backend.pytree_node_functions(x) for backend in loaded())
    return next((functions for functions in found if functions is not None), None)
