"""Modules of other frameworks as modules of Equinox.

NOTE [buffers in Equinox]
Whether a call changes a buffer depends on its arguments, and is known only when it is traced. But
what a function of Equinox returns should not depend on that. So all buffers are state: a module
that has any takes and returns a state, in training and in inference, as `eqx.nn.BatchNorm` does.
"""

import functools
from collections.abc import Mapping
from typing import Any, NoReturn

import equinox as eqx

from bridge._core.errors import ArgumentError
from bridge._core.pure_module import Modes, ModuleState


class Group(eqx.Module):
    """Parameters and groups whose names begin alike, which are its attributes and items."""

    members: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        members = vars(self).get("members", {})  # while it is unpickled there are none
        if name not in members:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return members[name]

    def __getitem__(self, name: str | int) -> Any:
        return self.members[str(name)]

    def __iter__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} cannot be iterated over; its items have names")


class Part(Group):
    """A group that has a mode of its own."""

    inference: bool


class BridgedModule(Part, eqx.nn.StatefulLayer):
    """A module of another framework, which computes there.

    Parameters are leaves, in groups and under names of the original; buffers are state:
    NOTE [buffers in Equinox].
    """

    buffers: eqx.nn.StateIndex[dict[str, Any]] | None
    program: Any = eqx.field(static=True)
    param_names: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        program: Any,
        params: Mapping[str, Any],
        buffers: Mapping[str, Any],
    ) -> None:
        self.program, self.param_names = program, (*params,)
        self.buffers = eqx.nn.StateIndex(dict(buffers)) if buffers else None
        pure = program.pure
        modes = dict(zip(pure.parts, pure.read_modes(), strict=True))
        self.inference = not modes[""]
        self.members = _make_members("", params, modes, pure.__name__)

    @property
    def name(self) -> str:
        """The name of the class of the original module."""
        return self.program.pure.__name__

    def is_stateful(self) -> bool:
        """Return True if it has buffers."""
        return self.buffers is not None

    def __call__(
        self,
        *args: Any,
        state: eqx.nn.State | None = None,
        key: Any = None,
        method: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call the original module, or another method of it, with these values.

        Args:
            *args: Positional arguments of the module; behind them a state, if it has buffers.
            state: The state, if it is not the last positional argument.
            key: A key for its random numbers.
            method: The name of the method to call, by default the one it was wrapped with.
            **kwargs: Keyword arguments of the module.

        Returns:
            The output; of a module that has buffers, the output and the new state.
        """
        if args and isinstance(args[-1], eqx.nn.State):
            args, state = args[:-1], args[-1]
        modes = self._modes()
        buffers = self._held_buffers(state)
        variant, draw_key = (modes, method), functools.partial(self._require, key)
        output, new_buffers = self.program(variant, self._params(), buffers, args, kwargs, draw_key)
        if self.buffers is None or state is None:
            return output
        return output, state.set(self.buffers, {**buffers, **new_buffers}) if any(modes) else state

    def _held_buffers(self, state: eqx.nn.State | None) -> Mapping[str, Any]:
        if self.buffers is None:
            if state is not None:
                raise ArgumentError(
                    f"{self.name} has no buffers, so it takes no state and returns none: write "
                    "`output = model(x)`."
                )
            return {}
        if state is None:
            raise ArgumentError(
                f"{self.name} has buffers, which are state: write `model, state = "
                "eqx.nn.make_with_state(net.to_equinox)()`, and `output, state = model(x, state)`."
            )
        return state.get(self.buffers)

    def _require(self, key: Any) -> Any:
        if key is None:
            raise ArgumentError(
                f"{self.name} draws random numbers. Pass `key=jax.random.key(0)`, or call "
                "`eqx.nn.inference_mode(model)`."
            )
        return key

    def _params(self) -> dict[str, Any]:
        return {name: _member(self, name) for name in self.param_names}

    def _modes(self) -> Modes:
        return tuple([not _member(self, part).inference for part in self.program.pure.parts])

    def with_state(self, state: eqx.nn.State) -> "BridgedModule":
        """Return the module with the values of `state` in it, the inverse of `make_with_state`."""
        if self.buffers is None:
            return self
        held = state.get(self.buffers)
        return eqx.tree_at(lambda model: model.buffers.init, self, held)

    def module_state(self) -> ModuleState:
        """Return what it holds now."""
        held = {} if self.buffers is None else self.buffers.init
        if not isinstance(held, dict):
            raise ArgumentError(
                f"the buffers of {self.name} are in the state that `make_with_state` has "
                "returned. Pass `model.with_state(state)`."
            )
        return ModuleState(self.program.pure, self._modes(), self._params(), held)


def _member(module: Group, path: str) -> Any:
    """Return what is in a module under a path of names with dots between them."""
    return functools.reduce(
        lambda group, name: group.members[name], path.split(".") if path else (), module
    )


def _make_members(
    path: str, params: Mapping[str, Any], modes: Mapping[str, bool], module: str
) -> dict[str, Any]:
    """Return the parameters and groups of the group at `path` by name."""
    start = f"{path}." if path else ""
    inner = [name.removeprefix(start) for name in (*modes, *params) if name.startswith(start)]
    members: dict[str, Any] = {}
    for name in dict.fromkeys(rest.partition(".")[0] for rest in inner if rest):
        inner_path = start + name
        nested = _make_members(inner_path, params, modes, module)
        if inner_path not in params:
            inference = not modes.get(inner_path)
            members[name] = Part(nested, inference) if inner_path in modes else Group(nested)
        elif nested or inner_path in modes:
            raise ArgumentError(
                f"{module} has an array and a group of the name {inner_path!r}. Rename one of them."
            )
        else:
            members[name] = params[inner_path]
    return members
