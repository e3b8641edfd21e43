"""The arguments of a call as trees, made of flat arrays, and trees like them."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from bridge._core import pytree
from bridge._core.errors import ArgumentError
from bridge._core.import_path import PicklableFunction
from bridge._core.protocols import SEED


class ArgumentTree:
    """The structure of the arguments of one plan.

    Args:
        fn: The user's function.
        structure: The structure of the arguments.
        leaves: The leaves; those at the positions of arrays are no values.
        array_positions: The positions of arrays among the leaves.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        structure: Any,
        leaves: Sequence[Any],
        array_positions: Sequence[int],
    ) -> None:
        self._fn, self._structure, self._leaves = fn, structure, leaves
        self._array_positions = array_positions

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_fn": PicklableFunction(self._fn)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= {**state, "_fn": state["_fn"].fn}

    def unflatten(self, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional and the keyword arguments with these arrays."""
        leaves = pytree.scatter(arrays, self._array_positions, self._leaves)
        return pytree.unflatten(self._structure, leaves)

    def primals(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Return the arguments with these arrays, in the order of parameters, without a key."""
        args, kwargs = self.unflatten(arrays)
        kwargs.pop(SEED, None)
        try:
            bound = inspect.signature(self._fn).bind_partial(*args, **kwargs)
        except (TypeError, ValueError):  # some builtins have no signature
            return (*args, *kwargs.values())
        return (*bound.args, *bound.kwargs.values())

    def match(self, tree: Any, name: str) -> dict[int, Any]:
        """Return the leaves of a tree like the primals, by array; `name` is its name in errors.

        The tree is bare for one argument, and has None where there is no array.
        """
        primals = self.primals([_Array(i) for i in range(len(self._array_positions))])
        trees = (tree,) if len(primals) == 1 else tree
        if not isinstance(trees, (tuple, list)) or len(trees) != len(primals):
            raise ArgumentError(
                f"{name} returned a {type(tree).__name__}, where a tuple of {len(primals)} was "
                "expected, one for each argument."
            )
        matched: dict[int, Any] = {}
        for like, part in zip(primals, trees, strict=True):
            matched.update(_match(part, like, name))
        return matched


class _Array:
    """Stands for an array among the arguments; no dataclass, so that it is a leaf."""

    def __init__(self, position: int) -> None:
        self.position = position


def _match(tree: Any, like: Any, name: str) -> dict[int, Any]:
    if tree is None:
        return {}
    if isinstance(like, _Array):
        return {like.position: tree}
    children = pytree.children(like)
    if children is None:  # an argument that is no array
        return {}
    own = pytree.children(tree)
    if own is None or own.keys() != children.keys():
        raise ArgumentError(
            f"{name} returned a {type(tree).__name__}, where a {type(like).__name__} with "
            f"{[*children]} was expected, like the argument."
        )
    matched: dict[int, Any] = {}
    for key, child in children.items():
        matched.update(_match(own[key], child, name))
    return matched
