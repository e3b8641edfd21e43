"""The promotion of the arguments of a module in a region of `torch.autocast`."""

import functools
from collections.abc import Iterable
from typing import Any

import torch

from bridge._arrays.torch.upstream.pytrees import pytree

_Tensors = dict[str, torch.Tensor]
_PROMOTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_DEVICE_TYPES = ("cpu", "cuda", "hpu", "ipu", "maia", "mps", "mtia", "privateuseone", "xla", "xpu")
# Asked for here, since Dynamo of torch 2.11 cannot read `is_autocast_available`.
_WITH_AUTOCAST = frozenset(filter(torch.amp.is_autocast_available, _DEVICE_TYPES))


def promote(params: _Tensors, buffers: _Tensors, args: Any) -> tuple[_Tensors, _Tensors, Any]:
    """Within autocast, widen everything to the widest dtype among parameters and arguments.

    So does torch for operators that take the widest dtype of their arguments. Others, such as
    convolutions of JAX, would refuse what comes from a layer in half precision.
    """
    first = next(iter(params.values()), None)
    if first is None or not _is_in_autocast(first.device.type):
        return params, buffers, args
    tensors = [x for x in pytree.tree_leaves(args) if isinstance(x, torch.Tensor)]
    widest = _widest_dtype([*params.values(), *tensors])
    if widest is None:
        return params, buffers, args

    def widen(x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.promote_types(widest, x.dtype)) if x.dtype in _PROMOTED else x

    params, buffers = ({name: widen(x) for name, x in xs.items()} for xs in (params, buffers))
    return params, buffers, pytree.tree_map_only(torch.Tensor, widen, args)


def _is_in_autocast(device: str) -> bool:
    is_available = device in _WITH_AUTOCAST
    if not is_available and not torch.compiler.is_dynamo_compiling():
        # A device of another package may have got its name after this module was imported.
        is_available = torch.amp.is_autocast_available(device)
    return is_available and torch.is_autocast_enabled(device)


def _widest_dtype(tensors: Iterable[torch.Tensor]) -> torch.dtype | None:
    dtypes = [x.dtype for x in tensors if x.dtype in _PROMOTED]
    return functools.reduce(torch.promote_types, dtypes) if dtypes else None
