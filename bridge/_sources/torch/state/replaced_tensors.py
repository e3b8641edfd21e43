"""Tensors in place of those that a module holds.

NOTE [as long as the derivative]
The backward pass of an `autograd.Function` may read the module again: reversible layers, adjoint
methods and checkpoints do. So what was put into a module stays there until the capture, or the call
with its derivative, is over, and not only until the forward pass is.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch

from bridge._core.errors import NoRuleError
from bridge._sources.torch.capture.torch_settings import without_parametrization_cache
from bridge._sources.torch.internals import (
    hooks_of,
    is_hooked_after,
    storage_id,
    tensors_of,
)

# Modules, and the settings that capturing changes, are shared by all threads of a process.
SWAP_LOCK = threading.RLock()


class _Open(threading.local):
    """What puts back, in this thread, what modules held before."""

    stack: contextlib.ExitStack | None = None
    own: Mapping[int, str] = {}  # what was put aside, by what tells its memory
    again: Callable[[], None] | None = None  # puts the same in where a backward pass comes later


_open = _Open()


@contextlib.contextmanager
def restoring() -> Generator[None]:
    """Give modules back in the end what was replaced: NOTE [as long as the derivative]."""
    outer = _open.stack, _open.own, _open.again
    with contextlib.ExitStack() as stack:
        _open.stack, _open.own, _open.again = stack, {}, None
        try:
            yield
        finally:
            _open.stack, _open.own, _open.again = outer


def restore_now() -> None:
    """Put back now: a capture runs a function again, from the module as it was."""
    _stack().close()


def own_tensors() -> Mapping[int, str]:
    """The names of the tensors that others were put in place of, by their `storage_id`."""
    return _open.own


def set_rerun(again: Callable[[], None]) -> None:
    """Let a backward pass that comes later be preceded by `again`."""
    _open.again = again


def get_rerun() -> Callable[[], None] | None:
    """What has to precede such a backward pass, if anything."""
    return _open.again


def enter_until_restored(context: contextlib.AbstractContextManager[Any]) -> None:
    """Enter `context`, and leave it before what modules held is put back."""
    _stack().enter_context(context)


def _stack() -> contextlib.ExitStack:
    if _open.stack is None:
        raise RuntimeError("nothing would put back what a module has held.")
    return _open.stack


def replace_tensors(
    module: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    modes: Sequence[bool],
    *,
    hooked: bool = False,
) -> None:
    """Let `module` hold these parameters and buffers, and its parts be in these modes.

    A tensor that the module holds under several names is replaced under each of them. Those that
    are `hooked` already have the hooks of what they stand for.
    """
    stack = _stack()
    stack.enter_context(SWAP_LOCK)
    stack.enter_context(without_parametrization_cache())
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    instead = {id(own[name]): x for name, x in tensors.items()}
    _open.own = {key: name for name in tensors if (key := storage_id(own[name])) is not None}
    for name, x in () if hooked else tensors.items():
        _hook_alike(name, own[name], x)
    for part, mode in zip(module.modules(), modes, strict=True):
        stack.callback(_put_back, [(row, dict(row)) for row in _rows(part)])
        for row in tensors_of(part):
            row.update({name: instead.get(id(x), x) for name, x in row.items()})
        part.training = mode


def _hook_alike(name: str, own: torch.Tensor, x: torch.Tensor) -> None:
    """Let the gradient of `x` go through the hooks of the parameter that it stands for."""
    hooks, late = hooks_of(own), is_hooked_after(own)
    if not (hooks or late) or not x.requires_grad:  # in this order: who asks is noted
        return
    if late:
        raise NoRuleError(
            f"parameter {name} has a hook that changes its `.grad`, and a derivative that is "
            "returned is none. Use `register_hook`, or change the gradient that is returned."
        )
    for hook in hooks:
        x.register_hook(hook)


def _rows(part: torch.nn.Module) -> list[dict[str, Any]]:
    """All that says what a module is; `forward` may set any of it."""
    return [*tensors_of(part), part._modules, part.__dict__]  # pyright: ignore[reportPrivateUsage]


def _put_back(rows: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    for row, before in rows:
        if list(row) != list(before):  # in the order in which it was
            row.clear()
        row.update(before)


def bypass_message(label: str) -> str:
    """What is wrong with a module that reaches one of its own tensors while others are put in."""
    return (
        f"uses `{label}` past the attribute of that name, by a list or a closure that holds it, so "
        "that it would not be the one that is passed. Read the attribute of the module where it is "
        "used."
    )
