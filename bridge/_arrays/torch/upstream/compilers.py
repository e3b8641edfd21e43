"""Private names of torch about Dynamo, and tensors and sizes in the graphs of compilers."""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import functools
import importlib
import operator
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import torch
import torch.fx.traceback
import torch.utils.checkpoint

from bridge._arrays.torch.upstream.isolation import functorch
from bridge._arrays.torch.upstream.tensors import is_fake
from bridge._core.errors import NoValuesError


def has_tracing_context() -> bool:
    """Return True while Dynamo or a backend compiles; assume so without the private name."""
    context: Any = getattr(getattr(torch, "_guards", None), "TracingContext", None)
    return context is None or context.try_get() is not None


def dynamo_reads_caller() -> bool:
    """Return True while Dynamo reads the caller's code, or waits to read the next function."""
    return _is_reading() or frame_callback() is not None


_is_reading = torch.compiler.is_dynamo_compiling
# Not None while Dynamo waits to read the next function, as after a graph break. Without the name,
# Dynamo may try to read code of JAX then.
_eval_frame = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
frame_callback: Callable[[], Any] = getattr(_eval_frame, "get_eval_frame_callback", lambda: None)


def nonstrict_trace(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` so that Dynamo traces it by running it; required.

    Call this while Dynamo runs, since it imports all of it.
    """
    return importlib.import_module("torch._dynamo").nonstrict_trace(fn)


def assume_constant_result(fn: Any) -> None:
    """Let Dynamo run `fn` while it traces, and take the result for a constant; required."""
    fn._dynamo_marked_constant = True


def hide_from_dynamo(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return `fn` so that Dynamo does not read it where torch calls it from unreadable code."""

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        if dynamo_reads_caller():
            return torch.compiler.disable(fn)(*args)
        return fn(*args)

    return call


@contextlib.contextmanager
def saved_for_backward() -> Generator[None]:
    """Let compilers save what is computed within for the backward pass, not compute it again.

    Otherwise they may draw random numbers anew (with `aggressive_recomputation`), or read a buffer
    that was written to since (pytorch#197039: silently wrong gradients).
    """
    policies: Any = getattr(torch.utils.checkpoint, "CheckpointPolicy", None)
    meta: Any = getattr(torch.fx.traceback, "current_meta", None)
    if policies is None or meta is None:
        yield
        return
    before = dict(meta)
    meta["recompute"] = policies.MUST_SAVE
    try:
        yield
    finally:
        meta.clear()
        meta.update(before)


def needs_staging(x: Any) -> bool:
    """Return True if `x`, or the tensor inside of a batch, stands for a tensor in a graph."""
    if isinstance(x, torch.fx.Proxy):
        raise NoValuesError(
            "a bridged function cannot be recorded by torch.fx.symbolic_trace, whose arguments "
            "have no shapes. Use torch.export.export, or name the function in torch.fx.wrap."
        )
    while functorch and isinstance(x, torch.Tensor) and functorch.is_batchedtensor(x):
        x = functorch.get_unwrapped(x)
    return is_fake(x)


def size_hint(size: Any) -> int:
    """Return an example of a size that may be symbolic."""
    return size if isinstance(size, int) else size.node.hint


def name_sizes(xs: Sequence[torch.Tensor]) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """Return the shapes of `xs` with names for symbolic sizes, `[]` without any; sizes by name."""
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


def guard_any_equal_sizes(values: Iterable[Any]) -> bool:
    """Return True if some of these symbolic sizes are equal, which adds guards that they are.

    JAX cannot compare sizes with different names, and torch uses two names where it has seen no
    operation that needs them to be equal, such as the sizes of a batch and of its labels.
    """
    by_hint: dict[int, list[Any]] = {}
    for size in values:
        by_hint.setdefault(size_hint(size), []).append(size)
    groups = [sizes for sizes in by_hint.values() if len(sizes) > 1]
    return bool(groups) and all(first == size for first, *others in groups for size in others)


def concrete_sizes(shape: Sequence[Any], values: dict[str, Any]) -> list[Any]:
    """Return the sizes that expressions like `2*n0 + 1` stand for."""
    return [eval(size, _FUNCTIONS, values) if isinstance(size, str) else size for size in shape]


_FUNCTIONS = {
    "__builtins__": {},
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": torch.sym_max,
    "min": torch.sym_min,
}
