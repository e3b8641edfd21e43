"""Modules of torch as pure functions of their parameters and buffers."""

import copy
import functools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch

from bridge._arrays.torch import dtype_name, in_dispatch_mode
from bridge._arrays.torch.upstream.tensors import non_tensor_values, tensors_of, unsaved_buffers
from bridge._core.errors import ArgumentError, RangeError
from bridge._core.import_path import check_parameter_names
from bridge._core.pure_module import (
    Modes,
    PureModule,
    Variant,
    bind_method,
    changed_constant_error,
    constants_among,
    statistics_of_parts,
)
from bridge._core.spec import NARROW_INTEGERS, ArraySpec
from bridge._sources.torch.state.attribute_changes import in_trial, watched_call, watched_tensors
from bridge._sources.torch.state.purity import LOST, Purity
from bridge._sources.torch.state.replaced_tensors import (
    enter_until_restored,
    replace_tensors,
    restore_now,
    set_backward_setup,
)
from bridge._sources.torch.state.shared_memory import check_no_shared_memory

Tensors = dict[str, torch.Tensor]


class TorchModule(PureModule):
    """A module of torch as a pure function."""

    framework = "torch"
    # True where a caller without 64-bit integers cannot check the range of those that it gets.
    narrows_buffers = False

    def __init__(self, module: torch.nn.Module, method: Any = None) -> None:
        self._module, self._method, self._name = module, method, type(module).__name__
        self.__name__ = self._name
        self.parts = tuple(name for name, _ in module.named_modules())
        self._dtypes = {name: buffer.dtype for name, buffer in module.named_buffers()}
        self._parameters = [name for name, _ in module.named_parameters()]
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._wide = {name: x.dtype for name, x in tensors.items() if x.dtype in _NARROW}
        self.frozen = [name for name, x in module.named_parameters() if not x.requires_grad]
        self.unsaved = unsaved_buffers(module).intersection(self._dtypes)
        names = {id(buffer): name for name, buffer in module.named_buffers()}
        read = lambda part, name: dict(part.named_buffers(recurse=False)).get(name)
        self.statistics = statistics_of_parts(dict(module.named_modules()), names, read)

    @property
    def managed_modules(self) -> list[torch.nn.Module]:
        """The module and its submodules, which a dry run need not restore."""
        return [*self._module.modules()]

    def referents(self) -> list[Any]:
        """Return what the modules hold besides tensors and submodules."""
        modules = self.managed_modules
        return [x for module in modules for x in [type(module), *non_tensor_values(module)]]

    def __reduce__(self) -> Any:
        return type(self), (self._module, self._method)

    def read_modes(self) -> Modes:
        """Return the modes of the module and its submodules."""
        return tuple(part.training for part in self._module.modules())

    def find_own_train(self) -> str | None:
        """Return the class of a part whose own `train` sets other modes than all, if any.

        Such methods are called for that, and the modes set back.
        """
        parts, before = self.managed_modules, self.read_modes()
        own = next((type(x) for x in parts if type(x).train is not torch.nn.Module.train), None)
        if own is None:
            return None
        modes = [[x.training for x in self._module.train(mode).modules()] for mode in (False, True)]
        for part, mode in zip(parts, before, strict=True):
            part.training = mode
        sets_all = not any(modes[0]) and all(modes[1])
        return None if sets_all else own.__name__

    def restore(self, modes: Modes, params: Any, buffers: Any) -> torch.nn.Module:
        """Make a copy of the module, in these modes and with these tensors."""
        self._check_values({**params, **buffers})
        twin = self._copy_module()
        if any(x.is_meta for x in [*twin.parameters(), *twin.buffers()]):
            twin.to_empty(device="cpu")  # all is filled in
        tensors = {**dict(twin.named_parameters()), **dict(twin.named_buffers())}
        with torch.no_grad():
            for name, value in {**params, **buffers}.items():
                tensors[name].copy_(value)
        for part, training in zip(twin.modules(), modes, strict=True):
            part.training = training
        return twin

    def _copy_module(self) -> torch.nn.Module:
        try:
            return copy.deepcopy(self._module)
        except RuntimeError as error:
            for prefix, part in self._module.named_modules():
                for name, x in vars(part).items():
                    if isinstance(x, torch.Tensor) and not x.is_leaf:
                        raise _copy_error(self._name, f"{prefix}.{name}".strip(".")) from error
            raise

    def __call__(
        self, variant: Variant, params: Any, buffers: Any, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, Tensors]:
        """Return the output of the module, and its buffers after the call.

        In training it returns all of them, in evaluation those that it has changed.
        """
        modes, method = variant
        restore_now()
        params, buffers = (watched_tensors(self._module, x) for x in (params, buffers))
        constants = constants_among(params, self._parameters, self._dtypes)
        self._check("params", params, [*self._parameters, *constants])
        self._check("buffers", buffers, [x for x in self._dtypes if x not in constants])
        own_params, own_buffers = (
            {name: self._widen(name, x) for name, x in xs.items()} for xs in (params, buffers)
        )
        tensors = {**own_params, **own_buffers}
        aliases = self._buffer_aliases()
        purity = Purity(self._module, self._name, tensors, constants)
        replace_tensors(self._module, tensors, modes)
        call = bind_method(self._module, method or self._method)
        if in_dispatch_mode():  # a capture checks its constants at its end
            with purity.watch(), watched_call(self._module):
                output = call(*args, **kwargs)
        else:
            enter_until_restored(purity.watch())
            with watched_call(self._module):
                output = call(*args, **kwargs)
            now = [*self._module.named_parameters(), *self._module.named_buffers()]
            after_call = {name: x for name, x in now if name in tensors}
            setup = functools.partial(self._replace_for_backward, after_call, modes, constants)
            set_backward_setup(setup)
        self._check_kept(own_params)
        new_buffers = self._new_buffers(aliases)
        self._check_dtypes(own_buffers, new_buffers)
        returns_all = any(modes) or in_trial()
        names = buffers if returns_all else _changed(own_buffers, new_buffers, purity.written)
        return output, {name: self._narrow(new_buffers[name], buffers[name]) for name in names}

    def _narrow(self, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
        """Return a new buffer with the dtype that its caller has it in."""
        return new.to(old.dtype) if self.narrows_buffers else new

    def _widen(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Return a tensor with the 64-bit integers that it has in the module."""
        own = self._wide.get(name)
        return x if own is None or x.dtype != _NARROW[own] else x.to(own)

    def _check_dtypes(self, before: Tensors, after: Tensors) -> None:
        """Raise if the module has given a buffer another dtype."""
        for name, buffer in before.items():
            old, new = (dtype_name(x.dtype) for x in (buffer, after[name]))
            if old != new:
                raise ArgumentError(
                    f"{self._name} replaces its buffer {name}, which is {old}, by one of {new} "
                    "while it is called, and a buffer keeps its dtype. Register it with that "
                    "dtype, or convert the new value."
                )

    def _replace_for_backward(
        self, tensors: Tensors, modes: Modes, constants: Sequence[str]
    ) -> None:
        """Let the module hold what it held after its call, for a later backward pass."""
        purity = Purity(self._module, self._name, tensors, constants)
        replace_tensors(self._module, tensors, modes, already_hooked=True)
        enter_until_restored(purity.watch())

    def _new_buffers(self, aliases: Sequence[Sequence[str]]) -> Tensors:
        """Return the buffers by name; raise unless buffers that were one, `aliases`, still are."""
        buffers = dict(self._module.named_buffers(remove_duplicate=False))
        for first, *others in aliases:
            if first not in buffers:
                raise ArgumentError(
                    f"{self._name} has lost its buffer {first} while it was called, and each call "
                    "has to return a tensor for it. Store what can be None in another attribute."
                )
            if any(buffers.get(name) is not buffers[first] for name in others):
                raise ArgumentError(
                    f"{self._name} replaces buffer {first}, but not where it is called "
                    f"{others[0]}, so that they are no longer one. Change it in place."
                )
        return buffers

    def _check_kept(self, params: Tensors) -> None:
        """Raise if the module has replaced a parameter, or a buffer that is a constant."""
        now = {**dict(self._module.named_parameters()), **dict(self._module.named_buffers())}
        for name, x in params.items():
            if now.get(name) is not x and name in self._dtypes:
                raise changed_constant_error(self._name, name)
            if now.get(name) is not x:
                raise ArgumentError(f"{self._name} replaces its parameter `{name}`, and {LOST}")

    def _buffer_aliases(self) -> list[list[str]]:
        """Return for each buffer its names."""
        names: dict[int, list[str]] = {}
        for name, buffer in self._module.named_buffers(remove_duplicate=False):
            names.setdefault(id(buffer), []).append(name)
        return list(names.values())

    def _check(self, argument: str, values: Any, names: Sequence[str]) -> None:
        """Raise unless `values` are tensors of these names."""
        check_parameter_names(argument, values, names, self._name)
        self._check_values(values)

    def _check_values(self, arrays: Mapping[str, Any]) -> None:
        """Raise if specs stand for arrays, as those of a module on meta."""
        for name, x in arrays.items():
            if not isinstance(x, torch.Tensor):
                raise ArgumentError(
                    f"{name!r} of {self._name} is a {type(x).__name__}, which has no values. Pass "
                    "an array in its place."
                )


def _changed(before: Tensors, after: Tensors, written: Collection[str]) -> list[str]:
    """Return the names of the buffers that were written to or replaced."""
    return [name for name, x in before.items() if name in written or after[name] is not x]


def take_apart(
    module: torch.nn.Module, *, method: Any, allow_64_bits: bool
) -> tuple[PureModule, dict[str, Any], dict[str, Any]]:
    """Return a module as a pure function, its parameters and its buffers.

    Tied parameters are one parameter, under the first of their names. Unless `allow_64_bits`,
    tensors of 64-bit integers, as torch counts batches in, have 32 bits outside of the module.
    """
    _check_is_wrappable(module)
    params = {name: value.detach() for name, value in module.named_parameters()}
    buffers = {name: value.detach() for name, value in module.named_buffers()}
    if not allow_64_bits:
        params = {name: _narrow("parameter", name, value) for name, value in params.items()}
        buffers = {name: _narrow("buffer", name, value) for name, value in buffers.items()}
    return TorchModule(module, method), _values_or_specs(params), _values_or_specs(buffers)


def _values_or_specs(tensors: Tensors) -> dict[str, Any]:
    """Return tensors, and the specs of those that have no values."""
    return {
        name: ArraySpec(tuple(x.shape), dtype_name(x.dtype)) if x.is_meta else x
        for name, x in tensors.items()
    }


def _check_is_wrappable(module: torch.nn.Module) -> None:
    """Raise if the module has no parameters yet, or parameters that cannot be replaced."""
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
    check_no_shared_memory(name, [*module.named_parameters(), *module.named_buffers()])


def _copy_error(module: str, attribute: str) -> ArgumentError:
    return ArgumentError(
        f"{module} cannot be given back, since torch copies no tensor that was computed from "
        f"parameters, and its attribute `{attribute}` is one. Instead of "
        "torch.nn.utils.weight_norm use torch.nn.utils.parametrizations.weight_norm; end pruning "
        "by torch.nn.utils.prune.remove; compute other such tensors in `forward`."
    )


_NARROW: Mapping[torch.dtype, torch.dtype] = {
    getattr(torch, wide): getattr(torch, narrow) for wide, narrow in NARROW_INTEGERS.items()
}


def _narrow(kind: str, name: str, value: torch.Tensor) -> torch.Tensor:
    """Return a tensor with integers of at most 32 bits; raise if its values need more."""
    if value.dtype not in _NARROW:
        return value
    narrow = value.to(_NARROW[value.dtype])
    if not value.is_meta and (narrow.to(value.dtype) != value).any():
        raise RangeError(
            f"{kind} {name} is {dtype_name(value.dtype)}{list(value.shape)}, with "
            "values that need 64 bits. Wrap the module in 64-bit mode: "
            'jax.config.update("jax_enable_x64", True).'
        )
    return narrow
