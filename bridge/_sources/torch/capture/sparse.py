"""A check that captured functions use no sparse or nested tensors.

NOTE [sparse tensors]
A graph supports strided tensors only: of others torch silently loses gradients there, or ends the
process. So a function that uses one is not captured, but rerun on each call. The gradients of
embeddings, which torch can return as sparse tensors, are dense instead.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch.upstream.pytrees import pytree

_SPARSE_POSITION: dict[Any, int] = {  # the position of the argument `sparse`
    torch.nn.functional.embedding: 6,
    torch.nn.functional.embedding_bag: 7,
    torch.embedding: 4,
    torch.embedding_bag: 5,
}


class SparseError(RuntimeError):
    """A function used a tensor that is not strided while it was captured.

    It is no TypeError, since Python's operators turn that into one of their own.
    """


class DenseGradients(TorchFunctionMode):
    """Raises where a function uses tensors that are not strided: NOTE [sparse tensors]."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, unless its arguments or results are not strided."""
        kwargs = {**(kwargs or {})}
        self._check(func, sparse=_makes_sparse(func) or _holds_sparse((args, kwargs)))
        result = func(*_with_dense_gradients(func, args, kwargs), **kwargs)
        self._check(func, sparse=_holds_sparse(result))
        return result

    def _check(self, func: Callable[..., Any], *, sparse: bool) -> None:
        if sparse:
            raise SparseError(
                f"it computes with sparse or nested tensors ({func.__name__}), which graphs do "
                "not support."
            )


def _with_dense_gradients(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Sequence[Any]:
    """Return the positional arguments with `sparse=False`; set it in `kwargs` too."""
    for name in ("sparse", "sparse_grad"):
        if kwargs.get(name) is True:
            kwargs[name] = False
    position = _SPARSE_POSITION.get(func)
    if position is None or len(args) <= position:
        return args
    return [*args[:position], False, *args[position + 1 :]]


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
    """Return `x` as a strided tensor."""
    return x if x.layout is torch.strided else x.to_dense()
