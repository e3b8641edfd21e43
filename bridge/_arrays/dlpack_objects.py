"""The backend of arrays known only by their `__dlpack__`, such as those of CuPy."""

from collections.abc import Hashable
from typing import Any

import numpy as np

from bridge._arrays.numpy import ARRAYS as NUMPY
from bridge._core.errors import ArgumentError
from bridge._core.sharding import WHOLE
from bridge._core.spec import ArraySpec

_HOST = 1


class DlpackObjects:
    """Objects that export their memory by DLPack; they can only be converted."""

    name = "dlpack"
    imports_only_contiguous = False
    copy_or_raise = None
    shards = WHOLE

    def is_array(self, x: Any) -> bool:
        """Return True if `x` is an object, not a class, with `__dlpack__`."""
        return hasattr(type(x), "__dlpack__") and hasattr(type(x), "__dlpack_device__")

    def spec(self, x: Any) -> ArraySpec:
        """Raise: `x` must be converted first."""
        raise ArgumentError(
            f"it is a {type(x).__name__}, of which only __dlpack__ is known. Convert it first."
        )

    def signature(self, x: Any) -> Hashable:
        """Raise: `x` must be converted first."""
        raise ArgumentError(
            f"it is a {type(x).__name__}, of which only __dlpack__ is known. Convert it first."
        )

    def export(self, x: Any, *, dense: bool, copy: bool | None, gathered: bool = True) -> Any:
        """Return a NumPy view of `x`, or `x` itself if it is on another device."""
        reason = "it is on another device"
        if x.__dlpack_device__()[0] == _HOST:
            try:
                view = np.from_dlpack(x)
            except (RuntimeError, BufferError) as error:  # such as a dtype that NumPy does not have
                reason = str(error)
            else:
                return NUMPY.export(view, dense=dense, copy=copy)
        if not hasattr(x, "dtype"):  # without which `convert` could narrow it unnoticed
            raise ArgumentError(f"it is a {type(x).__name__} that cannot be read: {reason}.")
        return x

    def convert(self, x: Any, *, copy: bool | None) -> Any:
        """Raise: nothing is ever converted to such arrays."""
        raise NotImplementedError

    def address(self, x: Any) -> None:
        """Return None: the memory is not looked at."""
        del x

    def example(self, spec: ArraySpec) -> Any:
        """Raise: nothing is ever converted to such arrays."""
        raise NotImplementedError

    def pytree_node_functions(self, x: Any) -> None:
        """Return None: these objects have no pytrees."""
        return


ARRAYS = DlpackObjects()
