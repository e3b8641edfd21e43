"""Transformations of `torch.func`, which are those of the caller and take no part at home.

NOTE [what they would do]
Within one, whatever torch does in the thread takes part in it: results are wrapped, also of tensors
that the caller has nothing to do with.
"""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import contextlib
import importlib
from collections.abc import Callable
from typing import Any

import torch

# Without the name, there may always be one.
transforming: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)


def untransformed() -> contextlib.AbstractContextManager[Any]:
    """No transformation takes part in here: NOTE [what they would do]."""
    if not transforming():
        return _NOTHING
    functorch = importlib.import_module("torch._functorch.pyfunctorch")
    return functorch.temporarily_clear_interpreter_stack()


_NOTHING = contextlib.nullcontext()
