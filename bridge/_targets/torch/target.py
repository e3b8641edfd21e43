"""PyTorch as a target of bridged functions."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bridge._arrays.torch import suspend_transforms
from bridge._arrays.torch.upstream.call_sites import is_between_compiled_parts
from bridge._arrays.torch.upstream.compilers import needs_staging
from bridge._core.op import Arrays, Op
from bridge._core.protocols import Executor
from bridge._lowering.torch import execute_lowered
from bridge._targets.torch import dynamo as dynamo, operator_kernels as operator_kernels
from bridge._targets.torch.call import native_call
from bridge._targets.torch.module import BridgedModule, copy_before_write
from bridge._targets.torch.saving_choice import choose_saving
from bridge._targets.torch.staging import stage, staged_signature_and_spec


class TorchTarget:
    """Call sites in PyTorch."""

    def make_native(self, op: Op, runner: Executor, _: Any) -> Callable[..., Arrays]:
        """Return `op` as a function of tensors under every transformation of torch."""
        return native_call(op, runner.execute)

    execute_lowered = staticmethod(execute_lowered)
    make_module = BridgedModule
    copy_before_write = staticmethod(copy_before_write)

    def key_data(self, key: Any, *, batch_count: int = 0) -> Any:
        """Return `key` itself: torch has no keys."""
        return key

    def fresh_seed(
        self,
        device: str,
        sizes: Sequence[int] = (),
        *,
        of_module: bool = False,
        drawn: bool = True,
    ) -> torch.Tensor:
        """Draw integers with torch's generator, which a checkpoint, for one, can restore."""
        # Two words, since JAX in 32-bit mode takes no integers of 64 bits.
        shape = (*sizes, 2)
        if not drawn:
            return torch.zeros(shape, dtype=torch.int32, device=device)
        return torch.randint(-(2**31), 2**31, shape, dtype=torch.int32, device=device)

    is_between_compiled_parts = staticmethod(is_between_compiled_parts)
    choose_saving = staticmethod(choose_saving)
    suspend_transforms = computing_now = staticmethod(suspend_transforms)
    needs_staging = staticmethod(needs_staging)
    staged_signature_and_spec = staticmethod(staged_signature_and_spec)
    stage = staticmethod(stage)

    def check_gradients(
        self,
        fn: Callable[..., Arrays],
        xs: Sequence[torch.Tensor],
        *,
        order: int,
        modes: Sequence[str],
        **options: Any,
    ) -> None:
        """Raise `GradcheckError` unless the derivatives of `fn` agree with finite differences."""
        primals = [x.detach().requires_grad_() for x in xs]
        reverse = "rev" in modes
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input #.* not a double precision")
            torch.autograd.gradcheck(
                fn, primals, check_forward_ad="fwd" in modes, check_backward_ad=reverse, **options
            )
            if order > 1 and reverse:
                torch.autograd.gradgradcheck(fn, primals, **options)

    def pullback(
        self, fn: Callable[..., Arrays], xs: Sequence[torch.Tensor]
    ) -> tuple[Arrays, Callable[[Sequence[Any]], Sequence[Any]]]:
        """Return the results of `fn`, and the function from cotangents to gradients."""
        primals = [x.detach().requires_grad_() for x in xs]
        outputs = fn(*primals)

        def pull(cotangents: Sequence[Any]) -> Sequence[torch.Tensor]:
            return torch.autograd.grad(
                outputs, primals, cotangents, retain_graph=True, materialize_grads=True
            )

        return tuple(y.detach() for y in outputs), pull


TARGET = TorchTarget()
