"""Trees rebuilt around arrays of another framework, which not every container can hold.

NOTE [containers with code of their own]
A class that is registered as a pytree, or a named tuple with a constructor, is rebuilt by its own
code. Made for the arrays of one framework, that fails on others, or converts them back, whose
gradient would be lost. Others store what they are given, as containers of Python and dataclasses.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls.wrong_framework import USER_ERRORS, held_arrays_advice
from bridge._core import pytree
from bridge._core.errors import ArgumentError

_ERRORS = (*USER_ERRORS, KeyError, AssertionError)


class Rebuilder:
    """Rebuilds a tree around arrays: NOTE [containers with code of their own].

    Args:
        structure: The structure of the tree.
        framework: The framework of the arrays that it gets.
        make_error: Makes the error for the class of a container, its path and the reason.
    """

    def __init__(
        self,
        structure: Any,
        framework: str,
        make_error: Callable[[type, Sequence[Any], str], ArgumentError],
    ) -> None:
        self._structure, self._framework, self._make_error = structure, framework, make_error
        self._checked = False

    def __call__(self, arrays: Sequence[Any]) -> Any:
        """Return the tree; raise for a container that cannot hold these arrays."""
        if self._checked:  # and yet other arrays may fail, as the checks below then tell
            with contextlib.suppress(*_ERRORS):
                return self._structure.unflatten(arrays)
        tree, reason = self._attempt(self._structure, arrays)
        if reason is not None:
            kind, path, reason = self._locate(self._structure, arrays, (), reason)
            raise self._make_error(kind, path, reason)
        self._checked = True
        return tree

    def _attempt(self, structure: Any, arrays: Sequence[Any]) -> tuple[Any, str | None]:
        """Return the tree, and why it does not hold the arrays, if it does not."""
        try:
            tree = structure.unflatten(arrays)
            held, leaves = (
                pytree.flatten(x, _registry.pytree_node_functions)[0] for x in (tree, list(arrays))
            )
        except _ERRORS as error:
            return None, f"{type(error).__name__}: {error}"
        if len(held) != len(leaves):
            return tree, f"it has {len(held)} of {len(leaves)} arrays"
        same = {id(x) for x in leaves}
        owners = [_registry.array_owner(x) for x in held if id(x) not in same]
        foreign = next((x.name for x in owners if x and x.name != self._framework), None)
        return tree, foreign and f"it makes arrays of {foreign} of them"

    def _locate(
        self, structure: Any, arrays: Sequence[Any], path: tuple[Any, ...], reason: str
    ) -> tuple[type, tuple[Any, ...], str]:
        """Return class and path of the innermost container that fails, and the reason."""
        start = 0
        for entry, child in zip(structure.entries(), structure.children(), strict=True):
            part = arrays[start : start + child.num_leaves]
            start += child.num_leaves
            inner = self._attempt(child, part)[1] if child.type else None
            if inner is not None:
                return self._locate(child, part, (*path, entry), inner)
        return structure.type, path, reason


def rebuilder(
    structure: Any,
    framework: str,
    make_error: Callable[[type, Sequence[Any], str], ArgumentError],
) -> Callable[[Sequence[Any]], Any]:
    """Return what rebuilds a tree of this structure, without checks where none is needed."""
    if any(map(pytree.has_code_of_its_own, pytree.node_types(structure))):
        return Rebuilder(structure, framework, make_error)
    return pytree.unflattener(structure)


def results_rebuilder(structure: Any, framework: str, name: str) -> Callable[[Sequence[Any]], Any]:
    """Return what rebuilds the results of the function `name` for its caller."""
    return rebuilder(structure, framework, functools.partial(_result_error, framework, name))


def _result_error(
    framework: str, name: str, kind: type, path: Sequence[Any], reason: str
) -> ArgumentError:
    return ArgumentError(
        f"{pytree.format_path(['result', *path])} of {name} is a {kind.__name__}, which cannot be "
        f"rebuilt around arrays of {framework} ({reason}). {held_arrays_advice(kind)}"
    )
