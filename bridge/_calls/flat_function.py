"""The user's function as a function of flat arrays, and the checks of its results.

NOTE [results that only one framework has]
JAX's typed keys have no counterpart elsewhere. Inside of an Op they are returned as their data, an
ordinary array. Where results are rebuilt for the caller, keys of JAX are made of that again, and
the caller can pass them on as arguments.

NOTE [results like the last]
A function that is not traced returns results on every call. They are checked again only if their
structure differs from the last call, or if they have classes or signatures that were not seen with
it before: as for arguments, class and signature determine all that a check looks at, once a result
of that class has passed.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls import arguments
from bridge._calls.argument_tree import ArgumentTree
from bridge._calls.rebuilding import results_rebuilder
from bridge._calls.wrong_framework import (
    USER_ERRORS,
    Direction,
    add_note,
    check_result,
    check_result_named_tuples,
)
from bridge._core import pytree
from bridge._core.errors import ArgumentError, NoValuesError
from bridge._core.import_path import PicklableFunction
from bridge._core.protocols import SEED
from bridge._core.spec import ArraySpec
from bridge._core.tracebacks import mark_user_call

_MOST_CHECKED = 16  # a vectorized function has others for each number of points
ARRAY = object()  # stands for a leaf whose value is passed to each call


class FlatFunction:
    """The user's function on the arrays among its leaves; records the structure of its results.

    Attributes:
        written: The user's function, for errors that name it.
        arguments: The structure of the arguments.
        checks_dtypes: False if the source rounds results, and calls `check_result_specs` then.
        keeps_structure: True if results of another structure are an error: the source computes
            derivatives from several calls.
        result_structure: The structure of the results of the last call, for the caller.
        build: The function from flat results to what the caller gets.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        frameworks: tuple[str, str],
        structure: Any,
        leaves: Sequence[Any],
        *,
        seeded: bool,
    ) -> None:
        self.__name__ = self.__qualname__ = name  # shown in the errors of tracers
        self.written = fn
        self._fn, self._leaves = fn, leaves
        self._direction = Direction(*frameworks)
        self._seeded = seeded
        positions = [i for i, leaf in enumerate(leaves) if leaf is ARRAY]
        self.arguments = ArgumentTree(fn, structure, leaves, positions)
        count = len(leaves)
        self._takes_arrays_alone = len(positions) == count and structure == pytree.args_structure(
            count
        )
        self._signatures: dict[type, Callable[[Any], Any]] = {}
        self._checked_structure: Any = None
        self._checked = set[Any]()
        self._source_arrays = _registry.source_arrays(self._direction.source)
        self._key_impls: dict[int, str] = {}
        self.checks_dtypes, self.keeps_structure = True, False
        self.result_structure: Any = None
        self.build: Callable[[Sequence[Any]], Any] = list

    def __call__(self, *arrays: Any) -> list[Any]:
        try:
            results = self._call(arrays)
        except USER_ERRORS as error:
            add_note(error, self._fn, arrays, self._direction)
            raise
        if results.__class__ in self._signatures:  # a leaf, as others of its class were
            outputs, structure = [results], pytree.LEAF
        else:
            outputs, structure = pytree.flatten(results, _registry.pytree_node_functions)
        key_impls = self._unwrap_keys(outputs)
        signature = self._results_signature(outputs)
        if (structure, key_impls) != self._checked_structure:
            self._checked.clear()
            self._check_structure(structure)
        if signature is None or signature not in self._checked:
            for output, path in zip(outputs, pytree.paths(structure), strict=True):
                self._check_result(output, path)
            check_result_named_tuples(structure, self.__name__, self._direction)
            self._set_result_structure(structure, key_impls)
            self._remember_checked(structure, key_impls, self._results_signature(outputs))
        return outputs

    def _remember_checked(self, structure: Any, key_impls: dict[int, str], signature: Any) -> None:
        self._checked_structure = structure, key_impls
        if len(self._checked) >= _MOST_CHECKED:
            self._checked.clear()
        self._checked.add(signature)

    def _check_structure(self, structure: Any) -> None:
        """Raise for results of another structure than before, if that is an error."""
        before = self.result_structure
        if self.keeps_structure and before not in (None, pytree.replace_structseqs(structure)):
            raise ArgumentError(
                f"{self.__name__} returned {structure}, but {before} before, or by `out=`. Results "
                "have to have the same structure at all points."
            )

    def check_result_specs(self, specs: Sequence[ArraySpec]) -> None:
        """Raise for results that the caller's framework has no dtype for."""
        paths = pytree.paths(self.result_structure) if self.result_structure else [()] * len(specs)
        for spec, path in zip(specs, paths, strict=True):
            self._check_dtype(spec, self._result_name(path))

    def _set_result_structure(self, structure: Any, key_impls: dict[int, str]) -> None:
        self.result_structure = pytree.replace_structseqs(structure)
        self._key_impls = key_impls
        unflatten = results_rebuilder(self.result_structure, self._direction.target, self.__name__)
        self.build = functools.partial(self._build_with_keys, unflatten) if key_impls else unflatten

    def referents(self) -> list[Any]:
        """Return the user's function and the static arguments that it is called with."""
        return [self._fn, *map(arguments.unwrap_static, self._leaves)]

    def unflatten_results(self, outputs: Sequence[Any]) -> Any:
        """Return a tree like the results."""
        return pytree.unflatten(self.result_structure, outputs)

    def flatten_results(self, tree: Any, name: str) -> list[Any]:
        """Return the leaves of a tree like the results; `name` is its name in errors."""
        leaves, structure = pytree.flatten(tree, _registry.pytree_node_functions)
        if pytree.replace_structseqs(structure) != self.result_structure:
            raise ArgumentError(
                f"{name} returned {structure}, where {self.result_structure} was expected, like "
                f"the result of {self.__name__}."
            )
        return leaves

    def __getstate__(self) -> dict[str, Any]:
        fn = PicklableFunction(self._fn)
        return {**self.__dict__, "_fn": fn, "written": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        fn = state["_fn"].fn
        self.__dict__ |= {**state, "_fn": fn, "written": fn}

    def takes(self, parameter: str) -> bool:
        """Return True if the user's function has a parameter of this name, or any."""
        try:
            parameters = inspect.signature(self._fn).parameters
        except (TypeError, ValueError):  # some builtins have no signature
            return False
        takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return parameter in parameters or (takes_any and parameter != SEED)

    def set_results(self, tree: Any) -> list[Any]:
        """Take the structure of the results from a tree like them; return its leaves."""
        leaves, structure = pytree.flatten(tree, _registry.pytree_node_functions)
        self._set_result_structure(structure, {})
        return leaves

    def copy_results(self, other: "FlatFunction") -> None:
        """Take the structure of the results from a function that has returned such."""
        self._set_result_structure(other.result_structure, other._key_impls)

    def describe_key_result(self) -> str | None:
        """Describe a result that is a typed key, which a graph cannot hold; None without one."""
        paths = pytree.paths(self.result_structure) if self._key_impls else []
        return next(
            (
                f"{self._result_name(paths[i])} is a key of {impl}"
                for i, impl in self._key_impls.items()
            ),
            None,
        )

    def _unwrap_keys(self, outputs: list[Any]) -> dict[int, str]:
        """Replace typed keys by their data: NOTE [results that only one framework has]."""
        if self._source_arrays.unwrap_key is None:
            return {}
        key_impls: dict[int, str] = {}
        for i, output in enumerate(outputs):
            if self._source_arrays.is_array(output) and (
                unwrapped := self._source_arrays.unwrap_key(output)
            ):
                outputs[i], key_impls[i] = unwrapped
        return key_impls

    def _build_with_keys(
        self, unflatten: Callable[[Sequence[Any]], Any], outputs: Sequence[Any]
    ) -> Any:
        """Rebuild the results with keys of the source made of their data."""
        results, target = list(outputs), _registry.target_arrays(self._direction.target)
        wrap_key: Any = self._source_arrays.wrap_key
        for i, impl in self._key_impls.items():
            try:
                results[i] = wrap_key(target.export_detached(outputs[i]), impl)
            except (ArgumentError, NoValuesError) as error:
                raise type(error)(
                    f"{self.describe_key_result()}, which has to be made of values here. Within a "
                    "transformation of the caller, return the data of the key, as of "
                    f"jax.random.key_data. ({error})"
                ) from None
        return unflatten(results)

    @mark_user_call
    def _call(self, arrays: Sequence[Any]) -> Any:
        """Call the user's function."""
        if self._takes_arrays_alone:
            return self._fn(*arrays)
        args, kwargs = self.arguments.unflatten(arrays)
        if self._seeded:  # the source has already seeded its generators with the key
            del kwargs[SEED]
        return self._fn(*args, **kwargs)

    def _results_signature(self, outputs: Sequence[Any]) -> tuple[Any, ...] | None:
        """Return what the check of results depends on: NOTE [results like the last]."""
        try:
            return tuple([(y.__class__, self._signatures[y.__class__](y)) for y in outputs])
        except (KeyError, RuntimeError, NoValuesError):  # new classes, nested tensors, tracers
            return None

    def _result_name(self, path: Sequence[Any]) -> str:
        return f"{pytree.format_path(['result', *path])} of {self.__name__}"

    def _check_result(self, output: Any, path: Sequence[Any]) -> None:
        """Raise for a result that the caller's framework cannot hold."""
        if isinstance(output, (bool, int, float, complex, *self._source_arrays.scalar_types)):
            return
        name = self._result_name(path)
        with pytree.forgetting_refused(output):
            owner = check_result(output, name, self._fn, self._direction)
        try:
            spec = owner.spec(output)
        except ArgumentError as error:
            raise ArgumentError(f"{name} cannot cross: {error}") from None
        if self.checks_dtypes:
            self._check_dtype(spec, name)
        self._signatures[type(output)] = owner.signature

    def _check_dtype(self, spec: ArraySpec, name: str) -> None:
        target = _registry.target_arrays(self._direction.target)
        if not target.supports_dtype(spec.dtype):
            advice = target.unsupported_dtype_advice(spec.dtype)
            raise ArgumentError(f"{name} is {spec}, {advice}{self._source_arrays.rounding_advice}")
