"""Modules of Flax nnx as pure functions of their arrays."""

import sys
from typing import Any

from jax.random import fold_in

from bridge._core.call_words import EVALUATION, TRAINING, CallWords
from bridge._core.pure_module import Arrays, Modes, PureModule, Variant, bind_method
from bridge._sources.jax.modules.changes import check_no_changes, find_changes
from bridge._sources.jax.modules.keys import make_key
from bridge._sources.jax.modules.leaves import check_unique, value_or_spec
from bridge._sources.jax.modules.variables import VariableArrays


def is_nnx_module(x: Any) -> bool:
    """Return True for a module of Flax nnx."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(x, nnx.Module)


class NnxModule(PureModule):
    """A module of Flax nnx as a pure function.

    Inexact arrays of `nnx.Param` are parameters. All others are buffers, except for the state of
    random numbers, which follow from the key of a call, and for what was sown. A part has a mode if
    it has an attribute `deterministic`, `use_running_average` or another of these words.
    """

    framework = "jax"

    def __init__(self, module: Any, method: Any) -> None:
        from flax import nnx

        self.__name__, self._method = type(module).__name__, method
        module = _without_intermediates(module)
        self._graphdef = nnx.graphdef(module)
        self._variables = [variable.without_values() for variable in _read_variables(module)]
        check_unique([name for v in self._variables for name in v.arrays], self.__name__)
        modes = {name: _read_mode(part) for name, part in _moded_parts(module).items()}
        whole = modes.get("", any(modes.values()) or not modes)
        self._modes = {"": whole, **modes}
        self.parts = tuple(self._modes)

    def __reduce__(self) -> Any:
        return type(self), (self._build({}), self._method)

    def read_modes(self) -> Modes:
        """Return the modes of the parts; the whole is in training if a part is, or none has one."""
        return tuple(self._modes.values())

    def restore(self, modes: Modes, params: Arrays, buffers: Arrays) -> Any:
        """Make a module with these arrays, in these modes, and with the original random numbers."""
        module = self._build({**params, **buffers})
        self._set_modes(module, modes)
        return module

    def __call__(
        self,
        variant: Variant,
        params: Any,
        buffers: Any,
        /,
        *args: Any,
        rng: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Call the module; return its output and the buffers that it has changed in training."""
        from flax import nnx

        modes, method = variant
        key = make_key(rng)
        module = self._build({**params, **buffers}, key)
        self._set_modes(module, modes)
        keys = {"key": key, "rng": key, "rngs": nnx.Rngs(key)}
        words = CallWords(modes[0], keys, skip_optional=bool(_moded_parts(module)))
        output = words.call(bind_method(module, method or self._method), args, kwargs)
        return output, self._find_changes(module, params, buffers) if any(modes) else {}

    def _build(self, arrays: Arrays, key: Any = None) -> Any:
        """Make the module with these arrays, or without values, its random numbers from a key."""
        from flax import nnx

        pairs = [
            (variable.path, variable.build(arrays, None if key is None else fold_in(key, i)))
            for i, variable in enumerate(self._variables)
        ]
        return nnx.merge(self._graphdef, nnx.from_flat_state(pairs))

    def _set_modes(self, module: Any, modes: Modes) -> None:
        """Set the modes of parts that are in another one, or leave theirs to the caller."""
        parts = _moded_parts(module)
        for (name, before), training in zip(self._modes.items(), modes, strict=True):
            for flag, value in _flags(parts[name]).items() if name in parts else ():
                if value is None or training != before:
                    setattr(parts[name], flag, training if flag in TRAINING else not training)

    def _find_changes(self, module: Any, params: Arrays, buffers: Arrays) -> dict[str, Any]:
        arrays = {
            name: array
            for variable in _read_variables(module)
            for name, array in variable.arrays.items()
        }
        check_no_changes(self.__name__, params, arrays)
        others = {name: array for name, array in arrays.items() if name not in params}
        return find_changes(self.__name__, buffers, others)


def take_nnx_apart(module: Any, method: Any) -> tuple[NnxModule, dict[str, Any], dict[str, Any]]:
    """Return a module as a pure function, its parameters and its buffers."""
    params, buffers = dict[str, Any](), dict[str, Any]()
    for variable in _read_variables(module):
        for name, array in variable.arrays.items():
            (params if variable.is_trained(array) else buffers)[name] = value_or_spec(array)
    return NnxModule(module, method), params, buffers


def _read_variables(module: Any) -> list[VariableArrays]:
    """Return the variables of a module with their values, without what was sown."""
    from flax import nnx

    state = nnx.state(module, nnx.Not(nnx.Intermediate))
    return [VariableArrays(path, x) for path, x in nnx.to_flat_state(state)]


def _without_intermediates(module: Any) -> Any:
    """Return the module, or a copy of it without what was sown."""
    from flax import nnx

    if not nnx.to_flat_state(nnx.state(module, nnx.Intermediate)):
        return module
    copy = nnx.merge(*nnx.split(module))
    nnx.pop(copy, nnx.Intermediate)
    return copy


def _moded_parts(module: Any) -> dict[str, Any]:
    """Return the parts of a module that have modes, by name, outer ones first."""
    from flax import nnx

    parts = [
        (".".join(map(str, path)), node)
        for path, node in sorted(nnx.iter_graph(module), key=lambda pair: len(pair[0]))
        if isinstance(node, nnx.Module) and _flags(node)
    ]
    return dict(parts)


def _flags(part: Any) -> dict[str, bool | None]:
    """Return the attributes by which a part has a mode."""
    values = {name: getattr(part, name, part) for name in (*TRAINING, *EVALUATION)}
    return {name: x for name, x in values.items() if x is None or isinstance(x, bool)}


def _read_mode(part: Any) -> bool:
    """Return True for a part in training, and for one that leaves its mode to the caller."""
    return any(x is None or x == (name in TRAINING) for name, x in _flags(part).items())
