"""Modules of other frameworks as `torch.nn.Module`.

NOTE [what stands in place of a parameter]
FSDP2, `torch.func.functional_call` and `parametrize` put other tensors where a parameter was, so
parameters and buffers are read as attributes of their owners, on each call.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bridge._arrays.torch.upstream.pytrees import pytree
from bridge._core.errors import ArgumentError
from bridge._core.pure_module import ModuleState, PureModule

# The original name, the owner of the tensor and its name there.
_Place = tuple[str, torch.nn.Module, str]


class Group(torch.nn.Module):
    """Parameters and buffers whose names begin alike."""

    def extra_repr(self) -> str:
        """Return the shapes of the parameters."""
        return ", ".join(
            f"{name}={list(x.shape)}" for name, x in self._parameters.items() if x is not None
        )


class BridgedModule(torch.nn.Module):
    """A module of another framework, which computes there.

    Parameters, buffers and groups have the names of the original. Random numbers follow from
    torch's generator, or from a key, `rng=`. In training, new values of buffers are written into
    them.
    """

    def __init__(
        self,
        pure: PureModule,
        function: Callable[..., Any],
        params: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__()
        self._pure, self._function = pure, function
        self._param_names = [*params]
        self._buffer_names = [*buffers]
        for name, value in params.items():
            self._register(name, value.clone(memory_format=torch.contiguous_format), trained=True)
        for name, value in buffers.items():
            self._register(name, value.clone(memory_format=torch.contiguous_format), trained=False)
        for part, training in zip(pure.parts, pure.read_modes(), strict=True):
            self._group(part.split(".") if part else ()).train(training)

    def _register(self, name: str, value: torch.Tensor, *, trained: bool) -> None:
        *groups, leaf = name.split(".")
        owner, leaf = self._group(groups), _free_name(leaf)
        if hasattr(owner, leaf):
            raise ArgumentError(
                f"{self._pure.__name__} has two arrays or groups that torch would call "
                f"{name!r}. Rename one of them."
            )
        if trained and (value.is_floating_point() or value.is_complex()):
            owner.register_parameter(leaf, torch.nn.Parameter(value))
        else:
            owner.register_buffer(leaf, value)

    def _group(self, names: Sequence[str]) -> torch.nn.Module:
        """Return the submodule of a group, which is made if there is none."""
        owner: torch.nn.Module = self
        for name in map(_free_name, names):
            if not isinstance(getattr(owner, name, None), torch.nn.Module):
                owner.add_module(name, Group())
            owner = getattr(owner, name)
        return owner

    def _owner(self, path: str) -> torch.nn.Module:
        owner: torch.nn.Module = self
        for name in path.split(".") if path else ():
            owner = getattr(owner, _free_name(name))
        return owner

    def _read(self, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return tensors by their original names: NOTE [what stands in place of a parameter]."""
        tensors: dict[str, torch.Tensor] = {}
        for name in names:
            path, _, leaf = name.rpartition(".")
            tensors[name] = getattr(self._owner(path), _free_name(leaf))
        return tensors

    def _modes(self) -> tuple[bool, ...]:
        return tuple([self._owner(part).training for part in self._pure.parts])

    def forward(self, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
        """Call the original module, or another method of it, with the tensors of now.

        Args:
            *args: Positional arguments of the module.
            method: The name of the method to call, by default the one it was wrapped with.
            **kwargs: Keyword arguments of the module; `rng` is a key for its random numbers.
        """
        params, buffers = self._read(self._param_names), self._read(self._buffer_names)
        args, kwargs = _promote_for_autocast(params, args, kwargs)
        modes = self._modes()
        inputs = buffers
        if any(modes):  # the buffers are written to below, which a later backward must not see
            inputs = {name: buffer.detach().clone() for name, buffer in buffers.items()}
        output, new_buffers = self._function((modes, method), params, inputs, *args, **kwargs)
        if any(modes):
            with torch.no_grad():
                for name, value in new_buffers.items():
                    buffers[name].copy_(value)
        return output

    def extra_repr(self) -> str:
        """Return the wrapper and the class of the module."""
        return f"{self._pure.framework}2torch({self._pure.__name__})"

    def __repr__(self) -> str:
        return self.extra_repr()

    def state(self) -> ModuleState:
        """Return what it holds now."""
        detach = lambda tensors: {name: x.detach() for name, x in tensors.items()}
        params, buffers = self._read(self._param_names), self._read(self._buffer_names)
        return ModuleState(self._pure, self._modes(), detach(params), detach(buffers))


def module_state(x: Any) -> ModuleState | None:
    """Return what `x` holds if it is a bridged module."""
    return x.state() if isinstance(x, BridgedModule) else None


@functools.cache
def _free_name(name: str) -> str:
    """Return the name of an attribute; one that every `nn.Module` has itself gets `_` behind it."""
    is_used = hasattr(torch.nn.Module, name) or name in _OWN_ATTRIBUTES
    return f"{name}_" if is_used else name


_OWN_ATTRIBUTES = {
    *("_pure", "_function", "_param_names", "_buffer_names"),
    *vars(torch.nn.Module()),
    *vars(BridgedModule),
}


def _promote_for_autocast(
    params: Mapping[str, torch.Tensor], args: Any, kwargs: Any
) -> tuple[Any, Any]:
    """Within autocast, widen floating-point arguments to the dtype of parameters.

    As torch does with operators that take the widest dtype of their arguments; others would refuse
    what comes from a layer in half precision.
    """
    dtypes = [x.dtype for x in params.values() if x.is_floating_point()]
    first = next(iter(params.values()), None)
    if not dtypes or first is None or not torch.is_autocast_enabled(first.device.type):
        return args, kwargs
    widest = functools.reduce(torch.promote_types, dtypes)

    def widen(x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.promote_types(widest, x.dtype)) if x.is_floating_point() else x

    return pytree.tree_map_only(torch.Tensor, widen, (args, kwargs))
