"""Modules of torch as values and pure functions of them."""

import contextlib
from collections.abc import Callable, Generator, Mapping
from typing import Any

import torch

from bridge._errors import RangeError

Tensors = dict[str, torch.Tensor]
Modes = tuple[bool, ...]


def taken_apart(
    module: torch.nn.Module, *, wide: bool
) -> tuple[Callable[..., Any], Callable[[], Modes], Tensors, Tensors]:
    """A pure function of modes, parameters, buffers and arguments; the modes; both as they are.

    Parameters that are tied are one parameter, by the first of their names. Unless integers may be
    `wide`, buffers of 64-bit integers, which torch counts in, are of 32 bits outside.
    """
    own = {name: buffer.dtype for name, buffer in module.named_buffers()}

    def apply(modes: Modes, params: Tensors, buffers: Tensors, *args: Any, **kwargs: Any) -> Any:
        inner = {name: buffer.to(own.get(name)) for name, buffer in buffers.items()}
        state = {**params, **inner}  # where functional_call writes buffers that are set anew
        with _in_modes(module, modes):
            output = torch.func.functional_call(module, state, args, kwargs)
        return output, {name: state[name].to(buffer.dtype) for name, buffer in buffers.items()}

    params = {name: value.detach() for name, value in module.named_parameters()}
    buffers = {name: value.detach() for name, value in module.named_buffers()}
    if not wide:
        buffers = {name: _narrowed(name, value) for name, value in buffers.items()}
    return apply, lambda: _modes(module), params, buffers


def _modes(module: torch.nn.Module) -> Modes:
    return tuple(part.training for part in module.modules())


@contextlib.contextmanager
def _in_modes(module: torch.nn.Module, modes: Modes) -> Generator[None]:
    """The module in training or evaluation, part by part, as it was when it was called."""
    before = _modes(module)
    try:
        _set(module, modes)
        yield
    finally:
        _set(module, before)


def _set(module: torch.nn.Module, modes: Modes) -> None:
    for part, mode in zip(module.modules(), modes, strict=True):
        part.training = mode


_NARROW: Mapping[torch.dtype, torch.dtype] = {
    torch.int64: torch.int32,
    torch.uint64: torch.uint32,
}


def _narrowed(name: str, value: torch.Tensor) -> torch.Tensor:
    small = value.to(_NARROW.get(value.dtype, value.dtype))
    if (small != value).any():
        raise RangeError(
            f"buffer {name} is {str(value.dtype).removeprefix('torch.')}{list(value.shape)}, with "
            "values that need 64 bits. Wrap the module in 64-bit mode: "
            'jax.config.update("jax_enable_x64", True).'
        )
    return small
