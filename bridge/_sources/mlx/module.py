"""Modules of MLX as pure functions of their parameters."""

from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from bridge._arrays.mlx import evaluation_lock
from bridge._core.errors import ArgumentError, RangeError
from bridge._core.import_path import check_parameter_names
from bridge._core.pure_module import (
    Modes,
    PureModule,
    Variant,
    bind_method,
    changed_constant_error,
    constants_among,
    statistics_of_parts,
)
from bridge._core.spec import NARROW_INTEGERS
from bridge._sources.mlx.late_rules import undo_later, undo_now
from bridge._sources.mlx.module_contents import ModuleContents
from bridge._sources.mlx.module_copies import copy_module, dump_module, load_module, own_copy
from bridge._sources.mlx.module_data import Change
from bridge._sources.mlx.module_places import array_paths, at, dotted, part_paths
from bridge._sources.mlx.nodes import is_copy

Arrays = dict[str, mx.array]


class MlxModule(PureModule):
    """A module of MLX as a pure function."""

    framework = "mlx"

    def __init__(self, module: nn.Module, method: Any = None) -> None:
        original, self._module, self._method = module, own_copy(module), method
        module = self._module  # which does not follow what becomes of the original
        self.__name__ = type(module).__name__
        self._parts, self._paths = part_paths(module), array_paths(module)
        self.parts = tuple(map(dotted, self._parts))
        trainable: Any = tree_flatten(module.trainable_parameters())
        trained = {name for name, x in trainable if mx.issubdtype(x.dtype, mx.inexact)}
        self._params = [name for name in self._paths if name in trained]
        self._buffers = [name for name in self._paths if name not in trained]
        parts = dict(zip(self.parts, [at(module, path) for path in self._parts], strict=True))
        names = {id(at(module, self._paths[name])): name for name in self._buffers}
        self.statistics = statistics_of_parts(parts, names, nn.Module.get)
        dtypes = {name: at(module, self._paths[name]).dtype for name in self._buffers}
        self._wide = {name: dtype for name, dtype in dtypes.items() if dtype in _NARROW}
        self._is_shared = module is original
        self._contents = ModuleContents(module, self._paths)

    def referents(self) -> list[Any]:
        """Return what a call may change besides the parts of the module, which it restores."""
        return [self._contents.shared]

    def __reduce__(self) -> Any:
        return _load, (type(self), dump_module(self._module), self._method)

    def __call__(
        self, variant: Variant, params: Any, buffers: Any, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, Arrays]:
        """Return the output of the module, and the buffers that it has changed."""
        self._check_names(params, buffers)
        with evaluation_lock():  # copies of a layer share the module; dry runs do not hold it
            return self._call(variant, params, buffers, args, kwargs)

    def _call(
        self, variant: Variant, params: Any, buffers: Any, args: Any, kwargs: Any
    ) -> tuple[Any, Arrays]:
        undo_now(id(self))
        self._check_not_edited()
        modes, method = variant
        passed = {**params, **buffers}
        wide = {name: passed[name].astype(dtype) for name, dtype in self._wide.items()}

        def run() -> Any:
            return bind_method(self._module, method or self._method)(*args, **kwargs)

        run = run if modes == self.read_modes() else self._with_modes(run, modes)
        arrays = {**passed, **wide}
        output, changes = self._contents.call(arrays, run)
        if undo_later(id(self), self._contents.take_back):
            self._contents.put(arrays)
            if modes != self.read_modes():
                self._set_modes(self._module, modes)
        new = changes.arrays
        # A checkpoint, or a derivative by the module, puts the same parameters into it again.
        replaced = [n for n in new if n in params and not is_copy(new[n], arrays[n])]
        self._check_changes([*changes.others, *replaced])
        self._check_values(changes.values)
        narrow = lambda name, x: x.astype(buffers[name].dtype) if name in self._wide else x
        return output, {name: narrow(name, x) for name, x in new.items() if name in buffers}

    def _with_modes(self, run: Callable[[], Any], modes: Modes) -> Callable[[], Any]:
        """Return `run` so that the parts have these modes meanwhile."""

        def run_in_modes() -> Any:
            own = self.read_modes()
            self._set_modes(self._module, modes)  # `train` looks for modules in everything
            try:
                return run()
            finally:
                self._set_modes(self._module, own)

        return run_in_modes

    def _check_names(self, params: Any, buffers: Any) -> None:
        """Raise unless these are all arrays of the module; buffers may be among the parameters."""
        constants = constants_among(params, self._params, self._buffers)
        stored = [name for name in self._buffers if name not in constants]
        check_parameter_names("params", params, [*self._params, *constants], self.__name__)
        check_parameter_names("buffers", buffers, stored, self.__name__)

    def _check_changes(self, names: list[str]) -> None:
        """Raise if a call has changed an array that it does not return: nobody would get it."""
        if names and names[0] in self._buffers:
            raise changed_constant_error(self.__name__, names[0])
        if names:
            raise ArgumentError(
                f"{self.__name__} changes or adds an array while it is called, {names[0]!r}, which "
                "would be lost. What it changes has to be a buffer: an array that is there before "
                "the call, is frozen, and has a name that does not begin with `_`."
            )

    def _check_not_edited(self) -> None:
        """Raise if a module that could not be copied is another now."""
        edited = self._contents.edited() if self._is_shared else None
        if edited:
            raise ArgumentError(
                f"{self.__name__}, which cannot be copied, was changed after it was wrapped, in "
                f"{edited!r}. Wrap it again after you have changed it."
            )
        if self._is_shared:
            self._contents.read()

    def _check_values(self, changes: list[Change]) -> None:
        """Raise if a call has changed a Python value, as a counter: the next call would lack it."""
        for name, old, new in changes:
            raise ArgumentError(
                f"{self.__name__} changes {name!r} from {old!r} to {new!r} while it is called, "
                "which would be lost. Make it a buffer: an array that is there before the call, is "
                "frozen, and has a name that does not begin with `_`. If it follows from the "
                "arguments, keep it in a local variable."
            )

    def read_modes(self) -> Modes:
        """Return the modes of the module and its submodules."""
        return tuple(at(self._module, path).training for path in self._parts)

    def _set_modes(self, module: nn.Module, modes: Modes) -> None:
        for path, mode in zip(self._parts, modes, strict=True):  # `train` sets inner modules too
            at(module, path).train(mode)

    def restore(self, modes: Modes, params: Mapping[str, Any], buffers: Mapping[str, Any]) -> Any:
        """Make a copy of the module, in these modes and with these arrays."""
        twin = copy_module(self._module)
        wide = {name: buffers[name].astype(dtype) for name, dtype in self._wide.items()}
        for name, x in {**params, **buffers, **wide}.items():
            path = self._paths[name]
            at(twin, path[:-1])[path[-1]] = x
        self._set_modes(twin, modes)
        return twin

    @property
    def arrays(self) -> tuple[Arrays, Arrays]:
        """Copies of the parameters and of the buffers."""
        copies = {
            name: mx.asarray(at(self._module, path), copy=True)
            for name, path in self._paths.items()
        }
        params = {name: copies[name] for name in self._params}
        return params, {name: copies[name] for name in self._buffers}


def take_apart(
    module: Any, *, method: Any, allow_64_bits: bool
) -> tuple[PureModule, Arrays, Arrays]:
    """Return a module as a pure function, its parameters and its buffers.

    Parameters are the arrays that the module trains. Buffers are all other arrays in it, such as
    the running statistics of a normalization, frozen parameters, or integers. Both are copies.
    Unless `allow_64_bits`, integers of 64 bits have 32 outside of the module.
    """
    pure = MlxModule(module, method)
    params, buffers = pure.arrays
    if not allow_64_bits:
        buffers = {name: _narrow(name, x) for name, x in buffers.items()}
    return pure, params, buffers


_NARROW = {getattr(mx, wide): getattr(mx, narrow) for wide, narrow in NARROW_INTEGERS.items()}


def _narrow(name: str, x: mx.array) -> mx.array:
    """Return an array with integers of at most 32 bits; raise if its values need more."""
    narrow = x.astype(_NARROW.get(x.dtype, x.dtype))
    if x.dtype in _NARROW and not mx.array_equal(narrow.astype(x.dtype), x):
        dtype = str(x.dtype).removeprefix("mlx.core.")
        raise RangeError(
            f"buffer {name} is {dtype}{list(x.shape)}, with values that need 64 bits. "
            'Wrap the module in 64-bit mode: jax.config.update("jax_enable_x64", True).'
        )
    return narrow


def _load(kind: type[MlxModule], data: bytes, method: Any) -> MlxModule:
    return kind(load_module(data), method)
