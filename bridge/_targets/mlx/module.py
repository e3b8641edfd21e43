"""Modules of other frameworks as `mlx.nn.Module`."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from bridge._arrays.mlx import TracerError, evaluate, transforming
from bridge._arrays.mlx.upstream.modules import freeze_for_good
from bridge._core.errors import ArgumentError
from bridge._core.pure_module import Modes, ModuleState, ModuleView, PureModule, warn_of_own_train
from bridge._targets.mlx.module_tree import NumberedModule, Path, grow


@dataclasses.dataclass(frozen=True)
class _Original:
    """The module that another stands for, and where its arrays and modes are.

    Attributes:
        pure: The module as a pure function.
        function: It, for callers in MLX.
        params: The keys that lead to each of its parameters.
        buffers: Those that lead to each of its buffers.
        parts: Those that lead to each of the parts that have modes.
    """

    pure: PureModule
    function: Callable[..., Any]
    params: Mapping[str, Path]
    buffers: Mapping[str, Path]
    parts: tuple[Path, ...]


class BridgedModule(NumberedModule, ModuleView):
    """A module of another framework, which computes there.

    Parameters, buffers and groups have the names of the original. Buffers are frozen, and
    new values of those that a call changes are written to them. Random numbers follow from the key
    of `mx.random`, or from a key that is passed, `rng=`.
    """

    def __init__(
        self,
        pure: PureModule,
        function: Callable[..., Any],
        params: Mapping[str, mx.array],
        buffers: Mapping[str, mx.array],
    ) -> None:
        super().__init__()
        warn_of_own_train(pure)
        arrays = {**params, **buffers}
        hidden, name = pure.unsaved, pure.__name__
        paths, parts = grow(self, arrays, pure.parts, hidden=hidden, name=name)
        param_paths, buffer_paths = ({key: paths[key] for key in x} for x in (params, buffers))
        self._original = _Original(pure, function, param_paths, buffer_paths, tuple(parts))
        for part, training in zip(parts, pure.read_modes(), strict=True):
            self._at(part).train(training)
        for key, x in arrays.items():
            owner, leaf = self._owner(paths[key])
            if key in buffers or not mx.issubdtype(x.dtype, mx.inexact):
                freeze_for_good(owner, [leaf])
            elif key in pure.frozen:
                owner.freeze(keys=[leaf], recurse=False)
        self._check_names({*arrays} - {*hidden})

    def _check_names(self, names: set[str]) -> None:
        """Raise unless MLX calls the arrays so; what it passes over would not be trained."""
        differing = names.symmetric_difference(dict(tree_flatten(self.parameters())))
        if differing:
            raise ArgumentError(
                f"{self!r} has an array, {min(differing)!r}, that MLX does not find by this name. "
                "Rename it."
            )

    def __call__(self, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
        """Call the original module, or another method of it, with the arrays of now.

        Args:
            *args: Positional arguments of the module.
            method: The name of the method to call, by default the one it was wrapped with.
            **kwargs: Keyword arguments of the module; `rng` is a key for its random numbers.
        """
        original, modes = self._original, self._modes()
        params, buffers = self._read(original.params), self._read(original.buffers)
        output, new = original.function((modes, method), params, buffers, *args, **kwargs)
        if new:
            self._write(new)
        return output

    def explain(self, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
        """Explain what a call of the module is, without making it: `BridgedFunction.explain`.

        Args:
            *args: As of a call.
            method: As of a call.
            **kwargs: As of a call.
        """
        original = self._original
        function: Any = original.function
        params, buffers = self._read(original.params), self._read(original.buffers)
        return function.explain((self._modes(), method), params, buffers, *args, **kwargs)

    def _write(self, buffers: Mapping[str, mx.array]) -> None:
        """Write new values of buffers; within a derivative, later calls hand gradients to them.

        MLX frees the graph of an array when it is evaluated after the derivative, but not if it
        has values already. So what is written has none: evaluating the parameters frees the graph.
        """
        try:
            evaluate([*buffers.values()])
        except TracerError as error:
            raise TracerError(
                f"{self!r} would write to its buffers, {', '.join(buffers)}, and within mx.vmap "
                "and mx.compile there are no values to write. Call it outside of them, or, if it "
                "writes in training alone, in evaluation: `.eval()`."
            ) from error
        differentiated = transforming()
        for name, value in buffers.items():
            *path, leaf = self._original.buffers[name]
            self._at(path)[leaf] = mx.contiguous(value) if differentiated else value

    def _at(self, path: Iterable[str | int]) -> Any:
        node: Any = self
        try:
            for key in path:
                node = node[key]
        except (KeyError, IndexError, TypeError):
            raise ArgumentError(
                f"{self!r} has no {'.'.join(map(str, path))!r} any more. Change its arrays only, "
                "or wrap the original again after you have changed that."
            ) from None
        return node

    def _owner(self, path: Path) -> tuple[nn.Module, str]:
        """Return the module that holds an array, maybe in lists, and the name that it has there."""
        nodes = [self._at(path[:i]) for i in range(len(path))]
        depth = max(i for i, node in enumerate(nodes) if isinstance(node, nn.Module))
        return nodes[depth], ".".join(map(str, path[depth:]))

    def _read(self, paths: Mapping[str, Path]) -> dict[str, mx.array]:
        return {name: self._at(path) for name, path in paths.items()}

    def _modes(self) -> Modes:
        return tuple([self._at(part).training for part in self._original.parts])

    def __repr__(self) -> str:
        pure = self._original.pure
        return f"{pure.framework}2mlx({pure.__name__})"

    def module_state(self) -> ModuleState:
        """Return what it holds now."""
        original = self._original
        params, buffers = self._read(original.params), self._read(original.buffers)
        return ModuleState(original.pure, self._modes(), params, buffers)
