"""Functions with weights that users hand over, as pure modules."""

import collections
import functools
import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

from bridge import _registry
from bridge._calls.functional import Functional
from bridge._core import import_path, pytree
from bridge._core.call_words import CallWords
from bridge._core.errors import ArgumentError
from bridge._core.pure_module import Arrays, Modes, PureModule, Variant
from bridge._core.spec import ArraySpec


class FunctionalModule(PureModule):
    """A function with weights as a pure module."""

    parts = ("",)

    def __init__(
        self, apply: Any, params: "_NamedTree", buffers: "_NamedTree | None", framework: str
    ) -> None:
        self._apply, self._params, self._buffers = apply, params, buffers
        self.framework, self._make_key = framework, _key_maker(framework)
        self._weakly_typed = _registry.source(framework).weakly_typed
        self.__name__ = import_path.function_name(apply)

    def __reduce__(self) -> Any:
        return type(self), (self._apply, self._params, self._buffers, self.framework)

    def identify(self) -> Any:
        """Return what is equal for functions of the same arrays: the user's, and their places."""
        trees = [None if x is None else x.identify() for x in (self._params, self._buffers)]
        return id(self._apply), *trees

    def referents(self) -> list[Any]:
        """Return the user's function."""
        return [self._apply]

    def __call__(
        self,
        variant: Variant,
        params: Any,
        buffers: Any,
        /,
        *args: Any,
        rng: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, dict[str, Any]]:
        """Call the function; return its output and the buffers that it has changed."""
        return self.call_with_key(variant, params, buffers, args, kwargs, self._make_key(rng))

    @property
    def takes_key(self) -> bool:
        """True if the function has a parameter for a key."""
        try:
            return "rng" in inspect.signature(self._apply).parameters
        except (TypeError, ValueError):  # some builtins have no signature
            return False

    def call_with_key(
        self, variant: Variant, params: Any, buffers: Any, args: Any, kwargs: Any, key: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Call the function with a key as it is, or None."""
        (training,), method = variant
        if method is not None:
            raise ArgumentError(f"{self.__name__} is a function, which has no method {method!r}.")
        params, buffers = self._with_weak_types(params, buffers)
        apply = functools.partial(self._apply, *self._build(params, buffers))
        results = CallWords(training, {"rng": key}).call(apply, args, kwargs)
        if self._buffers is None:
            return results, {}
        output, new_buffers = self._pair(results)
        return output, self._buffers.name_changed(new_buffers, buffers)

    def _pair(self, results: Any) -> tuple[Any, Any]:
        if isinstance(results, tuple) and len(results) == 2:
            return results
        raise ArgumentError(
            f"{self.__name__} has buffers, so it has to return the output and the new buffers, a "
            f"tuple of two, but it returned a {type(results).__name__}."
        )

    def read_modes(self) -> Modes:
        """Return the mode in which modules are made."""
        return (True,)

    def restore(self, modes: Modes, params: Arrays, buffers: Arrays) -> Functional:
        """Make the function with these weights."""
        del modes
        params, buffers = self._with_weak_types(params, buffers)
        return Functional(self._apply, *self._build(params, buffers))

    def _with_weak_types(self, params: Arrays, buffers: Arrays) -> tuple[Arrays, Arrays]:
        """Return the arrays, those weakly typed that were so when the function was wrapped."""
        if self._weakly_typed is None:
            return params, buffers
        params = self._params.with_weak_types(params, self._weakly_typed)
        if self._buffers is not None:
            buffers = self._buffers.with_weak_types(buffers, self._weakly_typed)
        return params, buffers

    def _build(self, params: Arrays, buffers: Arrays) -> list[Any]:
        """Return the trees of parameters and of buffers, if there are any."""
        pairs = [(self._params, params), (self._buffers, buffers)]
        return [tree.build(arrays) for tree, arrays in pairs if tree is not None]


class _NamedTree:
    """A pytree whose leaves have names, the path with dots between."""

    def __init__(
        self, what: str, names: Sequence[str], structure: Any, weak_names: Collection[str]
    ) -> None:
        self._what, self._names, self._structure = what, tuple(names), structure
        self._weak_names = weak_names

    def __reduce__(self) -> Any:
        return type(self), (self._what, self._names, self._structure, self._weak_names)

    def with_weak_types(self, arrays: Arrays, weakly_typed: Callable[[Any], Any]) -> dict[str, Any]:
        """Return the arrays, those weakly typed that were so when the function was wrapped."""
        return {k: weakly_typed(x) if k in self._weak_names else x for k, x in arrays.items()}

    def identify(self) -> Any:
        """Return what is equal for trees of the same structure."""
        return self._names, self._structure

    def build(self, arrays: Arrays) -> Any:
        """Return the tree with these arrays."""
        return pytree.unflatten(self._structure, [arrays[name] for name in self._names])

    def name_changed(self, tree: Any, before: Arrays) -> dict[str, Any]:
        """Return by name the leaves of a tree like this one that are others than before."""
        leaves, structure = pytree.flatten(tree, _registry.pytree_node_functions)
        names = _leaf_names(structure, self._what)
        if {*names} != {*self._names}:  # a dict in another order is the same
            raise ArgumentError(
                f"the new {self._what} are {structure}, but the {self._what} that were passed are "
                f"{self._structure}."
            )
        pairs = zip(names, leaves, strict=True)
        changed = {name: leaf for name, leaf in pairs if leaf is not before[name]}
        for name, leaf in changed.items():
            self._check_spec(name, _describe(before[name]), _describe(leaf))
        return changed

    def _check_spec(self, name: str, old: Any, new: Any) -> None:
        """Raise unless a leaf with a new spec can take the place of the old one."""
        if isinstance(new, ArraySpec) and new.shape == old.shape:
            kinds = [(x.differentiable, x.dtype.startswith("complex")) for x in (new, old)]
            if kinds[0] <= kinds[1]:
                return
        raise ArgumentError(
            f"{name!r} among the {self._what} is {old}, but {new} among the new ones. They keep "
            "their shapes and their kinds of numbers: make them like that from the start."
        )


def _key_maker(framework: str) -> Callable[[Any], Any]:
    make_key = _registry.source(framework).make_key
    if make_key is None:
        raise ArgumentError(
            f"a Functional is a function of JAX with its weights. For one of {framework}, wrap the "
            "function, and pass the weights as an argument."
        )
    return make_key


def take_functional_apart(
    functional: Functional, framework: str
) -> tuple[FunctionalModule, dict[str, Any], dict[str, Any]]:
    """Return a function with weights as a pure module, its parameters and its buffers."""
    params, param_tree = _name_leaves(functional.params, "params")
    if functional.buffers is None:
        return FunctionalModule(functional.apply, param_tree, None, framework), params, {}
    buffers, buffer_tree = _name_leaves(functional.buffers, "buffers")
    pure = FunctionalModule(functional.apply, param_tree, buffer_tree, framework)
    return pure, params, buffers


def _name_leaves(tree: Any, what: str) -> tuple[dict[str, Any], _NamedTree]:
    leaves, structure = pytree.flatten(tree, _registry.pytree_node_functions)
    names = _leaf_names(structure, what)
    twice = sorted(name for name, count in collections.Counter(names).items() if count > 1)
    if twice:
        raise ArgumentError(
            f"two arrays among the {what} have the name {twice[0]!r}. Rename a key in the tree."
        )
    arrays = {
        name: _array_or_spec(leaf, f"{name!r} among the {what}")
        for name, leaf in zip(names, leaves, strict=True)
    }
    pairs = zip(names, leaves, strict=True)
    weak_names = {name for name, leaf in pairs if getattr(leaf, "weak_type", False)}
    return arrays, _NamedTree(what, names, structure, weak_names)


def _leaf_names(structure: Any, what: str) -> list[str]:
    single = "weight" if what == "params" else "buffer"
    return [".".join(map(str, path)) or single for path in pytree.paths(structure)]


def _array_or_spec(leaf: Any, label: str) -> Any:
    """Return an array, or the spec of one that has no values; raise for anything else."""
    if _registry.array_owner(leaf) is not None:
        return leaf
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return ArraySpec(tuple(leaf.shape), leaf.dtype.name)
    raise ArgumentError(
        f"{label} is a {type(leaf).__name__}, but not an array. Make one of it, or write it into "
        "the function."
    )


def _describe(leaf: Any) -> ArraySpec | str:
    owner = _registry.array_owner(leaf)
    return f"a {type(leaf).__name__}" if owner is None else owner.spec(leaf)
