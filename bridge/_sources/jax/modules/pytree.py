"""Callable pytrees, such as modules of Equinox, as pure functions of their arrays."""

from typing import Any

import jax

from bridge._core.call_words import WORDS, CallWords
from bridge._core.pure_module import (
    Arrays,
    Modes,
    Variant,
    bind_method,
    module_signature,
)
from bridge._sources.jax.modules.jax_module import JaxModule, weak_names
from bridge._sources.jax.modules.leaves import (
    check_no_keys,
    check_unique,
    dotted_name,
    is_array,
    is_inexact,
    value_or_spec,
    without_values,
)
from bridge._sources.jax.modules.pytree_modes import changed_leaves, find_flags, read_modes


class PytreeModule(JaxModule):
    """A callable pytree as a pure function.

    Floating-point and complex leaves are parameters, other arrays are buffers. A part has a mode if
    it has an attribute `inference` or another of these words that is True or False.
    """

    def __init__(self, module: Any, method: Any) -> None:
        pairs, self._structure = jax.tree_util.tree_flatten_with_path(module)
        names = [dotted_name(path) for path, _ in pairs]
        self._leaves = [without_values(leaf) for _, leaf in pairs]
        self._array_names = {i: names[i] for i, (_, x) in enumerate(pairs) if is_array(x)}
        self._weak_names = weak_names({n: self._leaves[i] for i, n in self._array_names.items()})
        self._flags = find_flags(module)
        self._modes = read_modes(self._flags)
        self.parts = tuple(self._modes)
        self._method = method
        self.__signature__ = module_signature(module, method)
        self.__name__ = type(module).__name__
        check_unique([*self._array_names.values()], self.__name__)

    def __reduce__(self) -> Any:
        module = jax.tree_util.tree_unflatten(self._structure, self._leaves)
        return type(self), (module, self._method)

    def read_modes(self) -> Modes:
        """Return the modes of the parts; the whole is in training if a part is, or none has one."""
        return tuple(self._modes.values())

    def restore(self, modes: Modes, params: Arrays, buffers: Arrays) -> Any:
        """Make a module with these arrays, in these modes."""
        leaves, arrays = list(self._leaves), self._with_weak_types({**params, **buffers})
        for i, flag in changed_leaves(self.__name__, self._flags, self._modes, modes).items():
            leaves[i] = flag
        for i, name in self._array_names.items():
            leaves[i] = arrays[name]
        return jax.tree_util.tree_unflatten(self._structure, leaves)

    def _call(
        self, variant: Variant, params: Arrays, buffers: Arrays, key: Any, args: Any, kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Call the module; its buffers do not change."""
        modes, method = variant
        module = self.restore(modes, params, buffers)
        fn = bind_method(module, method or self._method)
        words = CallWords(modes[0], {"key": key, "rng": key}, WORDS if self._flags else ())
        return words.call(fn, args, kwargs), {}


def take_pytree_apart(
    module: Any, method: Any
) -> tuple[PytreeModule, dict[str, Any], dict[str, Any]]:
    """Return a callable pytree as a pure function, its parameters and its buffers."""
    params, buffers = dict[str, Any](), dict[str, Any]()
    for path, leaf in jax.tree_util.tree_flatten_with_path(module)[0]:
        if is_array(leaf):
            arrays = params if is_inexact(leaf) else buffers
            arrays[dotted_name(path)] = value_or_spec(leaf)
    check_no_keys(type(module).__name__, {**params, **buffers})
    return PytreeModule(module, method), params, buffers
