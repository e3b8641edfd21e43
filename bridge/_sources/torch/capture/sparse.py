"""Sparse and nested tensors in functions that are captured.

NOTE [sparse tensors]
A graph has tensors of one kind, strided ones: of others torch loses gradients there without a word,
or ends the process. So a function that meets one is not captured, and runs anew on each call. The
gradients of the rows of an embedding, which torch can give as sparse tensors, are dense instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_SPARSE_GRADIENTS: dict[Any, int] = {  # the position of `sparse`
    torch.nn.functional.embedding: 6,
    torch.nn.functional.embedding_bag: 7,
    torch.embedding: 4,
    torch.embedding_bag: 5,
}


class SparseError(RuntimeError):
    """A function met a tensor that is not strided while it was captured.

    No TypeError, of which operators of Python would make one of their own.
    """


class DenseGradients(TorchFunctionMode):
    """Raises where a function meets such tensors: NOTE [sparse tensors]."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """`func`, unless its arguments or results are not strided."""
        kwargs = {**(kwargs or {})}
        self._check(func, sparse=_makes_sparse(func) or _holds_sparse((args, kwargs)))
        result = func(*_with_dense_gradients(func, args, kwargs), **kwargs)
        self._check(func, sparse=_holds_sparse(result))
        return result

    def _check(self, func: Callable[..., Any], *, sparse: bool) -> None:
        if sparse:
            raise SparseError(
                f"it computes with sparse or nested tensors ({func.__name__}), which graphs lack."
            )


def _with_dense_gradients(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Sequence[Any]:
    """The arguments by position; those that ask for sparse gradients ask for dense ones."""
    for name in ("sparse", "sparse_grad"):
        if kwargs.get(name) is True:
            kwargs[name] = False
    at = _SPARSE_GRADIENTS.get(func)
    return args if at is None or len(args) <= at else [*args[:at], False, *args[at + 1 :]]


def _makes_sparse(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    if name.startswith(("to_sparse", "to_mkldnn")) or "nested_" in name:
        return True
    return name.startswith("sparse_") and name.endswith("_tensor")


def _holds_sparse(tree: Any) -> bool:
    if isinstance(tree, torch.Tensor):
        return tree.layout is not torch.strided or tree.is_nested
    if isinstance(tree, (tuple, list, dict)):
        return any(map(_holds_sparse, pytree.tree_leaves(tree)))
    return False


def dense_gradient(x: torch.Tensor) -> torch.Tensor:
    """`x`, dense."""
    return x if x.layout is torch.strided else x.to_dense()
