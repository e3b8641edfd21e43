"""Bits of numbers in torch."""

from collections.abc import Callable
from typing import Any

import torch

from bridge._lowering.dtypes import bit_width
from bridge._lowering.rules.instruction import Instruction
from bridge._lowering.torch.carriers import CARRIERS, dtype_of

_SIGNED = {8: torch.int8, 16: torch.int16, 32: torch.int32, 64: torch.int64}
_UNSIGNED = ("uint16", "uint32", "uint64")


def _bitcast(i: Instruction, _: Any) -> Callable[..., Any]:
    """Return what reads the same bits as another dtype, of more or fewer of them."""
    source, result = i.inputs[0].dtype, i.dtype
    if "bool" in (source, result) or source not in CARRIERS or result not in CARRIERS:
        raise i.refuse(f"it reads {source} as {result}.")
    before, after = bit_width(source), bit_width(result)

    def read(x: torch.Tensor) -> torch.Tensor:
        if source in _UNSIGNED:  # back to the width that it has
            x = x.to(_SIGNED[before])
        dtype = _SIGNED[after] if result in _UNSIGNED else dtype_of(result)
        if before > after:
            x = x.unsqueeze(-1).contiguous().view(dtype)
        elif before < after:
            x = x.contiguous().view(dtype).squeeze(-1)
        else:
            x = x.view(dtype)
        if result == "uint16":
            return x.to(torch.int32) & 0xFFFF
        return x.to(torch.int64) & 0xFFFFFFFF if result == "uint32" else x

    return read


RULES = {"bitcast_convert_type": _bitcast}
