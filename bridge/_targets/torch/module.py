"""Modules of other frameworks as `torch.nn.Module`.

NOTE [what stands in place of a parameter]
FSDP2, `torch.func.functional_call` and `parametrize` put other tensors where a parameter was, users
other modules where a group was. So on each call, groups, parameters and buffers are read as
attributes, or where these would be looked up; only their names are made before.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from bridge._arrays.torch.upstream.attributes import Tables, read_tables
from bridge._core.errors import ArgumentError
from bridge._core.pure_module import Modes, ModuleState, ModuleView, PureModule
from bridge._targets.torch.autocast import promote
from bridge._targets.torch.module_places import Group, GroupPlace, Place, Places

_Tensors = dict[str, torch.Tensor]


class BridgedModule(torch.nn.Module, ModuleView):
    """A module of another framework, which computes there.

    Parameters, buffers and groups have the names of the original; a name that every `nn.Module` has
    itself gets `_` behind it. Modes are those of the parts: `layer.norm.eval()`. Random numbers
    follow from torch's generator, or from a key, `rng=`. New values of buffers that a call
    changes are written into them. Within `torch.autocast`, floating-point parameters and arguments
    are widened to the widest dtype among them, and nothing is narrowed.
    """

    _pure: PureModule
    _boxed_function: tuple[Callable[..., Any]]
    _groups: tuple[GroupPlace, ...]
    _param_places: tuple[Place, ...]
    _buffer_places: tuple[Place, ...]
    _part_numbers: tuple[int, ...]

    def __init__(
        self,
        pure: PureModule,
        function: Callable[..., Any],
        params: Mapping[str, torch.Tensor],
        buffers: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__()
        self._pure = pure
        # In a tuple: Dynamo of torch 2.11 takes an attribute with `__get__` for a method.
        self._boxed_function = (function,)
        places = Places(self, pure.__name__)
        self._param_places = places.register(params, trained=True)
        self._buffer_places = places.register(buffers, trained=False)
        self._part_numbers = tuple(map(places.group, pure.parts))
        self._groups = tuple(places.groups)
        for number, training in zip(self._part_numbers, pure.read_modes(), strict=True):
            places.owner(number).train(training)

    def forward(self, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
        """Call the original module, or another method of it, with the tensors of now.

        Args:
            *args: Positional arguments of the module.
            method: The name of the method to call, by default the one it was wrapped with.
            **kwargs: Keyword arguments of the module; `rng` is a key for its random numbers.
        """
        params, buffers, modes = self._read()
        variant = modes, method
        params, inputs, (args, kwargs) = promote(params, buffers, (args, kwargs))
        try:
            output, new_buffers = self._boxed_function[0](variant, params, inputs, *args, **kwargs)
        except ArgumentError as error:
            _check_local({**params, **buffers}, self._pure.__name__, error)
            raise
        if new_buffers:  # NOTE [buffers that a call changes]
            with torch.no_grad():
                for name, value in new_buffers.items():
                    buffers[name].copy_(value)
        return output

    def explain(self, *args: Any, method: str | None = None, **kwargs: Any) -> Any:
        """Explain what a call of the module is, without making it: `BridgedFunction.explain`.

        Args:
            *args: As of a call.
            method: As of a call.
            **kwargs: As of a call.
        """
        params, buffers, modes = self._read()
        params, buffers, (args, kwargs) = promote(params, buffers, (args, kwargs))
        function: Any = self._boxed_function[0]
        return function.explain((modes, method), params, buffers, *args, **kwargs)

    def _read(self) -> tuple[_Tensors, _Tensors, Modes]:
        """Return parameters, buffers and modes: NOTE [what stands in place of a parameter]."""
        read = _read_nothing if torch.compiler.is_dynamo_compiling() else read_tables
        owners, tables = [self], [read(self, _CLASSES)]
        for number, name in self._groups:
            group = tables[number][2].get(name)
            if group is None:
                group = getattr(owners[number], name)
            owners.append(group)
            tables.append(read(group, _CLASSES))
        params = _look_up(self._param_places, owners, [table[0] for table in tables])
        buffers = _look_up(self._buffer_places, owners, [table[1] for table in tables])
        return params, buffers, tuple([owners[number].training for number in self._part_numbers])

    def module_state(self) -> ModuleState:
        """Return what the module holds now."""
        params, buffers, modes = self._read()
        params, buffers = (
            {name: x.detach() for name, x in tensors.items()} for tensors in (params, buffers)
        )
        return ModuleState(self._pure, modes, params, buffers)

    def __repr__(self) -> str:
        ways: Any = getattr(self._boxed_function[0], "describe_derivatives", str)()
        return f"{self._pure.framework}2torch({self._pure.__name__}{ways})"


def copy_before_write(buffer: torch.Tensor) -> torch.Tensor:
    """Return a copy of a buffer for a call that is recorded: NOTE [buffers that a call changes]."""
    return buffer.detach().clone() if torch.is_grad_enabled() else buffer


_CLASSES = frozenset({Group, BridgedModule})


def _read_nothing(module: torch.nn.Module, classes: Any) -> Tables:
    """Return no tables, so that compilers see attributes, which they read once and guard."""
    del module, classes
    return {}, {}, {}


def _look_up(
    places: Sequence[Place], owners: Sequence[Any], tables: Sequence[Mapping[str, Any]]
) -> _Tensors:
    """Return tensors by their original names, as attributes where they are in no table."""
    tensors: _Tensors = {}
    for name, number, attribute in places:
        x = tables[number].get(attribute)
        tensors[name] = getattr(owners[number], attribute) if x is None else x
    return tensors


def _check_local(tensors: Mapping[str, torch.Tensor], kind: str, error: ArgumentError) -> None:
    """Raise an error that says more than `error` if a tensor is spread over processes."""
    name = next((name for name, x in tensors.items() if hasattr(x, "to_local")), None)
    if name is not None:
        raise ArgumentError(
            f"{name} of {kind} is a DTensor, spread over several processes. Call `fully_shard` on "
            "the whole module that jax2torch or mlx2torch returns, or on one around it, since its "
            "groups are never called by themselves; to shard it block by block, bridge each block. "
            "For tensor parallelism, bridge a function, and call it by "
            "`torch.distributed.tensor.experimental.local_map`."
        ) from error
