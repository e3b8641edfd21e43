"""Private names of torch, each with what happens without it; nothing else here uses any.

NOTE [the vmap of the engine]
`torch.autograd.grad(is_grads_batched=True)`, `torch.autograd.functional` and `gradcheck` batch
with an older vmap that `torch.func` and `Function.vmap` know nothing of. Its tensors have no
storage, and autograd records what happens to the tensors inside them: its levels are taken off
before a Function is applied, and put on again. Without these names such tensors cannot be told
from others, and fail where their memory is read.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import functools
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

from bridge._arrays.torch import transforming
from bridge._core.errors import NoRuleError, NoValuesError

_functorch: Any = getattr(torch._C, "_functorch", None)
_levels = getattr(_functorch, "get_interpreter_stack", None)
_is_batch = getattr(_functorch, "is_batchedtensor", lambda _: False)
_within = getattr(_functorch, "get_unwrapped", None)


def is_differentiating() -> bool:
    """Whether torch.func does something else than to batch; without the names, whatever it does."""
    if _levels is None:
        return transforming()
    return any(level.key() != _functorch.TransformType.Vmap for level in _levels() or ())


def follow_grad_mode(xs: Sequence[Any]) -> Sequence[Any]:
    """`xs`, which require grad at those levels of torch.func alone where it is enabled.

    Torch enables gradients below the level that it applies a Function at, also where the caller
    has disabled them. The result of an operator of torch does not require grad at such a level;
    that of a view does, in forward mode, so that this takes a copy, with all tangents.
    """
    if _levels is None or _set_forward_mode is None:
        return xs
    if any(level.key() == _functorch.TransformType.Functionalize for level in _levels() or ()):
        raise NoRuleError(
            "a bridged function cannot be called within torch.func.functionalize. It changes "
            "nothing in place: functionalize what is around the call."
        )
    if torch.is_grad_enabled() and all(map(_was_grad_enabled, _levels() or ())):
        return xs
    with _set_forward_mode(mode=True):  # a `jvp` disables it, and copies would lose tangents
        return [x.clone() if isinstance(x, torch.Tensor) else x for x in xs]


# Without it, tangents require grad under torch.no_grad.
_set_forward_mode: Any = getattr(forward_ad, "_set_fwd_grad_enabled", None)


def _was_grad_enabled(level: Any) -> bool:
    """Whether gradients were enabled where this level was entered."""
    if level.key() != _functorch.TransformType.Grad:
        return True
    return _functorch.CGradInterpreterPtr(level).prevGradMode()


# Entering and leaving the older vmap is the only way to learn its level.
_enter_batch = getattr(torch._C, "_vmapmode_increment_nesting", lambda: 1)
_leave_batch = getattr(torch._C, "_vmapmode_decrement_nesting", lambda: 0)


def is_plain_autograd() -> bool:
    """Whether nothing but autograd takes part in a call: the questions below in one."""
    level = _enter_batch()
    _leave_batch()
    if level > 1 or transforming() or getattr(forward_ad, "_current_level", 0) >= 0:
        return False
    return _mode is None or _mode(_PROXY) is None


def batch_level() -> int:
    """How many of the older vmaps are at work: NOTE [the vmap of the engine]."""
    level = _enter_batch()
    _leave_batch()
    return level - 1


def unwrap_batched(x: Any, level: int) -> torch.Tensor | None:
    """`x` with its axis of this level in front, `None` if it has none."""
    if not isinstance(x, torch.Tensor) or "Batched" not in repr(torch._C._dispatch_keys(x)):
        return None
    taken = torch._remove_batch_dim(x, level, 0, 0)  # gives others an axis of the size we name
    return taken if len(taken) else None


def wrap_batched(x: torch.Tensor, level: int) -> torch.Tensor:
    """`x` with axis 0 as the axis of this level."""
    return torch._add_batch_dim(x, 0, level)


def check_not_tracing() -> None:
    """Raise inside of `make_fx` and the like, which would record results as constants."""
    if _mode is not None and _mode(_PROXY) is not None:
        raise NoValuesError(
            "a bridged function cannot be recorded by make_fx or torch.func.linearize: its result "
            "would be a constant of the graph. Call it outside, or use torch.func.jvp."
        )


_mode = getattr(torch._C, "_get_dispatch_mode", None)
_PROXY = _mode and torch._C._TorchDispatchModeKey.PROXY


def check_not_jit_traced() -> None:
    """Raise inside of `torch.jit.trace`, before anything is asked of tensors, which it records."""
    if _is_jit_tracing():
        raise NoValuesError(
            "a bridged function cannot be recorded by torch.jit.trace, nor by torch.onnx.export "
            "with dynamo=False, which traces: its result would be a constant of the graph. Use "
            "torch.compile or torch.export.export instead."
        )


# A third of the time of `torch.jit.is_tracing`, which each call would spend.
_is_jit_tracing: Callable[[], bool] = getattr(torch._C, "_is_tracing", torch.jit.is_tracing)


def in_forward_mode() -> bool:
    """Whether tensors can carry tangents, which it costs a call each to ask them."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def is_dual(x: torch.Tensor) -> bool:
    """Whether `x` carries a tangent of forward mode."""
    return forward_ad.unpack_dual(x).tangent is not None


def is_compiling() -> bool:
    """Whether Dynamo is reading the caller's code, or waiting to read what is called next."""
    return _is_reading() or _reader() is not None


_is_reading = torch.compiler.is_dynamo_compiling
# Without it, Dynamo may try to read what JAX does, next to a graph break.
_frames = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
_reader = getattr(_frames, "get_eval_frame_callback", lambda: None)


def hide_from_dynamo(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`, kept from Dynamo where torch calls it from what Dynamo could not read."""

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        if is_compiling():
            return torch.compiler.disable(fn)(*args)
        return fn(*args)

    return call


def is_staged(x: Any) -> bool:
    """Whether `x`, or an example in a batch of them, stands for a tensor in a graph."""
    if isinstance(x, torch.fx.Proxy):
        raise NoValuesError(
            "a bridged function cannot be recorded by torch.fx.symbolic_trace, whose arguments "
            "have no shapes. Use torch.export.export, or name the function in torch.fx.wrap."
        )
    while _within and isinstance(x, torch.Tensor) and _is_batch(x):
        x = _within(x)
    return isinstance(x, (FakeTensor, FunctionalTensor))


def size_hint(size: Any) -> int:
    """An example of a size that is not known yet."""
    return size if isinstance(size, int) else size.node.hint


def name_sizes(xs: Sequence[torch.Tensor]) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """The shapes of `xs` with names for unknown sizes, and the sizes by name; `[]` if all known."""
    names: dict[Any, str] = {}
    values: dict[str, Any] = {}
    shapes = []
    for x in xs:
        shape = []
        for size in x.shape:
            if isinstance(size, torch.SymInt):
                name = names.setdefault(size.node.expr, f"n{len(names)}")
                values[name] = size
                shape.append(name)
            else:
                shape.append(size)
        shapes.append(tuple(shape))
    return (shapes if values else []), values


def guard_equal_sizes(values: Iterable[Any]) -> bool:
    """Whether some of these sizes, unknown but for examples, are equal: a guard, if so.

    JAX cannot compare sizes of two names, and torch gives two where it has seen no operation that
    needs them to be one, such as those of a batch and of its labels.
    """
    by_hint: dict[int, list[Any]] = {}
    for size in values:
        by_hint.setdefault(size_hint(size), []).append(size)
    together = [found for found in by_hint.values() if len(found) > 1]
    return bool(together) and all(first == size for first, *rest in together for size in rest)


def concrete_sizes(shape: Sequence[Any], values: dict[str, Any]) -> list[Any]:
    """The sizes that expressions like `2*n0 + 1` stand for."""
    return [eval(size, _FUNCTIONS, values) if isinstance(size, str) else size for size in shape]


_FUNCTIONS = {
    "__builtins__": {},
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": torch.sym_max,
    "min": torch.sym_min,
}
