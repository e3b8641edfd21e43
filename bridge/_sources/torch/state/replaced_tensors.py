"""Replacement of the tensors that a module holds, until they are restored.

NOTE [as long as the derivative]
The backward pass of an `autograd.Function` may read the module again: reversible layers, adjoint
methods and checkpoints do. So tensors that were put into a module stay there until the capture, or
the call with its derivative, is over, and not only until the forward pass is over.
"""

import contextlib
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import torch

from bridge._arrays.torch.upstream.capture_settings import without_parametrization_cache
from bridge._arrays.torch.upstream.tensors import (
    has_post_accumulate_hooks,
    hooks_of,
    member_dicts,
    storage_id,
    tensors_of,
)
from bridge._core.errors import NoRuleError

# Modules, and the settings that capturing changes, are shared by all threads of a process.
SWAP_LOCK = threading.RLock()


class _Replacements(threading.local):
    """The replacements in this thread.

    Attributes:
        stack: Restores what modules held before.
        names: The names of the tensors that were replaced, by their `storage_id`.
        backward_setup: Puts the same tensors in again before a later backward pass.
    """

    stack: contextlib.ExitStack | None = None
    names: Mapping[int, str] = {}
    backward_setup: Callable[[], None] | None = None


_current = _Replacements()


@contextlib.contextmanager
def restoring() -> Generator[None]:
    """Restore at the end what modules held before: NOTE [as long as the derivative]."""
    outer = _current.stack, _current.names, _current.backward_setup
    with contextlib.ExitStack() as stack:
        _current.stack, _current.names, _current.backward_setup = stack, {}, None
        try:
            yield
        finally:
            _current.stack, _current.names, _current.backward_setup = outer


def restore_now() -> None:
    """Restore modules now, since a capture runs a function again from the module as it was."""
    _stack().close()


def replaced_names() -> Mapping[int, str]:
    """Return the names of the tensors that were replaced, by their `storage_id`."""
    return _current.names


def set_backward_setup(setup: Callable[[], None]) -> None:
    """Let `setup` be called before a later backward pass."""
    _current.backward_setup = setup


def backward_setup() -> Callable[[], None] | None:
    """Return what has to be called before a later backward pass, if anything."""
    return _current.backward_setup


def enter_until_restored(context: contextlib.AbstractContextManager[Any]) -> None:
    """Enter `context`, and leave it before modules are restored."""
    _stack().enter_context(context)


def _stack() -> contextlib.ExitStack:
    if _current.stack is None:
        raise RuntimeError("nothing would restore what a module has held.")
    return _current.stack


def replace_tensors(
    module: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    modes: Sequence[bool],
    *,
    already_hooked: bool = False,
) -> None:
    """Let `module` hold these parameters and buffers, and its submodules be in these modes.

    A tensor that the module holds under several names is replaced under each of them. If they are
    `already_hooked`, the new tensors have the hooks of those that they replace.
    """
    stack = _stack()
    stack.enter_context(SWAP_LOCK)
    stack.enter_context(without_parametrization_cache())
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    replacements = {id(own[name]): x for name, x in tensors.items()}
    _current.names = {key: name for name in tensors if (key := storage_id(own[name])) is not None}
    for name, x in () if already_hooked else tensors.items():
        _copy_hooks(name, own[name], x)
    for part, mode in zip(module.modules(), modes, strict=True):
        stack.callback(_restore, [(members, dict(members)) for members in member_dicts(part)])
        for members in tensors_of(part):
            members.update({name: replacements.get(id(x), x) for name, x in members.items()})
        part.training = mode


def _copy_hooks(name: str, own: torch.Tensor, x: torch.Tensor) -> None:
    """Let the gradient of `x` go through the hooks of the parameter that it replaces."""
    hooks, late = hooks_of(own), has_post_accumulate_hooks(own)
    # `requires_grad` is read last, since an observer notes who reads it.
    if not (hooks or late) or not x.requires_grad:
        return
    if late:
        raise NoRuleError(
            f"parameter {name} has a hook that changes its `.grad`, but a derivative is returned "
            "and not added there. Use `register_hook`, or change the gradient that is returned."
        )
    for hook in hooks:
        x.register_hook(hook)


def _restore(saved: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    """Let each dict hold what its copy holds, in the same order."""
    for members, before in saved:
        if list(members) != list(before):
            members.clear()
        members.update(before)


def bypass_message(label: str) -> str:
    """Say that a module uses one of its own tensors while others are put in."""
    return (
        f"uses `{label}` past the attribute of that name, by a list or a closure that holds it, so "
        "that it would not be the one that is passed. Read the attribute of the module where it is "
        "used."
    )
