"""Private names of torch about tensors, their memory and modules."""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.multiprocessing.reductions import StorageWeakRef

from bridge._arrays.torch.upstream.isolation import functorch


def is_fake(x: Any) -> bool:
    """Return True if `x` is a tensor without values."""
    return isinstance(x, (FakeTensor, FunctionalTensor))


def is_real(x: Any) -> bool:
    """Return True if `x` is a tensor with values, as those that a function closes over."""
    if not isinstance(x, torch.Tensor) or is_fake(x):
        return False
    return not _is_wrapped(x)


# True for zeros without memory, as torch makes them for tangents; without the name they are read.
has_no_memory: Callable[[torch.Tensor], bool] = getattr(
    torch.Tensor, "_is_zerotensor", lambda _: False
)
_is_wrapped: Callable[[Any], bool] = getattr(
    functorch, "is_functorch_wrapped_tensor", lambda _: False
)


def tensors_of(part: torch.nn.Module) -> tuple[Any, Any]:
    """Return the dicts that hold the parameters and the buffers of a module itself; required."""
    return part._parameters, part._buffers


def member_dicts(part: torch.nn.Module) -> list[dict[str, Any]]:
    """Return the dicts that hold all of a module itself; required."""
    return [*tensors_of(part), part._modules, part.__dict__, *hook_dicts(part)]


def hook_dicts(part: torch.nn.Module) -> list[dict[str, Any]]:
    """Return the dicts of hooks of a module itself."""
    return [x for name in _HOOKS if isinstance(x := part.__dict__.get(name), dict)]


def versions(xs: Iterable[Any]) -> list[int]:
    """Return how often each tensor among `xs` has been changed in place; required."""
    return [x._version for x in xs if isinstance(x, torch.Tensor)]


def non_tensor_values(part: torch.nn.Module) -> list[Any]:
    """Return what a module holds besides tensors and submodules."""
    values = [
        x for name, x in vars(part).items() if name not in _MEMBERS and (name not in _STANDARD or x)
    ]
    return [x for x in values if not isinstance(x, (torch.Tensor, torch.nn.Module))]


_STANDARD = vars(torch.nn.Module()).keys()  # dicts of hooks, left out where they are empty
_MEMBERS = ("_parameters", "_buffers", "_modules")
_HOOKS = [
    x for x in _STANDARD if x not in _MEMBERS and isinstance(vars(torch.nn.Module())[x], dict)
]


def unsaved_buffers(module: torch.nn.Module) -> set[str]:
    """Return the names of the buffers that are left out of a `state_dict`."""
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        for name in getattr(part, "_non_persistent_buffers_set", ())
    }


def hooks_of(x: torch.Tensor) -> list[Callable[[torch.Tensor], Any]]:
    """Return the hooks on the gradient of a parameter; without the name, none."""
    return list((getattr(x, "_backward_hooks", None) or {}).values())


def has_post_accumulate_hooks(x: torch.Tensor) -> bool:
    """Return True if a parameter has hooks that run after its `.grad` was set."""
    return bool(getattr(x, "_post_accumulate_grad_hooks", None))


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
