"""Private names of torch, each with its fallback or the word "required"."""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._python_dispatch as dispatch
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import (
    FakeTensor,
    FakeTensorMode,
)
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.multiprocessing.reductions import StorageWeakRef

from bridge._core.spec import ArraySpec


def fake_tensors(specs: Sequence[ArraySpec]) -> list[torch.Tensor]:
    """Make tensors without values of these specs; operators compute shapes and dtypes of them.

    Required: graphs are captured with such tensors.
    """
    # Tensors that a function closes over have values; they become constants of its graph.
    with FakeTensorMode(allow_non_fake_inputs=True):
        return [
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=spec.device)
            for spec in specs
        ]


def fake_mode_of(fakes: Sequence[Any]) -> FakeTensorMode:
    """Return a context in which new tensors have no values, as those of `fakes`."""
    return fakes[0].fake_mode if fakes else FakeTensorMode(allow_non_fake_inputs=True)


@functools.cache
def load_exporter() -> Callable[..., Any]:
    """Import what captures graphs; required, but only for a capture.

    The import takes as long as that of torch itself, since it loads a compiler and SymPy.
    """
    from torch._functorch.aot_autograd import aot_export_joint_simple

    return aot_export_joint_simple


def export(
    fun: Callable[..., tuple[torch.Tensor, ...]], fakes: Sequence[torch.Tensor], *, joint: bool
) -> torch.fx.GraphModule:
    """Capture the functional graph of `fun`; if `joint`, with the gradients of `fakes`."""
    return load_exporter()(fun, tuple(fakes), trace_joint=joint)


def decomposition(target: Any) -> Callable[..., Any] | None:
    """Return a function that computes an operator by simpler ones, if torch has one."""
    if target in decomposition_table:
        return decomposition_table[target]
    if isinstance(target, torch._ops.OpOverload) and target._can_decompose():
        return target.decompose
    return None


@functools.cache
def graphs_have_a_loss_wrong() -> bool:
    """Return True if torch decomposes `multilabel_margin_loss` wrongly, as 2.13, but not 2.15."""
    kernel = torch.ops.aten.multilabel_margin_loss_forward.default
    if kernel not in decomposition_table:
        return False
    x, labels = torch.tensor([0.3, -0.2, 0.9], device="cpu"), torch.tensor([1, -1, 0], device="cpu")
    parts = decomposition_table[kernel](x, labels, 1)
    return not torch.allclose(parts[0], kernel(x, labels, 1)[0])


def is_fake(x: Any) -> bool:
    """Return True if `x` is a tensor without values."""
    return isinstance(x, (FakeTensor, FunctionalTensor))


def is_real(x: Any) -> bool:
    """Return True if `x` is a tensor with values, as those that a function closes over."""
    if not isinstance(x, torch.Tensor) or is_fake(x):
        return False
    return not _is_wrapped(x)


_functorch: Any = getattr(torch._C, "_functorch", None)
# True for zeros without memory, as torch makes them for tangents; without the name they are read.
has_no_memory: Callable[[torch.Tensor], bool] = getattr(
    torch.Tensor, "_is_zerotensor", lambda _: False
)
_is_wrapped: Callable[[Any], bool] = getattr(
    _functorch, "is_functorch_wrapped_tensor", lambda _: False
)


TorchDispatchMode = dispatch.TorchDispatchMode


def tensors_of(part: torch.nn.Module) -> tuple[Any, Any]:
    """Return the dicts that hold the parameters and the buffers of a module itself; required."""
    return part._parameters, part._buffers


def non_tensor_values(part: torch.nn.Module) -> list[Any]:
    """Return what a module holds besides tensors and submodules."""
    values = [
        x
        for name, x in vars(part).items()
        if name not in ("_parameters", "_buffers", "_modules") and (name not in _STANDARD or x)
    ]
    return [x for x in values if not isinstance(x, (torch.Tensor, torch.nn.Module))]


_STANDARD = vars(torch.nn.Module()).keys()  # dicts of hooks, left out where they are empty


def hooks_of(x: torch.Tensor) -> list[Callable[[torch.Tensor], Any]]:
    """Return the hooks on the gradient of a parameter; without the name, none."""
    return list((getattr(x, "_backward_hooks", None) or {}).values())


def is_hooked_after(x: torch.Tensor) -> bool:
    """Return True if a parameter has hooks that run after its `.grad` was set."""
    return bool(getattr(x, "_post_accumulate_grad_hooks", None))


# Without the name, transforms within a function go unnoticed.
is_transforming: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: False
)
# `torch.no_grad` calls this; without the name it goes unnoticed.
set_grad_enabled: Any = getattr(torch._C, "_set_grad_enabled", None)
# Keeps operators within out of a graph that is being captured; without the name they are in it.
without_modes: Callable[[], contextlib.AbstractContextManager[Any]] = getattr(
    dispatch, "_disable_current_modes", contextlib.nullcontext
)


# Hides accesses to tensors within from observers; without the name they are observed.
without_functions: Callable[[], contextlib.AbstractContextManager[Any]] = getattr(
    torch._C, "DisableTorchFunction", contextlib.nullcontext
)


def same_storage(x: Any, y: Any) -> bool:
    """Return True if two tensors use the same memory, with or without values."""
    first = storage_id(x)
    return first is not None and first == storage_id(y)


def storage_id(x: Any) -> int | None:
    """Return an id of the memory of a tensor; `None` if it has no memory of its own."""
    if not isinstance(x, torch.Tensor) or _is_wrapped(x):
        return None
    try:
        return StorageWeakRef(x.untyped_storage()).cdata
    except NotImplementedError:  # sparse
        return None


def returns_view(target: Any) -> bool:
    """Return True if the results of an operator may use the memory of its arguments."""
    schema = getattr(target, "_schema", None)
    return schema is not None and any(result.alias_info for result in schema.returns)


# A check that may raise, as of a singular matrix, has no result: torch orders it by a token.
with_effects: Any = getattr(torch.ops.higher_order, "with_effects", None)


def raw_operator(target: Any) -> Any:
    """Return what an operator calls; without the name the operator, which costs one more call."""
    return getattr(target, "_op", target) if isinstance(target, torch._ops.OpOverload) else target


def out_variant(target: Any) -> Any:
    """Return the variant of an operator that computes directly in its argument `out`, if any."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    arguments = _arguments(target)
    packet = target.overloadpacket
    for name in packet.overloads():
        variant = getattr(packet, name)
        if torch.Tag.generated in variant.tags:  # computes in other memory, and copies
            continue
        written = [a.name for a in variant._schema.arguments if a.alias_info]
        others = [a for a in _arguments(variant) if a[0] != "out"]
        if written == ["out"] and others == arguments:
            return variant
    return None


def _arguments(overload: Any) -> list[tuple[str, str]]:
    """Return the names and types of an operator's arguments."""
    return [(a.name, str(a.type)) for a in overload._schema.arguments]


# Lets operators skip autograd; without the name autograd is called, but records nothing.
below_autograd: Callable[[], Any] = getattr(torch._C, "_AutoDispatchBelowAutograd", torch.no_grad)
any_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


def without_autocast() -> contextlib.AbstractContextManager[Any]:
    """Switch autocast off, so that operators compute in the dtypes of their arguments."""
    stack = contextlib.ExitStack()
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack
