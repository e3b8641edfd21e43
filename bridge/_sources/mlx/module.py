"""Modules of MLX as values and pure functions of them."""

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
    """A pure function of modes, parameters, buffers and arguments; the modes; copies of both.

    Parameters are what the module trains, and buffers all other arrays in it, such as the running
    statistics of a normalization, or parameters that are frozen.
    """
    del allow_64_bits  # MLX counts in 32 bits
    trained = dict.fromkeys(name for name, _ in tree_flatten(module.trainable_parameters()))
    kept = [name for name in _arrays(module) if name not in trained]

    def apply(modes: Modes, params: Arrays, buffers: Arrays, *args: Any, **kwargs: Any) -> Any:
        check_parameter_names("params", params, trained, type(module).__name__)
        check_parameter_names("buffers", buffers, kept, type(module).__name__)
        with _with_arrays(module, {**params, **buffers}, modes):
            output = module(*args, **kwargs)
            found = _arrays(module)
        return output, {name: found[name] for name in buffers}

    own = {name: mx.asarray(x, copy=True) for name, x in _arrays(module).items()}
    params = {name: x for name, x in own.items() if name in trained}
    buffers = {name: own[name] for name in kept}
    return apply, lambda: _modes(module), params, buffers


def _arrays(module: Any) -> Arrays:
    return dict(tree_flatten(module.parameters()))


@contextlib.contextmanager
def _with_arrays(module: Any, arrays: Arrays, modes: Modes) -> Generator[None]:
    """The module with these arrays and modes, which it gives back."""
    before = _arrays(module), _modes(module)
    try:
        _set(module, arrays, modes)
        yield
    finally:
        _set(module, *before)


def _set(module: Any, arrays: Arrays, modes: Modes) -> None:
    module.update(tree_unflatten(list(arrays.items())))
    for part, mode in zip(_parts(module), modes, strict=True):
        part.train(mode)


def _modes(module: Any) -> Modes:
    return tuple(part.training for part in _parts(module))


def _parts(module: Any) -> list[Any]:
    """The modules in it, outer ones first: `train` goes down to all inner ones."""
    named = sorted(module.named_modules(), key=lambda each: (each[0] != "", each[0].count(".")))
    return [part for _, part in named]
