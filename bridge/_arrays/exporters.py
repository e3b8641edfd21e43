"""Arrays that are known by `__dlpack__` alone, as of CuPy: values that can be converted."""

from collections.abc import Hashable
from typing import Any

import numpy as np

from bridge._arrays.numpy import ARRAYS as NUMPY
from bridge._core.errors import ArgumentError
from bridge._core.spec import ArraySpec

_HOST = 1


class Exporters:
    """Objects that lend their memory by DLPack, and of which nothing else is known."""

    name = "dlpack"
    requires_contiguous = False
    check_not_traced = None

    def is_array(self, x: Any) -> bool:
        """Whether `x` is an object, and no class, with `__dlpack__`."""
        return hasattr(type(x), "__dlpack__") and hasattr(type(x), "__dlpack_device__")

    def spec(self, x: Any) -> ArraySpec:
        """Nothing: it is to be converted first."""
        raise ArgumentError(f"it is a {type(x).__name__}, which is known by __dlpack__ alone.")

    def signature(self, x: Any) -> Hashable:
        """Nothing, likewise."""
        raise ArgumentError(f"it is a {type(x).__name__}, which is known by __dlpack__ alone.")

    def export(self, x: Any, *, dense: bool, copy: bool | None, whole: bool = True) -> Any:
        """NumPy's view of `x`, or `x` itself on another device."""
        refusal = "which is on another device"
        if x.__dlpack_device__()[0] == _HOST:
            try:
                view = np.from_dlpack(x)
            except (RuntimeError, BufferError) as error:  # such as a dtype that NumPy lacks
                refusal = str(error)
            else:
                return NUMPY.export(view, dense=dense, copy=copy)
        if not hasattr(x, "dtype"):  # by which it is told whether it would be narrowed
            raise ArgumentError(f"it is a {type(x).__name__} that cannot be read: {refusal}.")
        return x

    def convert(self, x: Any, *, copy: bool | None) -> Any:
        """Nothing: nobody asks for such arrays."""
        raise NotImplementedError

    def pytree_node(self, x: Any) -> None:
        """Nothing: they have no pytrees."""
        return


ARRAYS = Exporters()
