"""Private names of torch, each with what happens without it; nothing else here uses any."""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._python_dispatch as dispatch

# Tensors without values, from which graphs are made: without these names nothing can be captured,
# and importing a function of torch fails here.
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedFakeTensorException,
    UnsupportedOperatorException,
)
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from bridge._core.spec import ArraySpec

# What a function raises that needs values where there are none.
VALUELESS = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedFakeTensorException,
)
# The same, where torch raises a plain RuntimeError.
_VALUELESS_TEXTS = (
    ".numpy() is not supported for tensor subclasses",
    "Cannot access data pointer",
    "Attempted to access the data pointer on an invalid python storage",
    "unsupported format string passed to FunctionalTensor.__format__",
    "Can't call numpy() on Tensor that requires grad",
    "It appears that you're trying to get value out of a tracing tensor",
    "Cannot call numel() on tensor with symbolic sizes/strides",
)


def is_accumulation_error(error: BaseException) -> bool:
    """Whether `error` says that `.backward()` was called while a function was captured."""
    return "Cannot backprop through mirrored meta" in str(error)


def is_change_error(error: BaseException) -> bool:
    """Whether `error` says that a graph would change in place what is no argument of it."""
    text = str(error)
    return "entirely functional graph" in text or ("n=copy_" in text and "placeholders=" in text)


def is_shape_error(error: BaseException) -> bool:
    """Whether `error` says that torch does not know an operator's results without values."""
    texts = "There was no fake impl registered", "self.shape_env must not be None"
    return isinstance(error, UnsupportedOperatorException) or any(x in str(error) for x in texts)


def is_value_error(error: BaseException) -> bool:
    """Whether `error` says that a function looked for values while it was captured."""
    return isinstance(error, VALUELESS) or any(text in str(error) for text in _VALUELESS_TEXTS)


def is_style_error(error: BaseException) -> bool:
    """Whether `error` says no more than that torch.func refuses what was written before torch 2."""
    return "it must override the setup_context staticmethod" in str(error)


def fake_tensors(specs: Sequence[ArraySpec]) -> list[torch.Tensor]:
    """Tensors of these specs without values; operations on them compute shapes and dtypes."""
    # Tensors that a function closes over have values, and become constants of its graph.
    with FakeTensorMode(allow_non_fake_inputs=True):
        return [
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=spec.device)
            for spec in specs
        ]


def without_values(fakes: Sequence[Any]) -> FakeTensorMode:
    """What lets all tensors that are made in it be without values, as those `fakes` are."""
    return fakes[0].fake_mode if fakes else FakeTensorMode(allow_non_fake_inputs=True)


@functools.cache
def load_exporter() -> Callable[..., Any]:
    """What makes graphs; asked for only where one is made.

    It takes as long to import as torch itself, with a compiler and an algebra system.
    """
    from torch._functorch.aot_autograd import aot_export_joint_simple

    return aot_export_joint_simple


def export(
    fun: Callable[..., tuple[torch.Tensor, ...]], fakes: Sequence[torch.Tensor], *, joint: bool
) -> torch.fx.GraphModule:
    """The functional graph of `fun`; if `joint`, from cotangents to gradients of `fakes`, too."""
    return load_exporter()(fun, tuple(fakes), trace_joint=joint)


def decomposition(target: Any) -> Callable[..., Any] | None:
    """What computes the same as an operator, by others; without the names it stays as it is."""
    if target in decomposition_table:
        return decomposition_table[target]
    if isinstance(target, torch._ops.OpOverload) and target._can_decompose():
        return target.decompose
    return None


@functools.cache
def graphs_have_a_loss_wrong() -> bool:
    """Whether torch takes `multilabel_margin_loss` apart wrongly: 2.13 does, 2.15 does not."""
    kernel = torch.ops.aten.multilabel_margin_loss_forward.default
    if kernel not in decomposition_table:
        return False
    x, labels = torch.tensor([0.3, -0.2, 0.9], device="cpu"), torch.tensor([1, -1, 0], device="cpu")
    parts = decomposition_table[kernel](x, labels, 1)
    return not torch.allclose(parts[0], kernel(x, labels, 1)[0])


def is_fake(x: Any) -> bool:
    """Whether `x` is a tensor without values."""
    return isinstance(x, (FakeTensor, FunctionalTensor))


def is_real(x: Any) -> bool:
    """Whether `x` is a tensor with values, that a function closes over."""
    if not isinstance(x, torch.Tensor) or is_fake(x):
        return False
    return not _is_wrapped(x)


_functorch: Any = getattr(torch._C, "_functorch", None)
# Zeros that have no memory, as tangents of what does not move; without the name they are read.
has_no_memory: Callable[[torch.Tensor], bool] = getattr(
    torch.Tensor, "_is_zerotensor", lambda _: False
)
_is_wrapped: Callable[[Any], bool] = getattr(
    _functorch, "is_functorch_wrapped_tensor", lambda _: False
)


TorchDispatchMode = dispatch.TorchDispatchMode


def tensors_of(part: torch.nn.Module) -> tuple[Any, Any]:
    """What a module, without those in it, holds its parameters and its buffers in."""
    return part._parameters, part._buffers


def other_values(part: torch.nn.Module) -> list[Any]:
    """What a module holds besides tensors and parts."""
    values = [
        x
        for name, x in vars(part).items()
        if name not in ("_parameters", "_buffers", "_modules") and (name not in _STANDARD or x)
    ]
    return [x for x in values if not isinstance(x, (torch.Tensor, torch.nn.Module))]


_STANDARD = vars(torch.nn.Module()).keys()  # hooks, of which there may be none


def hooks_of(x: torch.Tensor) -> list[Callable[[torch.Tensor], Any]]:
    """The hooks on the gradient of a parameter; without the name there are none."""
    return list((getattr(x, "_backward_hooks", None) or {}).values())


def is_hooked_after(x: torch.Tensor) -> bool:
    """Whether a parameter has hooks that run once its gradient is in `.grad`."""
    return bool(getattr(x, "_post_accumulate_grad_hooks", None))


# Without the name, transformations within a function go unnoticed.
is_transforming: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: False
)
# What torch.no_grad calls; without the name it goes unnoticed.
set_grad_enabled: Any = getattr(torch._C, "_set_grad_enabled", None)
_REQUIRES_GRAD: Any = torch.Tensor.requires_grad.__get__  # pyright: ignore[reportAttributeAccessIssue]


class GradientObserver(TorchFunctionMode):
    """Notes what a function does to gradients that not every transform knows of.

    Attributes:
        unrecorded: Whether a part of it has none, by `torch.no_grad`, which tangents ignore.
        asked: Whether it asked a tensor for them, which is another answer in torch.func.vmap.
        hooked: Whether they are changed on the way, by hooks, which `torch.func.vmap` ignores.
        wrong: What it calls that a graph may compute wrongly: graphs_have_a_loss_wrong.
        transforms: Whether it uses torch.func, which graphs of batches differentiate wrongly.
        copied: Whether it makes a tensor of another by torch.tensor, which has no gradient.
        differentiates: Whether it takes gradients itself.
        functions: The classes of autograd.Functions that it calls.
    """

    unrecorded = False
    asked = False
    hooked = False
    wrong: str | None = None
    transforms = False
    copied = False
    differentiates = False

    def __init__(self) -> None:
        super().__init__()
        self.functions: set[type] = set()

    def apply(self, cls: type, args: Any, apply: Callable[..., Any]) -> Any:
        """The results of an autograd.Function, looked at."""
        self.functions.add(cls)
        return apply(*args)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """`func`, looked at."""
        self.transforms = self.transforms or is_transforming()
        if func is set_grad_enabled and not args[0]:
            self.unrecorded = True
        if func is torch.Tensor.register_hook:
            self.hooked = True
        if (
            func is torch.nn.functional.multilabel_margin_loss
        ):  # test_a_loss_that_graphs_may_have_wrong
            self.wrong = func.__name__
        if func == _REQUIRES_GRAD:
            self.asked = True
        if func in (torch.tensor, torch.Tensor.new_tensor):
            self.copied |= isinstance(args[-1] if args else None, torch.Tensor)
        if func in (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward):
            self.differentiates = True
        return func(*args, **(kwargs or {}))


# Operators within do not become part of a graph that is being made; without the name they do.
without_modes: Callable[[], contextlib.AbstractContextManager[Any]] = getattr(
    dispatch, "_disable_current_modes", contextlib.nullcontext
)


# Attributes of tensors are looked at within, and nothing notes it; without the name it is noted.
without_functions: Callable[[], contextlib.AbstractContextManager[Any]] = getattr(
    torch._C, "DisableTorchFunction", contextlib.nullcontext
)


def same_storage(x: Any, y: Any) -> bool:
    """Whether two tensors lie in the same memory, values or not."""
    first = storage_id(x)
    return first is not None and first == storage_id(y)


def storage_id(x: Any) -> int | None:
    """What tells the memory of a tensor from that of others; `None` if it has none of its own."""
    if not isinstance(x, torch.Tensor) or _is_wrapped(x):
        return None
    try:
        return StorageWeakRef(x.untyped_storage()).cdata
    except NotImplementedError:  # sparse
        return None


def returns_view(target: Any) -> bool:
    """Whether the results of an operator may lie in the memory of its arguments."""
    schema = getattr(target, "_schema", None)
    return schema is not None and any(result.alias_info for result in schema.returns)


# A check that raises, as of a singular matrix, has no result: torch orders it by a token.
with_effects: Any = getattr(torch.ops.higher_order, "with_effects", None)


def raw_operator(target: Any) -> Any:
    """What an operator calls; without the name the operator itself, which costs a call more."""
    return getattr(target, "_op", target) if isinstance(target, torch._ops.OpOverload) else target


def out_variant(target: Any) -> Any:
    """The variant of an operator that writes to its argument `out`, if torch has one of its own."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    asked = _arguments(target)
    packet = target.overloadpacket
    for name in packet.overloads():
        variant = getattr(packet, name)
        written = [a.name for a in variant._schema.arguments if a.alias_info]
        given = [a for a in _arguments(variant) if a[0] != "out"]
        if written == ["out"] and given == asked and torch.Tag.generated not in variant.tags:
            return variant  # one that is generated computes elsewhere, and copies
    return None


def _arguments(overload: Any) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in overload._schema.arguments]


# Operators then skip what records for autograd; without the name it is only switched off.
below_autograd: Callable[[], Any] = getattr(torch._C, "_AutoDispatchBelowAutograd", torch.no_grad)
any_autocast: Callable[[], bool] = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)


def without_autocast() -> contextlib.AbstractContextManager[Any]:
    """Operators compute in the dtypes they are given."""
    stack = contextlib.ExitStack()
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    return stack
