"""Bound modules of Flax linen as pure functions of their variables.

NOTE [streams of linen]
A module takes keys from streams with names, and from the stream `params` where it has none of a
name. Some take `has_rng("dropout")` for the mode. So in training there is a stream `dropout`, one
for each name that the module was bound with, and `params` for all others, each with a key of its
own; in evaluation there is `params` alone.
"""

import inspect
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bridge._core.call_words import CallWords
from bridge._core.errors import ArgumentError
from bridge._core.pure_module import (
    Arrays,
    Modes,
    Variant,
    bind_method,
    module_signature,
)
from bridge._sources.jax.modules.changes import changed_buffers, check_no_additions
from bridge._sources.jax.modules.jax_module import JaxModule, weak_names
from bridge._sources.jax.modules.leaves import (
    as_array,
    check_no_keys,
    check_unique,
    dotted_name,
    is_inexact,
    value_or_spec,
    without_values,
)
from bridge._sources.jax.modules.linen_modes import attribute_words, read_modes, with_modes

_PARAMS, _INTERMEDIATES, _DROPOUT = "params", "intermediates", "dropout"
_IN_TRAINING = (
    "A call stores the collections of the variables, except for parameters, which only optimizers "
    "change here, and for what is sown. Make it a variable of another collection."
)
_SOWN = (
    "Initialize the module with all variables, or leave the collection out of the variables if it "
    "is for what is sown."
)


class LinenModule(JaxModule):
    """A module of Flax linen as a pure function.

    The inexact arrays of the collection `params` are parameters, those of other collections are
    buffers, whose names begin with that of the collection. The mode is an argument of the call, and
    that of parts that have it as an attribute. In training a call may change all buffers, in
    evaluation those of collections that the module was bound with as mutable.
    """

    def __init__(
        self,
        module: Any,
        variables: Mapping[str, Any],
        streams: tuple[str, ...],
        mutable: tuple[str, ...],
        method: Any,
    ) -> None:
        self.__name__, self._method = type(module).__name__, method
        self.__signature__ = module_signature(module, method)
        self._module, self._streams, self._mutable = module, streams, mutable
        named = _named_leaves(variables)
        self._names = [name for name, _ in named]
        self._collections = {
            name: collection
            for collection, tree in variables.items()
            for name, _ in _named_leaves({collection: tree})
        }
        self._leaves = [without_values(leaf) for _, leaf in named]
        self._weak_names = weak_names(dict(named))
        self._structure = jax.tree.structure(variables)
        self._state = sorted({*variables} - {_PARAMS})
        self._modes = read_modes(module)
        self.parts = tuple(self._modes)
        check_unique(self._names, self.__name__)

    def __reduce__(self) -> Any:
        variables = self._variables({})
        return type(self), (self._module, variables, self._streams, self._mutable, self._method)

    def read_modes(self) -> Modes:
        """Return the modes of attributes; without such, modules are made in training."""
        return tuple(self._modes.values())

    def restore(self, modes: Modes, params: Arrays, buffers: Arrays) -> Any:
        """Bind the module to these arrays, with attributes for these modes."""
        module = with_modes(self._module, self._modes, modes)
        variables = self._variables(self._with_weak_types({**params, **buffers}))
        return module.bind(variables, mutable=[*self._mutable])

    def _call(
        self, variant: Variant, params: Arrays, buffers: Arrays, key: Any, args: Any, kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Call the module; return its output and the buffers that it has changed."""
        from flax.errors import ModifyScopeVariableError

        modes, name = variant
        module, training = with_modes(self._module, self._modes, modes), any(modes)
        method = name or self._method
        mutable = self._state if training else [*self._mutable]

        def apply(*args: Any, **kwargs: Any) -> Any:
            return module.apply(
                self._variables({**params, **buffers}),
                *args,
                rngs=self._keys(key, training=training),
                mutable=mutable,
                method=method,
                **kwargs,
            )

        # The names of its parameters say what it is told.
        vars(apply)["__signature__"] = inspect.signature(bind_method(module, method))
        words = CallWords(modes[0], {"key": key, "rng": key}, attribute_words(module))
        try:
            output, state = words.call(apply, args, kwargs)
        except ModifyScopeVariableError as error:
            raise self._immutable_error(error, training=training) from error
        before = {name: x for name, x in buffers.items() if self._collections[name] in mutable}
        after = dict(_named_leaves(state))
        check_no_additions(self.__name__, before, after, _SOWN)
        return output, changed_buffers(self.__name__, before, after)

    def _immutable_error(self, error: Exception, *, training: bool) -> ArgumentError:
        """Return the error of a call that writes to a collection that it may not change."""
        reason = str(error).partition(" (http")[0]
        advice = _IN_TRAINING
        if not training:
            collection = re.search('collection "(.*?)"', reason)
            mutable = sorted({*self._mutable, *(collection.groups() if collection else ())})
            advice = (
                "In evaluation a call stores the collections that the module was bound with for "
                f"this: `.bind(variables, mutable={mutable})`. Or set the module to training, "
                "`.train()`."
            )
        return ArgumentError(f"{self.__name__} cannot be called: {reason} {advice}")

    def _keys(self, key: Any, *, training: bool) -> dict[str, Any]:
        """Return keys by the names of streams: NOTE [streams of linen]."""
        names = {_PARAMS, *self._streams} if training else {_PARAMS}
        keys = {name: jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names}
        return {**keys, _DROPOUT: key} if training else keys

    def _variables(self, arrays: Arrays) -> Any:
        """Return the variables with these arrays, and specs in place of missing ones."""
        pairs = zip(self._names, self._leaves, strict=True)
        leaves = [arrays.get(name, leaf) for name, leaf in pairs]
        return jax.tree_util.tree_unflatten(self._structure, leaves)


def take_linen_apart(
    module: Any, method: Any
) -> tuple[LinenModule, dict[str, Any], dict[str, Any]]:
    """Return a bound module as a pure function, its parameters and its buffers."""
    scope = module.scope
    if scope is None:
        kind = type(module).__name__
        raise ArgumentError(
            f"{kind} is a module of Flax linen without variables. Bind it to them: "
            f"`{kind.lower()}.bind(variables)`, where `variables = {kind.lower()}.init(key, x)`."
        )
    unbound, variables = module.unbind()
    variables = {name: x for name, x in variables.items() if name != _INTERMEDIATES}
    mutable = tuple(n for n in variables if n != _PARAMS and module.is_mutable_collection(n))
    pure = LinenModule(unbound, variables, tuple(sorted(scope.rngs)), mutable, method)
    params, buffers = dict[str, Any](), dict[str, Any]()
    for collection, tree in variables.items():
        for name, leaf in _named_leaves({collection: tree}):
            is_param = collection == _PARAMS and is_inexact(leaf)
            (params if is_param else buffers)[name] = value_or_spec(leaf)
    check_no_keys(pure.__name__, {**params, **buffers})
    return pure, params, buffers


def _named_leaves(variables: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the arrays of variables with their names, in the order of the tree."""
    from flax.core.meta import AxisMetadata

    is_box = lambda x: isinstance(x, AxisMetadata)  # a description around an array
    return [
        (_name((*path, *inner[: -1 if is_box(node) else None])), as_array(leaf))
        for path, node in jax.tree_util.tree_flatten_with_path(variables, is_leaf=is_box)[0]
        for inner, leaf in jax.tree_util.tree_flatten_with_path(node)[0]
    ]


def _name(path: Sequence[Any]) -> str:
    """Return the name of an array; that of a parameter is without its collection."""
    name = dotted_name(path)
    return name.removeprefix(f"{_PARAMS}.")
