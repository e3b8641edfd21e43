"""MLX in tests."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import mlx.core as mx

from bridge import _registry
from bridge._core import pytree
from bridge._core.errors import NoRuleError
from bridge._sources.mlx.nodes import separate_nodes
from bridge._testing.backend import Backend

_ALIASES = {"bool": "bool_"}
_LACKS = ("ot implemented", "not yet implemented", "during function transformations")


class MlxBackend(Backend):
    """MLX by its own transformations, with trees where they take lists."""

    name: ClassVar[str] = "mlx"

    @property
    def xp(self) -> Any:
        """`mlx.core` with the names of the standard, as far as it has such functions."""
        return _NAMESPACE

    def grad(self, fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
        """Return the function that computes the gradient of `fn`, whose result is one number."""
        return mx.grad(fn, argnums=argnums)

    def vjp(self, fn: Callable[..., Any], primals: Sequence[Any], cotangents: Any) -> Any:
        """Return the gradients of `fn` at `primals` for cotangents like its result."""
        leaves, structure = _flatten(tuple(primals))
        flat = _Flat(fn, structure)
        gradients = mx.vjp(flat, leaves, _flatten(cotangents)[0])[1]
        return pytree.unflatten(structure, gradients)

    def jvp(self, fn: Callable[..., Any], primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
        """Return the tangent of the result of `fn` at `primals`, for tangents like these."""
        leaves, structure = _flatten(tuple(primals))
        flat = _Flat(fn, structure)
        found = mx.jvp(flat, leaves, _flatten(tuple(tangents))[0])[1]
        return pytree.unflatten(flat.result, found)

    def vmap(self, fn: Callable[..., Any], in_axes: Any = 0) -> Callable[..., Any]:
        """Return `fn` for a batch of examples."""
        return mx.vmap(fn, in_axes=in_axes)

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return `fn`, compiled by MLX."""
        return mx.compile(fn)

    def double_precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which MLX computes on the CPU, where it has float64."""
        return mx.stream(mx.cpu)

    def most_accurate(self) -> str:
        """Return float32: functions of float64 are those of float32, mlx#3047."""
        return "float32"

    def is_lack(self, error: Exception) -> bool:
        """Return True if `error` says that there is no such derivative, or no batches."""
        says_so = type(error) in (ValueError, RuntimeError) and any(
            text in str(error) for text in _LACKS
        )
        return says_so or isinstance(error, NoRuleError)


class _Flat:
    """A function of trees as one of lists, whose result's structure is known after a call."""

    def __init__(self, fn: Callable[..., Any], structure: Any) -> None:
        self._fn = fn
        self._structure = structure
        self.result: Any = None

    def __call__(self, *leaves: mx.array) -> list[mx.array]:
        outputs, self.result = _flatten(self._fn(*pytree.unflatten(self._structure, leaves)))
        return separate_nodes(outputs)


class _Namespace:
    """`mlx.core` with names of the array API standard that it spells otherwise."""

    def __getattr__(self, name: str) -> Any:
        return getattr(mx, _ALIASES.get(name, name))

    def __dir__(self) -> list[str]:
        return sorted({*dir(mx), *_ALIASES})


def _flatten(tree: Any) -> tuple[list[Any], Any]:
    return pytree.flatten(tree, _registry.pytree_node_functions)


_NAMESPACE = _Namespace()
BACKEND = MlxBackend
