"""Arguments of a function, as each framework gets them."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls.arguments import parameters
from bridge._core import pytree
from bridge._testing.backend import Backend, backend
from bridge._testing.numpy import arrays


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Arguments as NumPy arrays and other leaves.

    Attributes:
        leaves: All leaves, of which arrays are NumPy's.
        structure: The structure of the arguments, a tuple of trees.
        argnums: Positions of the leaves that derivatives are taken by.
        labels: Names of all leaves, as a reader of code would write them.
        owners: The frameworks of the arrays that were passed; None for other leaves.
    """

    leaves: Sequence[Any]
    structure: Any
    argnums: Sequence[int]
    labels: Sequence[str]
    owners: Sequence[str | None]

    @property
    def primals(self) -> list[Any]:
        """The arrays that derivatives are taken by."""
        return [self.leaves[i] for i in self.argnums]

    @property
    def primal_labels(self) -> list[str]:
        """The names of these."""
        return [self.labels[i] for i in self.argnums]

    def precision_context(self, kit: Backend) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which `kit` has the precision of the primals."""
        is_double = any(x.dtype.name in ("float64", "complex128") for x in self.primals)
        return kit.double_precision() if is_double else contextlib.nullcontext()

    def make_flat(self, fn: Callable[..., Any], kit: Backend) -> Callable[..., Any]:
        """Make a function of the primals alone; `kit` makes arrays of the other leaves."""
        base = [x if owner is None else kit.array(x) for x, owner in self._pairs()]

        def flat(*primals: Any) -> Any:
            own = [kit.own(x) for x in primals]
            leaves = pytree.scatter(own, self.argnums, base)
            return fn(*pytree.unflatten(self.structure, leaves))

        return flat

    def _pairs(self) -> list[tuple[Any, str | None]]:
        constant = [i not in self.argnums for i in range(len(self.leaves))]
        owners = [o if c else None for o, c in zip(self.owners, constant, strict=True)]
        return list(zip(self.leaves, owners, strict=True))


def read(args: Sequence[Any], functions: Sequence[Callable[..., Any]]) -> Arguments:
    """Read arguments, whose names are those of the first function that names its parameters."""
    passed, structure = flatten(tuple(args))
    leaves = [arrays.make(x, None) if arrays.is_scalar(x) else x for x in passed]
    found = [_registry.array_owner(x) for x in leaves]
    owners = [None if owner is None else owner.name for owner in found]
    host = [x if o is None else _on_host(x, o) for x, o in zip(leaves, owners, strict=True)]
    argnums = [i for i, o in enumerate(owners) if o is not None and arrays.is_inexact(host[i])]
    known = [parameters(fn, (), ()) for fn in functions]
    names = next((names for names in known if names.positional_names), known[0])
    labels = [names.argument_name((0, *path)) for path in pytree.paths(structure)]
    return Arguments(host, structure, argnums, [f"argument {x}" for x in labels], owners)


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """Return leaves and structure of a tree of any framework's containers."""
    return pytree.flatten(tree, _registry.pytree_node_functions)


def _on_host(x: Any, owner: str) -> Any:
    kit = backend(owner if owner in _registry.frameworks() else "numpy")
    return kit.numpy(x)
