"""Copies of modules of MLX, for this process and for others.

NOTE [functions in modules]
Modules hold functions, `nn.relu` as an activation or `mx.max` in a pooling layer, which `copy` and
`pickle` refuse if they are compiled by MLX or written in C++. A copy shares them; another process
imports them.
"""

import functools
import gc
import io
import pickle
import types
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from bridge._core import import_path
from bridge._core.errors import ArgumentError

_NATIVE: tuple[Any, ...] = (type(mx.max), type(mx.compile(abs)), mx.custom_function, mx.Dtype)
_HOLDING: tuple[Any, ...] = (
    *(types.FunctionType, types.MethodType, types.CellType, functools.partial, tuple, list, dict),
    *(type(mx.compile(abs)), mx.custom_function),
)
_SHARED: tuple[Any, ...] = (mx.array, type, types.FunctionType, *_NATIVE)


class _Copier(pickle.Pickler):
    """Takes a module apart, but for what its copy shares."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.shared: list[Any] = []
        self._arrays = dict[int, tuple[mx.array, mx.array]]()

    def persistent_id(self, obj: Any) -> int | None:
        """Return the number of an object that is shared, or of an array."""
        if not isinstance(obj, _SHARED):
            return None
        if isinstance(obj, mx.array):  # with the same memory, but not written to by the other
            _, obj = self._arrays.setdefault(id(obj), (obj, obj[...]))
        self.shared.append(obj)
        return len(self.shared) - 1


class _CopyLoader(pickle.Unpickler):
    def __init__(self, file: Any, shared: list[Any]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: Any) -> Any:
        return self._shared[pid]


def copy_module(module: nn.Module) -> nn.Module:
    """Copy a module and all it refers to but arrays and functions."""
    file = io.BytesIO()
    copier = _Copier(file)
    try:
        copier.dump(module)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ArgumentError(f"{type(module).__name__} cannot be copied: {error}.") from error
    own = {id(submodule) for submodule in module.modules()}
    for x in copier.shared:
        if _closes_over(x, own):
            raise ArgumentError(
                f"{type(module).__name__} cannot be copied: it holds a function, "
                f"{import_path.function_name(x)}, that refers to a part of it, so that the copy "
                "would call the original. Make it a method."
            )
    file.seek(0)
    return _CopyLoader(file, copier.shared).load()


def _closes_over(function: Any, modules: set[int]) -> bool:
    """Return True if a function, or one that it wraps or that MLX compiles, holds a module."""
    seen, queue = set[int](), [function]
    while queue:
        x = queue.pop()
        if id(x) in modules:
            return True
        if id(x) not in seen and isinstance(x, _HOLDING):
            seen.add(id(x))
            named = (x.__closure__, x.__defaults__) if isinstance(x, types.FunctionType) else None
            queue.extend(gc.get_referents(x) if named is None else named)
    return False


def own_copy(module: nn.Module) -> nn.Module:
    """Copy a module; return itself if it cannot be copied, as one with a lock."""
    try:
        return copy_module(module)
    except ArgumentError:
        return module


class _FilePickler(pickle.Pickler):
    """Writes a module for another process, which imports the functions in it."""

    def persistent_id(self, obj: Any) -> str | None:
        """Return the import path of a function, or a dtype, that pickle refuses."""
        if not isinstance(obj, _NATIVE):
            return None
        is_dtype = isinstance(obj, mx.Dtype)  # whose `repr` is its path, with a dot
        path = repr(obj).replace("core.", "core:") if is_dtype else import_path.import_path(obj)
        if path is None:
            raise ArgumentError(
                f"a module holds a function that MLX has compiled or wrapped, {obj!r}, which "
                "another process cannot import. Define it at the top of a module, by the name "
                "that it has."
            )
        return path


class _FileLoader(pickle.Unpickler):
    def persistent_load(self, pid: Any) -> Any:
        return import_path.import_object(pid)


def dump_module(module: nn.Module) -> bytes:
    """Return a module as bytes, for `load_module` in another process."""
    file = io.BytesIO()
    _FilePickler(file).dump(module)
    return file.getvalue()


def load_module(data: bytes) -> nn.Module:
    """Return the module that `dump_module` wrote."""
    return _FileLoader(io.BytesIO(data)).load()
