"""The base of pure modules of JAX libraries: their arrays with weak types, and a key for calls.

NOTE [weak types]
The dtype of an array that was made of a Python number gives way to that of others: times a
bfloat16 array it is bfloat16, where a float32 array would be float32. Other frameworks have no such
arrays, so the names of these are kept, and they are weakly typed again where the module is called.
"""

import abc
from collections.abc import Collection, Mapping
from typing import Any

from bridge._arrays.jax.upstream.weak_types import is_weakly_typed, weakly_typed
from bridge._core.pure_module import Arrays, PureModule, Variant
from bridge._sources.jax.modules.keys import make_key


class JaxModule(PureModule):
    """A module of a library of JAX as a pure function."""

    framework = "jax"
    _weak_names: Collection[str]

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
        """Call the module; return its output and the buffers that it has changed."""
        params, buffers = self._with_weak_types(params), self._with_weak_types(buffers)
        return self._call(variant, params, buffers, make_key(rng), args, kwargs)

    @abc.abstractmethod
    def _call(
        self, variant: Variant, params: Arrays, buffers: Arrays, key: Any, args: Any, kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Call the module with a typed key."""

    def _with_weak_types(self, arrays: Arrays) -> dict[str, Any]:
        """Return the arrays, those weakly typed that are so in the original: NOTE [weak types]."""
        return {k: weakly_typed(x) if k in self._weak_names else x for k, x in arrays.items()}


def weak_names(arrays: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of the arrays that are weakly typed."""
    return frozenset(name for name, x in arrays.items() if is_weakly_typed(x))
