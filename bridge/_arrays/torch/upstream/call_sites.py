"""Private names of torch for autograd, forward mode and batches at a call site.

NOTE [the vmap of the engine]
`torch.autograd.grad(is_grads_batched=True)`, `torch.autograd.functional` and `gradcheck` batch
with an older vmap that `torch.func` and `Function.vmap` do not know. Its tensors, which torch calls
legacy batched tensors, have no storage, and autograd records operations on the tensors inside them:
its levels are removed before a Function is applied, and added again afterwards. Without these names
such tensors look like others, and fail where their memory is read.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd import forward_ad

from bridge._arrays.torch.upstream.compilers import frame_callback
from bridge._arrays.torch.upstream.isolation import functorch, number_of_modes, transforming
from bridge._core.errors import NoRuleError, NoValuesError

_levels = getattr(functorch, "get_interpreter_stack", None)


def in_derivative_transform() -> bool:
    """Return True if torch.func does more than batch; without the names, if it does anything."""
    if _levels is None:
        return transforming()
    return any(level.key() != functorch.TransformType.Vmap for level in _levels() or ())


def clone_if_grad_disabled(xs: Sequence[Any]) -> Sequence[Any]:
    """Return `xs` so that they require grad only at levels of torch.func with gradients enabled.

    Torch enables gradients below the level that it applies a Function at, also where the caller
    has disabled them. The result of an operator of torch does not require grad at such a level,
    but that of a view does, in forward mode. So this makes copies, with all tangents.
    """
    if _levels is None or _set_forward_mode is None:
        return xs
    if any(level.key() == functorch.TransformType.Functionalize for level in _levels() or ()):
        raise NoRuleError(
            "a bridged function cannot be called within torch.func.functionalize. It changes "
            "nothing in place: functionalize the code around the call."
        )
    if torch.is_grad_enabled() and all(map(_was_grad_enabled, _levels() or ())):
        return xs
    with _set_forward_mode(mode=True):  # a `jvp` disables it, and copies would lose tangents
        return [x.clone() if isinstance(x, torch.Tensor) else x for x in xs]


# Without it, tangents require grad under torch.no_grad.
_set_forward_mode: Any = getattr(forward_ad, "_set_fwd_grad_enabled", None)


def _was_grad_enabled(level: Any) -> bool:
    """Return True if gradients were enabled where this level was entered."""
    if level.key() != functorch.TransformType.Grad:
        return True
    return functorch.CGradInterpreterPtr(level).prevGradMode()


# The level of the older vmap can be read only by entering and leaving it.
_enter_batch = getattr(torch._C, "_vmapmode_increment_nesting", lambda: 1)
_leave_batch = getattr(torch._C, "_vmapmode_decrement_nesting", lambda: 0)


def is_plain_autograd() -> bool:
    """Return True if a call meets nothing but autograd: the functions below in one."""
    level = _enter_batch()
    _leave_batch()
    if level > 1 or transforming() or getattr(forward_ad, "_current_level", 0) >= 0:
        return False
    return not number_of_modes() or _get_mode is None or _get_mode(_PROXY) is None


def legacy_vmap_level() -> int:
    """Return the number of active levels of the older vmap: NOTE [the vmap of the engine]."""
    level = _enter_batch()
    _leave_batch()
    return level - 1


def unwrap_legacy_batched(x: Any, level: int) -> torch.Tensor | None:
    """Return `x` with its axis of this level in front; None if it has none."""
    if not isinstance(x, torch.Tensor) or "Batched" not in repr(torch._C._dispatch_keys(x)):
        return None
    inner = torch._remove_batch_dim(x, level, 0, 0)  # adds an axis of size 0 if it has none
    return inner if len(inner) else None


def wrap_legacy_batched(x: torch.Tensor, level: int) -> torch.Tensor:
    """Return `x` with axis 0 as the axis of this level."""
    return torch._add_batch_dim(x, 0, level)


def in_forward_mode() -> bool:
    """Return True if tensors can have tangents; asking each tensor would cost a call."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def is_dual(x: torch.Tensor) -> bool:
    """Return True if `x` has a tangent of forward mode."""
    return forward_ad.unpack_dual(x).tangent is not None


def check_not_tracing() -> None:
    """Raise within `make_fx` and the like, which would record results as constants."""
    if _get_mode is not None and _get_mode(_PROXY) is not None:
        raise NoValuesError(
            "a bridged function cannot be recorded by make_fx or torch.func.linearize: its result "
            "would be a constant of the graph. Call it outside, or use torch.func.jvp."
        )


_get_mode = getattr(torch._C, "_get_dispatch_mode", None)
_PROXY = _get_mode and torch._C._TorchDispatchModeKey.PROXY


def is_between_compiled_parts() -> bool:
    """Return True after a graph break of Dynamo; raise if `torch.jit.trace` would record it.

    Called before tensors are used, which `torch.jit.trace` would record.
    """
    if frame_callback() is not None:
        return True
    if _is_jit_tracing():
        raise NoValuesError(
            "a bridged function cannot be recorded by torch.jit.trace, nor by torch.onnx.export "
            "with dynamo=False, which traces: its result would be a constant of the graph. Use "
            "torch.compile or torch.export.export instead."
        )
    return False


# Takes a third of the time of `torch.jit.is_tracing`, on every call.
_is_jit_tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", torch.jit.is_tracing)


# Fallback: all gradients that could be asked for are.
_will_execute: Callable[[Any], bool] = getattr(
    torch._C, "_will_engine_execute_node", lambda node: True
)


def unexecuted_inputs(ctx: Any, tensor_positions: Sequence[int]) -> list[int]:
    """Return those of the positions whose gradient the backward pass that runs now does not use.

    `ctx.needs_input_grad` has all that require one; `torch.autograd.grad` asks for some of them.
    """
    nodes = getattr(ctx, "next_functions", None)  # of tensors only
    if nodes is None or len(nodes) != len(tensor_positions):  # under torch.func
        return []
    pairs = zip(tensor_positions, nodes, strict=True)
    return [i for i, (node, _) in pairs if node is not None and not _is_executed(node)]


def _is_executed(node: Any) -> bool:
    try:
        return _will_execute(node)
    except RuntimeError:  # a leaf that `torch.autograd.grad` was asked for
        return True


_autograd: Any = getattr(torch._C, "_autograd", None)


def hooks_saved_tensors() -> bool:
    """Return True if hooks see the tensors that are saved now; without the name, they may."""
    return _top_hooks is None or _top_hooks(False) is not None  # noqa: FBT003, named by position


_top_hooks = getattr(_autograd, "_top_saved_tensors_default_hooks", None)


def backward_frees_graph() -> bool:
    """Return True if the backward pass that runs now is the last; False without the name."""
    return _keeps_graph is not None and not _keeps_graph()


_keeps_graph = getattr(_autograd, "_get_current_graph_task_keep_graph", None)
