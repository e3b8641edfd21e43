"""Modules of other frameworks as modules of Flax NNX."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
from flax import nnx

from bridge._core.errors import ArgumentError
from bridge._core.pure_module import Modes, ModuleState, ModuleView


class Buffer(nnx.Variable[Any]):
    """An array of a module that is not trained, such as a running statistic."""


class Group(nnx.Module):
    """A part of a module, or parameters and buffers whose names begin alike.

    A part that has a mode of its own has the flags of NNX, `deterministic` and
    `use_running_average`, both, since which of them it follows is not known.
    """

    def __getitem__(self, name: str | int) -> Any:
        return getattr(self, _free_name(str(name)))

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be iterated over; its items have names")

    def set_view(
        self, *, deterministic: bool | None = None, use_running_average: bool | None = None
    ) -> None:
        """Set the flags that are not None, for `nnx.view`."""
        flags = {"deterministic": deterministic, "use_running_average": use_running_average}
        for name, value in flags.items():
            if value is not None and hasattr(self, name):
                setattr(self, name, value)


class BridgedModule(Group, ModuleView):
    """A module of another framework, which computes there.

    Parameters that are trained are of `nnx.Param`, all other arrays of `Buffer`; groups and names
    are those of the original. Random numbers follow from its stream, `rngs`. New
    values of buffers that a call changes are written into them.
    """

    def __init__(
        self,
        program: Any,
        params: Mapping[str, Any],
        buffers: Mapping[str, Any],
        *,
        rngs: Any = None,
    ) -> None:
        self._program, pure = program, program.pure
        self._param_names, self._buffer_names = (*params,), (*buffers,)
        self.rngs = nnx.data(None if rngs is None else _stream(rngs, pure.__name__).fork())
        for part, training in zip(pure.parts, pure.read_modes(), strict=True):
            group = self._group(part.split(".") if part else (), make=True)
            group.deterministic = group.use_running_average = not training
        for name, value in {**params, **buffers}.items():
            self._register(name, value, trained=name in params and name not in pure.frozen)

    @property
    def _name(self) -> str:
        return self._program.pure.__name__

    def _register(self, name: str, value: Any, *, trained: bool) -> None:
        *groups, leaf = name.split(".")
        owner, leaf = self._group(groups, make=True), _free_name(leaf)
        if hasattr(owner, leaf):
            raise ArgumentError(
                f"{self._name} has two arrays or groups that Flax would call {name!r}. "
                "Rename one of them."
            )
        trained = trained and jnp.issubdtype(value.dtype, jnp.inexact)
        setattr(owner, leaf, nnx.Param(value) if trained else Buffer(value))

    def _group(self, names: Sequence[str], *, make: bool = False) -> Any:
        owner: Any = self
        for name in map(_free_name, names):
            if make and not isinstance(getattr(owner, name, None), Group):
                setattr(owner, name, Group())
            owner = getattr(owner, name)
        return owner

    def _variables(self, names: Sequence[str]) -> dict[str, Any]:
        """Return variables by their original names."""
        paths = {name: name.rpartition(".") for name in names}
        owners = {path: self._group(path.split(".") if path else ()) for path, *_ in paths.values()}
        return {
            name: getattr(owners[path], _free_name(leaf)) for name, (path, _, leaf) in paths.items()
        }

    def _modes(self) -> Modes:
        return tuple([self._mode(part) for part in self._program.pure.parts])

    def _mode(self, part: str) -> bool:
        group = self._group(part.split(".") if part else ())
        if group.deterministic != group.use_running_average:
            where = f"part {part!r} of {self._name}" if part else self._name
            raise ArgumentError(
                f"{where} has deterministic={group.deterministic} and "
                f"use_running_average={group.use_running_average}, but it has one mode. Set both, "
                "by `.train()`, `.eval()`, or `.set_attributes(deterministic=..., "
                "use_running_average=...)`."
            )
        return not group.deterministic

    def __call__(
        self, *args: Any, method: str | None = None, rngs: Any = None, **kwargs: Any
    ) -> Any:
        """Call the original module, or another method of it, with the values of now.

        Args:
            *args: Positional arguments of the module.
            method: The name of the method to call, by default the one it was wrapped with.
            rngs: Streams for its random numbers in this call, or a key.
            **kwargs: Keyword arguments of the module.
        """
        buffers = self._variables(self._buffer_names)
        output, new_buffers = self._program(
            (self._modes(), method),
            _values(self._variables(self._param_names)),
            _values(buffers),
            args,
            kwargs,
            functools.partial(self._draw_key, rngs),
        )
        for name, value in new_buffers.items():
            buffers[name].set_value(value)
        return output

    def _draw_key(self, rngs: Any) -> jax.Array:
        rngs = self.rngs if rngs is None else rngs
        if rngs is None:
            raise ArgumentError(
                f"{self._name} draws random numbers, and has no streams for them. Make it "
                "by `.to_nnx(rngs=nnx.Rngs(0))`, or pass `rngs=` to the call."
            )
        return rngs if isinstance(rngs, jax.Array) else _stream(rngs, self._name)()

    def module_state(self) -> ModuleState:
        """Return what it holds now."""
        arrays = (
            _values(self._variables(names)) for names in (self._param_names, self._buffer_names)
        )
        return ModuleState(self._program.pure, self._modes(), *arrays)


def _values(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {name: variable.get_value() for name, variable in variables.items()}


def _stream(rngs: Any, name: str) -> Any:
    """Return the stream `dropout` of some streams, or else their default."""
    if isinstance(rngs, nnx.RngStream):
        return rngs
    if not isinstance(rngs, nnx.Rngs):
        raise ArgumentError(
            f"rngs= of {name} is of the class {type(rngs).__name__}. Pass nnx.Rngs(0)."
        )
    if "dropout" not in rngs and "default" not in rngs:
        raise ArgumentError(
            f"rngs= of {name} has the streams {[*rngs]}, but neither `dropout` nor a default "
            "one. Pass nnx.Rngs(0), or nnx.Rngs(dropout=0)."
        )
    return rngs["dropout"]


@functools.cache
def _free_name(name: str) -> str:
    """Return the name of an attribute; one that `BridgedModule` has itself gets `_` behind it."""
    is_used = hasattr(BridgedModule, name) or name in _OWN_ATTRIBUTES
    return f"{name}_" if is_used else name


_OWN_ATTRIBUTES = {
    *("deterministic", "use_running_average", "rngs"),
    *("_program", "_param_names", "_buffer_names"),
    *vars(nnx.Module()),
}
