"""Modules of torch as values and pure functions of them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bridge._arrays.torch import is_recording
from bridge._core.errors import ArgumentError, RangeError
from bridge._core.import_path import check_parameter_names
from bridge._sources.torch.internals import other_values, tensors_of
from bridge._sources.torch.state.purity import LOST, Purity
from bridge._sources.torch.state.replaced_tensors import (
    enter_until_restored,
    replace_tensors,
    restore_now,
    set_rerun,
)

Tensors = dict[str, torch.Tensor]
Modes = tuple[bool, ...]


class PureModule:
    """A module as a pure function of modes, parameters, buffers and arguments."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module, self._name = module, type(module).__name__
        self._dtypes = {name: buffer.dtype for name, buffer in module.named_buffers()}
        self._parameters = [name for name, _ in module.named_parameters()]

    @property
    def managed_modules(self) -> list[torch.nn.Module]:
        """The module and its parts, which get back by themselves what they held."""
        return [*self._module.modules()]

    def captured_values(self) -> list[Any]:
        """What they hold besides tensors and parts."""
        parts = self.managed_modules
        return [x for part in parts for x in [type(part), *other_values(part)]]

    def __call__(
        self, modes: Modes, params: Tensors, buffers: Tensors, *args: Any, **kwargs: Any
    ) -> Any:
        """The output of the module, and its buffers afterwards."""
        self._check("params", params, self._parameters)
        self._check("buffers", buffers, list(self._dtypes))
        inner = {name: buffer.to(self._dtypes[name]) for name, buffer in buffers.items()}
        given = {**params, **inner}
        restore_now()
        places, purity = self._places(), Purity(self._module, self._name, given)
        replace_tensors(self._module, given, modes)
        if is_recording():  # which looks at its constants when it is done
            with purity.watch():
                output = self._module(*args, **kwargs)
        else:
            enter_until_restored(purity.watch())
            output = self._module(*args, **kwargs)
            now = [*self._module.named_parameters(), *self._module.named_buffers()]
            held = {name: x for name, x in now if name in given}
            set_rerun(functools.partial(self._put_in_again, held, modes))
        self._check_set(params)
        now = self._buffers_now(places)
        return output, {name: now[name].to(buffer.dtype) for name, buffer in buffers.items()}

    def _put_in_again(self, held: Tensors, modes: Modes) -> None:
        """Let the module hold what it held when it had been called, for a later backward pass."""
        purity = Purity(self._module, self._name, held)
        replace_tensors(self._module, held, modes, hooked=True)
        enter_until_restored(purity.watch())

    def _buffers_now(self, places: Sequence[Sequence[str]]) -> Tensors:
        """The buffers by name; raises if those that were one, at these places, are no longer."""
        now = dict(self._module.named_buffers(remove_duplicate=False))
        for first, *others in places:
            if first not in now:
                raise ArgumentError(
                    f"{self._name} has lost its buffer {first} while it was called, and each call "
                    "has to return a tensor for it. Keep what is None at times elsewhere."
                )
            if any(now.get(name) is not now[first] for name in others):
                raise ArgumentError(
                    f"{self._name} sets buffer {first} anew, but not where it is called "
                    f"{others[0]}, so that they are no longer one. Change it in place."
                )
        return now

    def _check_set(self, params: Tensors) -> None:
        """Raise if the module has set a parameter anew."""
        now = dict(self._module.named_parameters())
        changed = [name for name, x in params.items() if now.get(name) is not x]
        if changed:
            raise ArgumentError(f"{self._name} sets its parameter `{changed[0]}` anew, and {LOST}")

    def _places(self) -> list[list[str]]:
        """For each buffer its names."""
        names: dict[int, list[str]] = {}
        for name, buffer in self._module.named_buffers(remove_duplicate=False):
            names.setdefault(id(buffer), []).append(name)
        return list(names.values())

    def _check(self, argument: str, values: Any, names: Sequence[str]) -> None:
        """Raise unless `values` are tensors of these names."""
        check_parameter_names(argument, values, names, self._name)


def functionalize(
    module: torch.nn.Module, *, allow_64_bits: bool
) -> tuple[Callable[..., Any], Callable[[], Modes], Tensors, Tensors]:
    """A pure function of modes, parameters, buffers and arguments; the modes; both as they are.

    Parameters that are tied are one parameter, by the first of their names. Unless 64-bit
    integers are allowed, buffers of them, which torch counts in, are of 32 bits outside.
    """
    _check_kind(module)
    params = {name: value.detach() for name, value in module.named_parameters()}
    buffers = {name: value.detach() for name, value in module.named_buffers()}
    if not allow_64_bits:
        buffers = {name: _check_narrowed(name, value) for name, value in buffers.items()}
    return PureModule(module), lambda: _modes(module), params, buffers


def _check_kind(module: torch.nn.Module) -> None:
    """Raise for a module that has no parameters yet, or whose parameters cannot be replaced."""
    name = type(module).__name__
    for label, x in [*module.named_parameters(), *module.named_buffers()]:
        if torch.nn.parameter.is_lazy(x):
            raise ArgumentError(
                f"{name} is lazy: `{label}` has no shape before the module is called. Call it once "
                "with a tensor like those it will take, then wrap it."
            )
    if not all(isinstance(tensors_of(part)[0], dict) for part in module.modules()):
        raise ArgumentError(
            f"{name} is compiled by torch.jit, which holds its parameters where they cannot be "
            "replaced by others. Wrap the module that it was compiled from."
        )


def _modes(module: torch.nn.Module) -> Modes:
    return tuple(part.training for part in module.modules())


_NARROW: Mapping[torch.dtype, torch.dtype] = {
    torch.int64: torch.int32,
    torch.uint64: torch.uint32,
}


def _check_narrowed(name: str, value: torch.Tensor) -> torch.Tensor:
    small = value.to(_NARROW.get(value.dtype, value.dtype))
    if (small != value).any():
        raise RangeError(
            f"buffer {name} is {str(value.dtype).removeprefix('torch.')}{list(value.shape)}, with "
            "values that need 64 bits. Wrap the module in 64-bit mode: "
            'jax.config.update("jax_enable_x64", True).'
        )
    return small
