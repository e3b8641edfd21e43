"""Modules of Flax nnx as pure functions of their arrays."""

import functools
import sys
from collections.abc import Callable, Collection
from typing import Any

import jax
from jax.random import fold_in

from bridge._core.call_words import WORDS, CallWords
from bridge._core.errors import ArgumentError
from bridge._core.pure_module import (
    Arrays,
    Modes,
    Variant,
    bind_method,
    module_signature,
)
from bridge._sources.jax.modules.changes import (
    changed_buffers,
    check_no_additions,
    check_no_attribute_changes,
    check_no_param_changes,
)
from bridge._sources.jax.modules.forwarding import forwarded_inputs
from bridge._sources.jax.modules.jax_module import JaxModule, weak_names
from bridge._sources.jax.modules.leaves import check_no_keys, check_unique, value_or_spec
from bridge._sources.jax.modules.nnx_modes import has_modes, read_modes, set_modes
from bridge._sources.jax.modules.variables import VariableArrays

_LAZY = "Call the module with an example before it is wrapped, or make all arrays where it is made."


def is_nnx_module(x: Any) -> bool:
    """Return True for a module of Flax nnx."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(x, nnx.Module)


class NnxModule(JaxModule):
    """A module of Flax nnx as a pure function.

    Inexact arrays of `nnx.Param` are parameters. All others are buffers, except for the state of
    random numbers, which follow from the key of a call, and for what was sown.
    """

    def __init__(self, module: Any, method: Any) -> None:
        from flax import nnx

        self.__name__, self._method = type(module).__name__, method
        self.__signature__ = module_signature(module, method)
        module, self._intermediates = _without_intermediates(module)
        self._graphdef = nnx.graphdef(module)
        self._variables = [variable.without_values() for variable in _read_variables(module)]
        check_unique([name for v in self._variables for name in v.arrays], self.__name__)
        self._weak_names = weak_names({k: x for v in self._variables for k, x in v.arrays.items()})
        self._modes = read_modes(module)
        self.parts = tuple(self._modes)

    def __reduce__(self) -> Any:
        state = {"_intermediates": self._intermediates}
        return type(self), (self._build({}), self._method), state

    def read_modes(self) -> Modes:
        """Return the modes of the parts; the whole is in training if a part is, or none has one."""
        return tuple(self._modes.values())

    def restore(self, modes: Modes, params: Arrays, buffers: Arrays) -> Any:
        """Make a module with these arrays, in these modes, and with the original random numbers."""
        module = self._build(self._with_weak_types({**params, **buffers}))
        set_modes(module, self._modes, modes)
        return module

    def _call(
        self, variant: Variant, params: Arrays, buffers: Arrays, key: Any, args: Any, kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Call the module; return its output and the buffers that it has changed."""
        arrays = {**params, **buffers}
        call = functools.partial(self._run, variant, key, args, kwargs)
        output, after = call(arrays)
        check_no_additions(self.__name__, arrays, after, _LAZY)
        new_buffers = {name: array for name, array in after.items() if name not in params}
        if any(after.get(name) is not x for name, x in params.items()):  # by `nnx.jit`, say
            changed = {*self._find_changes(call, arrays, after, arrays)}
            check_no_param_changes(self.__name__, [name for name in params if name in changed])
            new_buffers |= {name: x for name, x in buffers.items() if name not in changed}
        return output, changed_buffers(self.__name__, buffers, new_buffers)

    def _run(
        self, variant: Variant, key: Any, args: Any, kwargs: Any, arrays: Arrays
    ) -> tuple[Any, dict[str, Any]]:
        """Call the module; return its output and its arrays after the call."""
        from flax import nnx

        modes, method = variant
        module = self._build(arrays, key)
        set_modes(module, self._modes, modes)
        keys = {"key": key, "rng": key, "rngs": nnx.Rngs(key)}
        words = CallWords(modes[0], keys, WORDS if has_modes(module) else ())
        attributes = _read_attributes(module)
        try:
            output = words.call(bind_method(module, method or self._method), args, kwargs)
        except AttributeError as error:
            if isinstance(error.obj, nnx.Module) and error.name in self._intermediates:
                raise self._intermediate_error(error.name) from error
            raise
        check_no_attribute_changes(self.__name__, attributes, _read_attributes(module))
        return output, {n: x for v in _read_variables(module) for n, x in v.arrays.items()}

    def _intermediate_error(self, name: str) -> ArgumentError:
        return ArgumentError(
            f"{self.__name__} reads its {name!r} in a call, an nnx.Intermediate, and these are "
            "left out, since they hold what calls have sown. Make it a variable of another kind, "
            f"such as `self.{name} = nnx.Cache(...)`."
        )

    def _build(self, arrays: Arrays, key: Any = None) -> Any:
        """Make the module with these arrays, or without values, its random numbers from a key."""
        from flax import nnx

        pairs = [
            (variable.path, variable.build(arrays, None if key is None else fold_in(key, i)))
            for i, variable in enumerate(self._variables)
        ]
        return nnx.merge(self._graphdef, nnx.from_flat_state(pairs))

    def _find_changes(
        self, call: Callable[[Arrays], Any], before: Arrays, after: Arrays, names: Collection[str]
    ) -> list[str]:
        """Return which of these arrays a call has changed."""
        replaced = [name for name in names if name in after and after[name] is not before[name]]
        if not replaced:
            return []
        # Transformations of Flax, such as `nnx.jit`, replace all variables that they are passed.
        jaxpr = jax.make_jaxpr(lambda arrays: [call(arrays)[1][n] for n in replaced])(before)
        positions = forwarded_inputs(jaxpr.jaxpr)
        order = sorted(before)
        return [n for n, i in zip(replaced, positions, strict=True) if i is None or order[i] != n]


def take_nnx_apart(module: Any, method: Any) -> tuple[NnxModule, dict[str, Any], dict[str, Any]]:
    """Return a module as a pure function, its parameters and its buffers."""
    params, buffers = dict[str, Any](), dict[str, Any]()
    for variable in _read_variables(module):
        for name, array in variable.arrays.items():
            (params if variable.is_trained(array) else buffers)[name] = value_or_spec(array)
    check_no_keys(type(module).__name__, {**params, **buffers})
    return NnxModule(module, method), params, buffers


def _read_attributes(module: Any) -> dict[str, Any]:
    """Return the numbers, strings and flags that the modules in a module hold, by name."""
    from flax import nnx

    return {
        ".".join(map(str, (*path, name))): value
        for path, part in nnx.iter_graph(module)
        if isinstance(part, nnx.Module)
        for name, value in vars(part).items()
        if value is None or isinstance(value, (bool, int, float, complex, str))
    }


def _read_variables(module: Any) -> list[VariableArrays]:
    """Return the variables of a module with their values, without what was sown."""
    from flax import nnx

    pairs = nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.Intermediate)))
    for path, variable in pairs:
        if getattr(variable, "ref", False) or getattr(variable, "hijax", False):
            raise ArgumentError(
                f"the variable {'.'.join(map(str, path))!r} of {type(module).__name__} is a "
                "reference, whose changes cannot be followed. Make it with ref=False, hijax=False."
            )
    return [VariableArrays(path, x) for path, x in pairs]


def _without_intermediates(module: Any) -> tuple[Any, frozenset[str]]:
    """Return the module, or a copy of it without what was sown, and the attributes left out."""
    from flax import nnx

    pairs = nnx.to_flat_state(nnx.state(module, nnx.Intermediate))
    if not pairs:
        return module, frozenset()
    copy = nnx.merge(*nnx.split(module))
    nnx.pop(copy, nnx.Intermediate)
    return copy, frozenset(str(path[-1]) for path, _ in pairs)
