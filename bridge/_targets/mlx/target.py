"""The target MLX: how its code calls functions of other frameworks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import release_lock
from bridge._core.errors import ArgumentError
from bridge._core.op import Arrays, Op
from bridge._core.protocols import Executor
from bridge._targets.mlx.call import call
from bridge._targets.mlx.gradcheck import check_gradients, pullback


class MlxTarget:
    """Call sites in MLX, whose transformations run Python, mostly on arrays with values."""

    make_module = None

    def module_state(self, x: Any) -> None:
        """Return None: no module is made here."""
        del x

    def make_native(self, op: Op, runner: Executor, _: Any) -> Callable[..., Arrays]:
        """Make a function of MLX arrays that works in all transformations except `mx.compile`."""
        return functools.partial(call, op, runner)

    def key_data(self, key: Any, *, batch_count: int = 0) -> Any:
        """Return `key` itself, since a key of MLX is an array of integers."""
        if isinstance(key, mx.array) and key.ndim > 1 + batch_count:
            raise ArgumentError(
                f"rng is an array of keys, with data of shape {list(key.shape)}. Pass one key."
            )
        return key

    def fresh_seed(self, sizes: Sequence[int] = ()) -> None:
        """Return None: MLX may run a call again for a derivative, so it must be pure."""
        return

    def is_tracing_bytecode(self) -> bool:
        """Return False: MLX runs the code that it compiles, rather than reading it."""
        return False

    def needs_staging(self, x: Any) -> bool:
        """Return False: in transformations MLX uses ordinary arrays, not symbols."""
        return False

    suspend_transforms = staticmethod(release_lock)
    check_gradients = staticmethod(check_gradients)
    pullback = staticmethod(pullback)


TARGET = MlxTarget()
