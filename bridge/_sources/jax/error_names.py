"""What errors of JAX call a traced function and its arguments."""

import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax


@jax.tree_util.register_pytree_with_keys_class
class _Parts:
    """The arrays in one argument of the user's, each with the way to it, as `['weights'][0]`."""

    def __init__(self, ways: Sequence[str], arrays: Sequence[Any]) -> None:
        self.ways, self.arrays = tuple(ways), tuple(arrays)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[str, Any]], tuple[str, ...]]:
        return list(zip(self.ways, self.arrays, strict=True)), self.ways

    @classmethod
    def tree_unflatten(cls, ways: tuple[str, ...], arrays: Iterable[Any]) -> "_Parts":
        return cls(ways, tuple(arrays))


def _signature(names: Iterable[str]) -> inspect.Signature:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature([inspect.Parameter(name, kind) for name in names])


def with_argument_names(
    fn: Callable[..., Any], arrays: Sequence[Any], labels: Sequence[str]
) -> tuple[Callable[..., Any], Sequence[Any]]:
    """`fn` of flat arrays as a function of the arguments of the user's, and these arguments.

    Args:
        fn: What is traced; `written` is the user's function in it.
        arrays: What it takes.
        labels: What these are called, as `argument x['weights'][0] of f`.
    """
    ways = [label[len("argument ") : label.rindex(" of ")] for label in labels]
    parts: dict[str, list[int]] = {}
    for i, way in enumerate(ways):
        parts.setdefault(way.partition("[")[0], []).append(i)
    in_order = [i for at in parts.values() for i in at] == [*range(len(arrays))]
    if not (in_order and all(map(str.isidentifier, parts))):
        return fn, arrays

    def run(*arguments: Any) -> Any:
        return fn(*jax.tree.leaves(arguments))

    written = getattr(fn, "written", fn)
    while isinstance(written, functools.partial):
        written = written.func
    run.__name__ = run.__qualname__ = getattr(fn, "__name__", "run")
    # Functions take any attribute, and types do not know these two.
    vars(run).update(__signature__=_signature(parts), __wrapped__=written)
    return run, [
        _Parts([ways[i][len(name) :] for i in at], [arrays[i] for i in at])
        for name, at in parts.items()
    ]
