"""A module of any framework as a pure function of its parameters and buffers.

NOTE [modes by part]
Frameworks set the mode of each part of a module on its own: a normalization may be in evaluation
within a module in training. So the modes of a module are a tuple, one for each part that has one,
the whole first. Together with the method that is called they say which function of the module is
meant, and are a static argument of it.
"""

import abc
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

from bridge._core.errors import ArgumentError

Modes = tuple[bool, ...]  # for each part: True in training
Variant = tuple[Modes, str | None]  # the modes, and the method that is called by name, if any
Arrays = Mapping[str, Any]


class PureModule(abc.ABC):
    """A module as a pure function; the values of its parameters and buffers are arguments.

    It is called with a variant, parameters and buffers by name, and the arguments of the module,
    and returns the output and new buffers by name. Those that are missing have not changed. A
    buffer that is passed among the parameters is a constant of this call: a change of it raises.

    Attributes:
        framework: The framework of the module.
        __signature__: The signature, by which arguments are named in errors, or None.
        __name__: The name of the class of the module.
        parts: The names of the parts that have modes of their own, with dots between the names of
            groups; the whole is "", and the first: NOTE [modes by part].
        frozen: The names of parameters that are not trained until their user says so.
        unsaved: The names of buffers that are left out of files of weights.
        statistics: The buffers that are running statistics, each with the name of the part that
            changes it in training; None if any buffer may change, since a user's function says so.
    """

    framework: str
    __signature__: inspect.Signature | None = None
    __name__: str
    parts: tuple[str, ...]
    frozen: Collection[str] = ()
    unsaved: Collection[str] = ()
    statistics: Mapping[str, str] | None = None

    @abc.abstractmethod
    def __call__(
        self, variant: Variant, params: Any, buffers: Any, /, *args: Any, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Call the module; return its output and its new buffers."""

    @abc.abstractmethod
    def read_modes(self) -> Modes:
        """Return the modes that the parts of the original module have."""

    @abc.abstractmethod
    def restore(self, modes: Modes, params: Arrays, buffers: Arrays) -> Any:
        """Make a module like the original one, in these modes and with these arrays."""

    def find_own_train(self) -> str | None:
        """Return the class of a part whose own `train` sets other modes than all, if any."""
        return None

    def __deepcopy__(self, _: Any) -> "PureModule":
        return self  # it is a program; the arrays are copied where they are stored


def constants_among(
    params: Any, param_names: Collection[str], buffer_names: Collection[str]
) -> list[str]:
    """Return the names of the buffers that are passed as constants among all the parameters."""
    if not isinstance(params, Mapping) or any(name not in params for name in param_names):
        return []
    return [name for name in buffer_names if name in params]


def changed_constant_error(module: str, name: str) -> ArgumentError:
    """Return the error of a call that changes a buffer that it was passed as a constant."""
    return ArgumentError(
        f"{module} changes its buffer {name!r}, which is a constant of this call, so that the new "
        f"value would be lost. Name the buffers that change, `changing=[{name!r}]`, where the "
        "module is made."
    )


def statistics_of_parts(
    parts: Mapping[str, Any], names: Mapping[int, str], read: Callable[[Any, str], Any]
) -> dict[str, str]:
    """Return the buffers that are running statistics, each with the name of its part.

    Args:
        parts: The parts of a module by name.
        names: The names of its buffers by the id of the array.
        read: Returns what a part has under a name, or None.
    """
    return {
        names[id(array)]: path
        for path, part in parts.items()
        for setting, own_names in _STATISTICS.items()
        if getattr(part, setting, False)
        for own_name in own_names
        if id(array := read(part, own_name)) in names
    }


# What torch and MLX, and normalizations written like theirs, call the setting and its buffers.
_STATISTICS = {
    "track_running_stats": ("running_mean", "running_var", "num_batches_tracked"),
    "n_power_iterations": ("_u", "_v"),
}


def warn_of_own_train(pure: PureModule) -> None:
    """Warn that modes set part by part pass over a method of the module: NOTE [modes by part]."""
    own = pure.find_own_train()
    if own is not None:
        warnings.warn(
            f"{own} has a method train() of its own, which is not called when modes of "
            "the new module are set. Set its parts, such as `model.norm.eval()`, after "
            "`model.train()`.",
            UserWarning,
            stacklevel=4,
        )


@dataclasses.dataclass(frozen=True)
class ModuleState:
    """What a module that was made for another framework holds now.

    Attributes:
        pure: The module as a pure function.
        modes: The modes of its parts.
        params: Its parameters, arrays of the framework that it was made for.
        buffers: Its buffers, likewise.
    """

    pure: PureModule
    modes: Modes
    params: Arrays
    buffers: Arrays


class ModuleView:
    """A module that was made of one of another framework. In a tree it is a leaf."""

    def module_state(self) -> ModuleState:
        """Return what it holds now."""
        raise NotImplementedError


def module_state(x: Any) -> ModuleState | None:
    """Return what `x` holds if it is a module that was made of one of another framework."""
    return x.module_state() if isinstance(x, ModuleView) else None


def bind_method(module: Any, method: Any) -> Callable[..., Any]:
    """Return the method of a module that is meant: a name, a function of it, or None for a call."""
    if method is None and callable(module):
        return module
    if method is None:
        raise ArgumentError(
            f"{type(module).__name__} has no `__call__`. Name the method to call: method=..."
        )
    if not isinstance(method, str):
        return functools.partial(method, module)
    bound = getattr(module, method, None)
    if not callable(bound):
        raise ArgumentError(
            f"{type(module).__name__} has no method {method!r}, which method= names."
        )
    return bound


def module_signature(module: Any, method: Any) -> inspect.Signature | None:
    """Return the signature of a module as a pure function; None if that of the module is unknown.

    It names arguments in errors, and finds static ones. Other methods may take more.
    """
    if method is None and not callable(module):
        return None
    try:
        known = [*inspect.signature(bind_method(module, method)).parameters.values()]
    except (TypeError, ValueError):  # some builtins have no signature
        return None
    kinds = {parameter.kind: parameter for parameter in known}
    positional = [p for p in known if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if {p.name for p in positional} & {"rng", *_LEADING}:
        return None
    make = inspect.Parameter
    keywords = [p for p in known if p.kind is make.KEYWORD_ONLY and p.name != "rng"]
    variadic = kinds.get(make.VAR_POSITIONAL, make("args", make.VAR_POSITIONAL))
    rest = kinds.get(make.VAR_KEYWORD, make("kwargs", make.VAR_KEYWORD))
    return inspect.Signature(
        [
            *(make(name, make.POSITIONAL_ONLY) for name in _LEADING),
            *positional,
            variadic,
            *keywords,
            make("rng", make.KEYWORD_ONLY, default=None),
            rest,
        ]
    )


_LEADING = ("variant", "params", "buffers")  # the first arguments of a pure module
