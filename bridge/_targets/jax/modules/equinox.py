"""Modules of other frameworks as modules of Equinox.

NOTE [buffers in Equinox]
Whether a call changes a buffer depends on its arguments, and is known only when it is traced. But
what a function of Equinox returns should not depend on that. So all buffers are state: a module
that has any takes and returns a state, in training and in inference, as `eqx.nn.BatchNorm` does.

NOTE [frozen parameters in Equinox]
Equinox trains each array of floating-point numbers. A parameter that is not to be trained is no
constant either: it is saved, and too large for one. So its leaf has the same bits as integers,
which nobody differentiates, or decays.
"""

import functools
from collections.abc import Mapping
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp

from bridge._core.errors import ArgumentError
from bridge._core.pure_module import Modes, ModuleState, ModuleView


class Frozen(eqx.Module):
    """A parameter that the original does not train: NOTE [frozen parameters in Equinox]."""

    bits: tuple[Any, ...]  # of the real part, and of the imaginary part if there is one
    dtype: Any = eqx.field(static=True)

    def __init__(self, value: Any) -> None:
        is_complex = jnp.issubdtype(value.dtype, jnp.complexfloating)
        parts = (value.real, value.imag) if is_complex else (value,)
        integers = f"uint{8 * parts[0].dtype.itemsize}"
        self.bits = tuple(jax.lax.bitcast_convert_type(x, jnp.dtype(integers)) for x in parts)
        self.dtype = parts[0].dtype

    @property
    def value(self) -> Any:
        """The parameter itself."""
        parts = [jax.lax.bitcast_convert_type(bits, self.dtype) for bits in self.bits]
        return parts[0] if len(parts) == 1 else jax.lax.complex(*parts)


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


class BridgedModule(Part, eqx.nn.StatefulLayer, ModuleView):
    """A module of another framework, which computes there.

    Parameters are leaves, in groups and under names of the original, those that it does not train
    as `Frozen`; buffers are state: NOTE [buffers in Equinox].
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
        leaves = {name: _freeze(x) if name in pure.frozen else x for name, x in params.items()}
        self.members = _make_members("", leaves, modes, pure.__name__)

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
        self._check_own("state", state, isinstance(state, eqx.nn.State))
        self._check_own("key", key, _is_key(key))
        modes = self._modes()
        buffers = self._held_buffers(state)
        variant, draw_key = (modes, method), functools.partial(self._require, key)
        output, new_buffers = self.program(variant, self._params(), buffers, args, kwargs, draw_key)
        if self.buffers is None or state is None:
            return output
        return output, state.set(self.buffers, {**buffers, **new_buffers}) if any(modes) else state

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
        leaves = {name: _member(self, name) for name in self.param_names}
        return {name: x.value if isinstance(x, Frozen) else x for name, x in leaves.items()}

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


def _is_key(x: Any) -> bool:
    """Return True for a typed key, and for the data of one."""
    dtype = getattr(x, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return True
    return dtype == "uint32" and x.ndim == 1


def _freeze(value: Any) -> Any:
    return Frozen(value) if jnp.issubdtype(value.dtype, jnp.inexact) else value


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
