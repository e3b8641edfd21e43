"""Modules of MLX as pure functions of their parameters."""

import contextlib
from collections.abc import Generator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from bridge._core.import_path import check_parameter_names
from bridge._core.pure_module import Modes, PureModule, Variant, bind_method

Arrays = dict[str, mx.array]


class MlxModule(PureModule):
    """A module of MLX as a pure function."""

    framework = "mlx"

    def __init__(self, module: Any, method: Any = None) -> None:
        self._module, self._method = module, method
        self.__name__ = type(module).__name__
        self.parts = tuple(name for name, _ in _named_submodules(module))
        self._params = dict.fromkeys(
            name for name, _ in tree_flatten(module.trainable_parameters())
        )
        self._buffers = [name for name in _arrays(module) if name not in self._params]

    def referents(self) -> list[Any]:
        """Return the module, for a search of what the function holds."""
        return [self._module]

    def __reduce__(self) -> Any:
        return type(self), (self._module, self._method)

    def __call__(
        self, variant: Variant, params: Any, buffers: Any, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, Arrays]:
        """Return the output of the module, and its buffers after the call."""
        check_parameter_names("params", params, self._params, self.__name__)
        check_parameter_names("buffers", buffers, self._buffers, self.__name__)
        modes, method = variant
        with _with_arrays(self._module, {**params, **buffers}, modes):
            output = bind_method(self._module, method or self._method)(*args, **kwargs)
            arrays = _arrays(self._module)
        return output, {name: arrays[name] for name in buffers}

    def read_modes(self) -> Modes:
        """Return the modes of the module and its submodules."""
        return _modes(self._module)

    def restore(self, modes: Modes, params: Any, buffers: Any) -> Any:
        """Make a copy of the module, in these modes and with these arrays."""
        twin = _copy_tree(self._module)
        _set(twin, {**params, **buffers}, modes)
        return twin

    @property
    def arrays(self) -> tuple[Arrays, Arrays]:
        """Copies of the parameters and of the buffers."""
        copies = {name: mx.asarray(x, copy=True) for name, x in _arrays(self._module).items()}
        params = {name: x for name, x in copies.items() if name in self._params}
        return params, {name: copies[name] for name in self._buffers}


def take_apart(
    module: Any, *, method: Any, allow_64_bits: bool
) -> tuple[PureModule, Arrays, Arrays]:
    """Return a module as a pure function, its parameters and its buffers.

    Parameters are the arrays that the module trains. Buffers are all other arrays in it, such as
    the running statistics of a normalization, or frozen parameters. Both are copies.
    """
    del allow_64_bits  # MLX counts in 32 bits
    pure = MlxModule(module, method)
    return pure, *pure.arrays


def _copy_tree(tree: Any) -> Any:
    """Copy the modules and containers of a tree; `deepcopy` refuses functions that they hold."""
    if isinstance(tree, nn.Module):
        twin: Any = type(tree).__new__(type(tree))
        twin.__dict__.update(tree.__dict__)
        dict.update(twin, {name: _copy_tree(value) for name, value in dict.items(tree)})
        return twin
    if isinstance(tree, dict):
        return {name: _copy_tree(value) for name, value in tree.items()}
    return type(tree)(map(_copy_tree, tree)) if type(tree) in (list, tuple) else tree


def _arrays(module: Any) -> Arrays:
    return dict(tree_flatten(module.parameters()))


@contextlib.contextmanager
def _with_arrays(module: Any, arrays: Arrays, modes: Modes) -> Generator[None]:
    """Put these arrays and modes into the module within a context."""
    before = _arrays(module), _modes(module)
    try:
        _set(module, arrays, modes)
        yield
    finally:
        _set(module, *before)


def _set(module: Any, arrays: Arrays, modes: Modes) -> None:
    module.update(tree_unflatten(list(arrays.items())))
    for submodule, mode in zip(_submodules(module), modes, strict=True):
        submodule.train(mode)


def _modes(module: Any) -> Modes:
    return tuple(submodule.training for submodule in _submodules(module))


def _submodules(module: Any) -> list[Any]:
    return [submodule for _, submodule in _named_submodules(module)]


def _named_submodules(module: Any) -> list[tuple[str, Any]]:
    """Return the modules in `module` and itself with their names, outer ones first."""
    # In this order since `train` also sets all inner modules.
    named = module.named_modules()
    return sorted(named, key=lambda pair: (pair[0] != "", pair[0].count(".")))
