"""The names of a traced function and its arguments in errors of JAX."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax


@jax.tree_util.register_pytree_with_keys_class
class _ArgumentArrays:
    """The arrays in one argument of the user, each with its path there, like `['weights'][0]`."""

    def __init__(self, paths: Sequence[str], arrays: Sequence[Any]) -> None:
        self.paths, self.arrays = tuple(paths), tuple(arrays)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[str, Any]], tuple[str, ...]]:
        return list(zip(self.paths, self.arrays, strict=True)), self.paths

    @classmethod
    def tree_unflatten(cls, paths: tuple[str, ...], arrays: Iterable[Any]) -> "_ArgumentArrays":
        return cls(paths, tuple(arrays))


def _signature(names: Iterable[str]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in names])


def with_argument_names(
    fn: Callable[..., Any], arrays: Sequence[Any], labels: Sequence[str]
) -> tuple[Callable[..., Any], Sequence[Any]]:
    """Return `fn` as a function of the user's arguments, and these arguments.

    JAX takes the names in its errors from the signature of the function and from pytree paths.

    Args:
        fn: The function of flat arrays to be traced; its attribute `written` is the user's.
        arrays: The arrays that it takes.
        labels: Their names, like `argument x['weights'][0] of f`.
    """
    names = array_names(labels)
    positions: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        positions.setdefault(name.partition("[")[0], []).append(i)
    in_order = [i for argnums in positions.values() for i in argnums] == [*range(len(arrays))]
    if not (in_order and all(map(str.isidentifier, positions))):
        return fn, arrays

    def run(*arguments: Any) -> Any:
        return fn(*jax.tree.leaves(arguments))

    user_function = getattr(fn, "written", fn)
    while isinstance(user_function, functools.partial):
        user_function = user_function.func
    run.__name__ = run.__qualname__ = getattr(fn, "__name__", "run")
    # Through `vars`, because type checkers do not know these two attributes of functions.
    vars(run).update(__signature__=_signature(positions), __wrapped__=user_function)
    return run, [
        _ArgumentArrays([names[i][len(name) :] for i in argnums], [arrays[i] for i in argnums])
        for name, argnums in positions.items()
    ]


def array_names(labels: Sequence[str]) -> list[str]:
    """Return the part `x['weights'][0]` of each label `argument x['weights'][0] of f`."""
    return [label[len("argument ") : label.rindex(" of ")] for label in labels]
