"""Modes that observe the tensors that operators take and return."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch.overrides import TorchFunctionMode

from bridge._arrays.torch.upstream.graphs import schema_of
from bridge._arrays.torch.upstream.modes import TorchDispatchMode
from bridge._arrays.torch.upstream.pytrees import pytree
from bridge._arrays.torch.upstream.tensors import is_real
from bridge._core.errors import NoValuesError


class ChangeError(RuntimeError):
    """A function tried to change a captured tensor in place, and was stopped.

    It is no TypeError, since torch's `+=` turns that into `x = x + y`.
    """


class MutationGuard(TorchDispatchMode):
    """Raises where a function changes a tensor that it closes over.

    Attributes:
        refused: The first of these tensors, even if the function has caught the error.
    """

    refused: torch.Tensor | None = None

    def refuse_mutation(self, x: torch.Tensor) -> NoReturn:
        """Raise, since `x` is about to be changed, and remember it."""
        self.refused = x if self.refused is None else self.refused
        raise ChangeError

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, unless it changes a captured tensor."""
        kwargs = kwargs or {}
        if schema_of(func).is_mutable or _writes_silently(func):
            for x, written in _operands(func, args, kwargs):
                if written and is_real(x):
                    self.refuse_mutation(x)
        return func(*args, **kwargs)


def _writes_silently(func: Any) -> bool:
    """Return True for a batch norm that may write to statistics, of which its schema is silent."""
    return getattr(func, "overloadpacket", None) in _BATCH_NORMS


_ATEN: Any = torch.ops.aten
_STATISTICS = ("running_mean", "running_var")
_BATCH_NORMS = {_ATEN.native_batch_norm, _ATEN.cudnn_batch_norm, _ATEN.miopen_batch_norm}

_T: Any = torch.Tensor
# Setters that replace memory without an operator, and methods that hand it to possible writers.
SETTERS = {_T.data.__set__: "data", _T.grad.__set__: "grad"}
LENDING = {_T.numpy, _T.__array__, _T.__dlpack__}


class AccessGuard(TorchFunctionMode):
    """Raises where a function changes a tensor that it closes over without an operator.

    Args:
        guard: The guard that remembers the tensor.
        name: The name of the function.
    """

    def __init__(self, guard: MutationGuard, name: str) -> None:
        super().__init__()
        self._guard, self._name = guard, name

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, unless it changes a captured tensor or hands out its memory."""
        if func in SETTERS and is_real(args[0]):
            self._guard.refuse_mutation(args[0])
        if func in LENDING and is_real(args[0]):
            raise NoValuesError(
                f"{self._name} cannot be captured as a graph, since it takes the memory of a "
                f"tensor that it captures, by `{func.__name__}`."
            )
        return func(*args, **(kwargs or {}))


class OperandObserver(TorchDispatchMode):
    """Calls `look(tensor, written=...)` with each tensor that an operator takes.

    Calls `look_at_result`, if there is one, with each tensor that an operator returns.
    """

    def __init__(
        self,
        look: Callable[..., None],
        look_at_result: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self._look, self._look_at_result = look, look_at_result

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Call `func`, and show its arguments before and its results after."""
        kwargs = kwargs or {}
        for x, written in _operands(func, args, kwargs):
            # Scaling rows to a largest norm in place is harmless: each reader scales them again.
            self._look(x, written=written and func is not torch.ops.aten.embedding_renorm_.default)
        results = func(*args, **kwargs)
        if self._look_at_result is not None:
            for x in pytree.tree_leaves(results):
                if isinstance(x, torch.Tensor):
                    self._look_at_result(x)
        return results


def _operands(
    func: Any, args: Sequence[Any], kwargs: dict[str, Any]
) -> Iterator[tuple[torch.Tensor, bool]]:
    """Yield each tensor that an operator takes, and whether the operator writes to it."""
    arguments = schema_of(func).arguments
    values = {
        x.name: args[i] if i < len(args) else kwargs.get(x.name) for i, x in enumerate(arguments)
    }
    silently = _STATISTICS if _writes_silently(func) and values["training"] else ()
    for argument in arguments:
        x = values[argument.name]
        declared = bool(argument.alias_info and argument.alias_info.is_write)
        written = declared or argument.name in silently
        for item in x if isinstance(x, (list, tuple)) else [x]:
            if isinstance(item, torch.Tensor):
                yield item, written
