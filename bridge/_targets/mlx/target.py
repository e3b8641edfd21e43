"""The target MLX: how its code calls functions of other frameworks."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx

from bridge._arrays.mlx import keeps_graphs_for_others, note_thread, release_lock
from bridge._core.errors import ArgumentError
from bridge._core.op import Arrays, Op
from bridge._core.protocols import Executor
from bridge._targets.mlx.call import call
from bridge._targets.mlx.gradcheck import check_gradients, pullback
from bridge._targets.mlx.module import BridgedModule
from bridge._targets.mlx.saving_choice import choose_saving


class MlxTarget:
    """Call sites in MLX, whose transformations run Python, mostly on arrays with values."""

    make_module = BridgedModule
    copy_before_write = execute_lowered = None

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

    def fresh_seed(
        self,
        device: str,
        sizes: Sequence[int] = (),
        *,
        of_module: bool = False,
        drawn: bool = True,
    ) -> Any:
        """Draw a key with `mx.random` for a module, as layers of MLX do; None for a function.

        MLX may run a call again for a derivative. Where it does, this raises for a module.
        """
        if not of_module:
            return None
        if not drawn:
            return mx.zeros((*sizes, 2), mx.uint32)
        if keeps_graphs_for_others():
            raise ArgumentError(
                "a module that draws random numbers is called again in a backward pass, as "
                "mx.checkpoint does, where it would draw others. Pass it a key, `rng=`, that is "
                "an argument of the function."
            )
        note_thread()
        # Of 16 bits each, since integers of MLX are drawn as floats, with 24 bits.
        halves = mx.random.randint(0, 2**16, (2, *sizes, 2), mx.uint32)
        return halves[0] + 2**16 * halves[1]

    def is_between_compiled_parts(self) -> bool:
        """Return False: no compiler reads Python here."""
        return False

    def needs_staging(self, x: Any) -> bool:
        """Return False: in transformations MLX uses ordinary arrays, not symbols."""
        return False

    choose_saving = staticmethod(choose_saving)
    suspend_transforms = computing_now = staticmethod(release_lock)
    check_gradients = staticmethod(check_gradients)
    pullback = staticmethod(pullback)


TARGET = MlxTarget()
