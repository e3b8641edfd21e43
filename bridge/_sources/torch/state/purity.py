"""A check that a module, while it is called, uses only the tensors that were put into it.

NOTE [impure modules]
A module may read a parameter past its attribute, by a list of parameters say; or change one in
place; or keep a state in an attribute. As a pure function of parameters and buffers it would then
use other tensors than those passed, or lose its changes. So the operands of its operators are
observed.
"""

import contextlib
from collections.abc import Collection, Generator, Mapping

import torch

from bridge._arrays.torch.upstream.tensors import is_real, storage_id
from bridge._core.errors import ArgumentError
from bridge._core.pure_module import changed_constant_error
from bridge._sources.torch.state.operands import OperandObserver
from bridge._sources.torch.state.replaced_tensors import bypass_message

LOST = (
    "the new value would be lost. Make it a buffer, by `register_buffer`: new buffers are returned."
)


class Purity:
    """Observes how a module `name` uses tensors: NOTE [impure modules].

    It is made before the `tensors` that are passed are put into the module. Of these, parameters
    and `constants` may not change.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        name: str,
        tensors: Mapping[str, torch.Tensor],
        constants: Collection[str] = (),
    ) -> None:
        self._module, self._name, self._constants = module, name, constants
        own = [*module.named_parameters(), *module.named_buffers()]
        self._own: dict[int | None, str] = {
            key: label for label, x in own if (key := storage_id(x))
        }
        self._passed: dict[int | None, str] = {
            key: label for label, x in tensors.items() if (key := storage_id(x))
        }
        self._parameters = {label for label, _ in module.named_parameters()}
        self._attributes = {
            (part, label): x
            for part in module.modules()
            for label, x in vars(part).items()
            if isinstance(x, torch.Tensor)
        }
        self._read: set[int] = set()
        self._violation, self._changed_constant = "", ""
        self.written: set[str] = set()

    @contextlib.contextmanager
    def watch(self) -> Generator[None]:
        """Observe what the module computes within, and raise at the end if it is impure."""
        with OperandObserver(self._look):
            yield
        if self._violation:
            raise ArgumentError(f"{self._name} {self._violation}")
        if self._changed_constant:
            raise changed_constant_error(self._name, self._changed_constant)
        for (part, label), x in self._attributes.items():
            if id(x) in self._read and getattr(part, label, None) is not x:
                raise ArgumentError(
                    f"{self._name} reads its attribute `{label}`, a tensor, and replaces it, and "
                    f"{LOST}"
                )

    def _look(self, x: torch.Tensor, *, written: bool) -> None:
        """Note a tensor that an operator takes, and a violation if it may not take it."""
        if is_real(x):
            self._read.add(id(x))
        key = storage_id(x)
        # Raised later, since Python's operators would turn an error within into a TypeError.
        if key in self._own and key not in self._passed:
            self._violation = bypass_message(self._own[key])
        elif written and self._passed.get(key) in self._parameters:
            self._violation = f"changes its parameter `{self._passed[key]}` in place, and {LOST}"
        elif written and self._passed.get(key) in self._constants:
            self._changed_constant = self._passed[key]
        elif written and key in self._passed:
            self.written.add(self._passed[key])
