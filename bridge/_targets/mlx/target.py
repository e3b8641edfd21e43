"""What MLX shows to bridge as a place where functions are called."""

import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import release_lock
from bridge._core.errors import ArgumentError
from bridge._core.op import Arrays, Op
from bridge._core.protocols import Executor
from bridge._targets.mlx.call import call
from bridge._targets.mlx.gradcheck import check_gradients, pullback


class MlxTarget:
    """Call sites in MLX, whose transformations run Python with arrays that mostly have values."""

    def make_native(self, op: Op, runner: Executor, _: Any) -> Callable[..., Arrays]:
        """`op` as a function of MLX arrays under every transformation but `mx.compile`."""
        return functools.partial(call, op, runner)

    def rng_seed(self, key: Any) -> Any:
        """`key` itself, whose data it is."""
        if isinstance(key, mx.array) and key.ndim > 1:
            raise ArgumentError(
                f"rng is an array of keys, with data of shape {list(key.shape)}. Pass one key."
            )
        return key

    def fresh_seed(self) -> None:
        """Nothing: MLX may run a call again for a derivative."""
        return

    def is_compiling(self) -> bool:
        """Never: MLX runs the code that it compiles."""
        return False

    def is_staged(self, x: Any) -> bool:
        """Never: what stands for an array in a transformation is an array like others."""
        return False

    suspend_transforms = staticmethod(release_lock)
    check_gradients = staticmethod(check_gradients)
    pullback = staticmethod(pullback)


TARGET = MlxTarget()
