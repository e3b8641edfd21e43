"""Private names of torch for loops and branches in graphs, which are required there."""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import importlib
from typing import Any


def _operator(module: str, name: str) -> Any:
    """Return an operator whose module is imported for its first call, since that imports a lot."""

    def call(*args: Any) -> Any:
        return getattr(importlib.import_module(f"torch._higher_order_ops.{module}"), name)(*args)

    return call


scan_op = _operator("scan", "scan_op")
while_loop_op = _operator("while_loop", "while_loop_op")
cond_op = _operator("cond", "cond_op")
