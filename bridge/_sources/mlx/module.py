"""Modules of MLX as pure functions of their parameters."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from bridge._core.import_path import check_parameter_names

Arrays = dict[str, mx.array]
Modes = tuple[bool, ...]


def functionalize(
    module: Any, *, allow_64_bits: bool
) -> tuple[Callable[..., Any], Callable[[], Modes], Arrays, Arrays]:
    """Return `fn(modes, params, buffers, *args)`, a getter of the modes, params and buffers.

    Parameters are the arrays that the module trains. Buffers are all other arrays in it, such as
    the running statistics of a normalization, or frozen parameters. Both are copies.
    """
    del allow_64_bits  # MLX counts in 32 bits
    param_names = dict.fromkeys(name for name, _ in tree_flatten(module.trainable_parameters()))
    buffer_names = [name for name in _arrays(module) if name not in param_names]

    def apply(modes: Modes, params: Arrays, buffers: Arrays, *args: Any, **kwargs: Any) -> Any:
        check_parameter_names("params", params, param_names, type(module).__name__)
        check_parameter_names("buffers", buffers, buffer_names, type(module).__name__)
        with _with_arrays(module, {**params, **buffers}, modes):
            output = module(*args, **kwargs)
            arrays = _arrays(module)
        return output, {name: arrays[name] for name in buffers}

    copies = {name: mx.asarray(x, copy=True) for name, x in _arrays(module).items()}
    params = {name: x for name, x in copies.items() if name in param_names}
    buffers = {name: copies[name] for name in buffer_names}
    return apply, lambda: _modes(module), params, buffers


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
    """Return the modules in `module` and itself, outer ones first."""
    # In this order since `train` also sets all inner modules.
    named = sorted(module.named_modules(), key=lambda pair: (pair[0] != "", pair[0].count(".")))
    return [submodule for _, submodule in named]
