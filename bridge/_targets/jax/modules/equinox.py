"""Modules of other frameworks as modules of Equinox.

NOTE [buffers in Equinox]
Whether a call changes a buffer depends on its arguments, and is known only when it is traced. But
what a function of Equinox returns should not depend on that. So which buffers are state is decided
when a module is made: the running statistics of normalizations, and those that its user names. A
module that has any takes and returns a state, in training and in inference, as `eqx.nn.BatchNorm`
does. All other buffers, such as positions and masks, are constants: a call that changes one raises.
"""

import functools
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from bridge._core.errors import ArgumentError
from bridge._core.pure_module import Modes, ModuleState, ModuleView, PureModule
from bridge._targets.jax.modules.equinox_groups import (
    Frozen,
    Members,
    freeze,
    make_members,
    member,
)


class BridgedModule(Members, eqx.nn.StatefulLayer, ModuleView):
    """A module of another framework, which computes there.

    Parameters and constants are leaves, in groups and under names of the original, those that it
    does not train as `Frozen`; buffers that change are state: NOTE [buffers in Equinox].
    """

    members: dict[str, Any]
    inference: bool
    buffers: eqx.nn.StateIndex[dict[str, Any]] | None
    program: Any = eqx.field(static=True)
    param_names: tuple[str, ...] = eqx.field(static=True)
    constant_names: tuple[str, ...] = eqx.field(static=True)
    changing: frozenset[str] | None = eqx.field(static=True)  # buffers that its user has named

    def __init__(
        self,
        program: Any,
        params: Mapping[str, Any],
        buffers: Mapping[str, Any],
        *,
        changing: Collection[str] | None = None,
    ) -> None:
        self.program, pure = program, program.pure
        self.changing = None if changing is None else frozenset(changing)
        state_names = _state_names(pure, buffers, changing)
        state = {name: x for name, x in buffers.items() if name in state_names}
        constants = {name: x for name, x in buffers.items() if name not in state}
        self.buffers = eqx.nn.StateIndex(state) if state else None
        self.param_names, self.constant_names = (*params,), (*constants,)
        modes = dict(zip(pure.parts, pure.read_modes(), strict=True))
        self.inference = not modes[""]
        frozen = {*pure.frozen, *constants}
        leaves = {**params, **constants}
        leaves = {name: freeze(x) if name in frozen else x for name, x in leaves.items()}
        self.members = make_members("", leaves, modes, pure.__name__)

    @property
    def name(self) -> str:
        """The name of the class of the original module."""
        return self.program.pure.__name__

    def is_stateful(self) -> bool:
        """Return True if it has buffers that change."""
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
            *args: Positional arguments of the module; behind them a state, if buffers change.
            state: The state, if it is not the last positional argument.
            key: A key for its random numbers.
            method: The name of the method to call, by default the one it was wrapped with.
            **kwargs: Keyword arguments of the module.

        Returns:
            The output; of a module that has buffers that change, the output and the new state.
        """
        if args and isinstance(args[-1], eqx.nn.State):
            args, state = args[:-1], args[-1]
        self._check_own("state", state, isinstance(state, eqx.nn.State))
        self._check_own("key", key, _is_key(key))
        modes = self._modes()
        held = self._held_buffers(state)
        kept = self._kept_buffers(modes)
        params = self._arrays(self.param_names + self.constant_names)
        params |= {name: held[name] for name in kept}
        buffers = {name: x for name, x in held.items() if name not in kept}
        variant, draw_key = (modes, method), functools.partial(self._require, key)
        output, new_buffers = self.program(variant, params, buffers, args, kwargs, draw_key)
        if self.buffers is None or state is None:
            return output
        return output, state.set(self.buffers, {**held, **new_buffers}) if new_buffers else state

    def _kept_buffers(self, modes: Modes) -> set[str]:
        """Return the statistics of parts in evaluation, which change none."""
        if self.changing is not None or not self.program.pure.statistics:
            return set()
        training = dict(zip(self.program.pure.parts, modes, strict=True))
        statistics = self.program.pure.statistics
        return {name for name, part in statistics.items() if not training[part]}

    def _check_own(self, name: str, value: Any, is_own: bool) -> None:  # noqa: FBT001, one of two
        """Raise for a keyword argument that is meant for the original."""
        if value is not None and not is_own:
            raise ArgumentError(
                f"{name}= of {self.name} is of the class {type(value).__name__}, and no {name} as "
                f"Equinox has it. An argument `{name}` of {self.name} itself is passed by position."
            )

    def _held_buffers(self, state: eqx.nn.State | None) -> Mapping[str, Any]:
        if self.buffers is None:
            if state is not None:
                raise ArgumentError(
                    f"{self.name} has no buffers that change, so it takes no state and returns "
                    "none: write `output = model(x)`."
                )
            return {}
        if state is None:
            raise ArgumentError(
                f"{self.name} has buffers that change, which are state: write `model, state = "
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

    def _arrays(self, names: Iterable[str]) -> dict[str, Any]:
        leaves = {name: member(self, name) for name in names}
        return {name: x.value if isinstance(x, Frozen) else x for name, x in leaves.items()}

    def _modes(self) -> Modes:
        return tuple([not member(self, part).inference for part in self.program.pure.parts])

    def with_state(self, state: eqx.nn.State) -> "BridgedModule":
        """Return the module with the values of `state` in it, the inverse of `make_with_state`."""
        if self.buffers is None:
            return self
        held = state.get(self.buffers)
        return eqx.tree_at(lambda model: model.buffers.init, self, held)

    def module_state(self) -> ModuleState:
        """Return what it holds now."""
        held = {} if self.buffers is None else self.buffers.init
        if not isinstance(held, Mapping):
            raise ArgumentError(
                f"the buffers of {self.name} are in the state that `make_with_state` has "
                "returned. Pass `model.with_state(state)`."
            )
        params, constants = map(self._arrays, (self.param_names, self.constant_names))
        return ModuleState(self.program.pure, self._modes(), params, {**constants, **held})


def _is_key(x: Any) -> bool:
    """Return True for a typed key, and for the data of one."""
    dtype = getattr(x, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return True
    return dtype == "uint32" and x.ndim == 1


def _state_names(
    pure: PureModule, buffers: Mapping[str, Any], changing: Collection[str] | None
) -> Collection[str]:
    """Return the names of the buffers that are state; raise if some of `changing` are none."""
    if changing is None:
        return buffers if pure.statistics is None else pure.statistics
    if pure.statistics is None:
        raise ArgumentError(
            f"changing={changing!r}, but {pure.__name__} is a function, which returns all its "
            "buffers. Leave the option out, or store what does not change among the params, and "
            "pass it through `jax.lax.stop_gradient`."
        )
    unknown = [name for name in changing if name not in buffers]
    if unknown:
        raise ArgumentError(
            f"changing={changing!r}, but {pure.__name__} has no buffer {unknown[0]!r}. It has "
            f"{[*buffers]}."
        )
    return changing
