"""Whether a module, while it is called, keeps to the tensors that it was given.

NOTE [past what is given]
A module may reach its parameters past its own attributes, by a list of them say, or change one in
place, or keep a state in an attribute. A pure function of parameters and buffers would then use
others than the given ones, or lose what it has changed. So what operators take is looked at.
"""

import contextlib
from collections.abc import Generator, Mapping

import torch

from bridge._core.errors import ArgumentError
from bridge._sources.torch.internals import is_real, storage_id
from bridge._sources.torch.state.operands import OperandObserver
from bridge._sources.torch.state.replaced_tensors import bypass_message

LOST = (
    "the new value would be lost. Make it a buffer, by `register_buffer`: new buffers are returned."
)


class Purity:
    """What a module `name` does with tensors: NOTE [past what is given].

    It is made of a module as it is, before what is `given` is put in.
    """

    def __init__(
        self, module: torch.nn.Module, name: str, given: Mapping[str, torch.Tensor]
    ) -> None:
        self._module, self._name = module, name
        own = [*module.named_parameters(), *module.named_buffers()]
        self._own: dict[int | None, str] = {
            key: label for label, x in own if (key := storage_id(x))
        }
        self._given: dict[int | None, str] = {
            key: label for label, x in given.items() if (key := storage_id(x))
        }
        self._parameters = {label for label, _ in module.named_parameters()}
        self._attributes = {
            (part, label): x
            for part in module.modules()
            for label, x in vars(part).items()
            if isinstance(x, torch.Tensor)
        }
        self._read: set[int] = set()
        self._wrong = ""

    @contextlib.contextmanager
    def watch(self) -> Generator[None]:
        """Look at what the module computes in here, and raise at the end."""
        with OperandObserver(self._look):
            yield
        if self._wrong:
            raise ArgumentError(f"{self._name} {self._wrong}")
        for (part, label), x in self._attributes.items():
            if id(x) in self._read and getattr(part, label, None) is not x:
                raise ArgumentError(
                    f"{self._name} reads its attribute `{label}`, a tensor, and sets it anew, and "
                    f"{LOST}"
                )

    def _look(self, x: torch.Tensor, *, written: bool) -> None:
        if is_real(x):
            self._read.add(id(x))
        key = storage_id(x)
        # Not raised here, where operators of Python would make a TypeError of their own of it.
        if key in self._own and key not in self._given:
            self._wrong = bypass_message(self._own[key])
        elif written and self._given.get(key) in self._parameters:
            self._wrong = f"changes its parameter `{self._given[key]}` in place, and {LOST}"
