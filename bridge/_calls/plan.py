"""What a call needs besides the values of its arrays.

NOTE [plans]
It is worked out once for each structure, spec and static value of the arguments, and kept. The key
holds all that a trace depends on, so that one plan is one trace.

NOTE [results that only one framework has]
JAX's typed keys have no counterpart elsewhere. Inside they are handed out as their data, an array
as any other, and outside keys of JAX are made of that, which can be passed on as arguments.

NOTE [results like the last]
A function that is not traced returns results on every call. They are checked where their structure,
or the class or signature of one of them, is not that of the last: as for arguments, a class and a
signature tell all that a check looks at, once one of that class has passed.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from bridge import _registry
from bridge._calls import arguments
from bridge._calls.wrong_framework import (
    USER_ERRORS,
    Direction,
    add_note,
    check_containers,
    check_result,
)
from bridge._core import pytree
from bridge._core.errors import ArgumentError, NoValuesError
from bridge._core.op import Op, Specs
from bridge._core.protocols import Executor
from bridge._core.spec import ArraySpec
from bridge._core.tracebacks import user_call


@dataclasses.dataclass(frozen=True)
class LeafInfo:
    """One leaf of the arguments, described.

    Attributes:
        name: As the user would write it.
        signature: Its part in the key.
        spec: What is known of it as an array, `None` for a static one.
        kind: How leaves of its class are treated.
    """

    name: str
    signature: Any
    spec: ArraySpec | None
    kind: arguments.LeafHandler

    def prepare(self, name: str) -> Callable[[Any], Any] | None:
        """What is applied to arguments of the function `name`, whose errors name the argument."""
        prepare = self.kind.prepare
        if prepare is None:
            return None

        def prepared(x: Any) -> Any:
            try:
                return prepare(x)
            except (ArgumentError, NoValuesError) as error:
                what = f"argument {self.name} of {name} cannot cross: {error}"
                raise type(error)(what) from None

        return prepared


class FlatFunction:
    """The user's function on the arrays among its leaves; notes the structure of its results."""

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        direction: tuple[str, str],
        structure: Any,
        leaves: Sequence[Any],
        *,
        seeded: bool,
    ) -> None:
        self.__name__ = self.__qualname__ = name  # what a tracer's errors call it
        self.written = fn  # for errors that name it
        self._fn, self._structure, self._leaves = fn, structure, leaves
        self._crossing = Direction(*direction)
        self._seeded = seeded
        self._at = [i for i, leaf in enumerate(leaves) if leaf is ARRAY]
        self._is_row = len(self._at) == len(leaves) and structure == pytree.args_structure(
            len(leaves)
        )
        self._signatures: dict[type, Callable[[Any], Any]] = {}
        self._checked: Any = None
        self._at_home = _registry.source_arrays(self._crossing.source)
        self._opened: dict[int, str] = {}
        self.results: Any = None
        self.build: Callable[[Sequence[Any]], Any] = list

    def __call__(self, *arrays: Any) -> list[Any]:
        try:
            results = self._call(arrays)
        except USER_ERRORS as error:
            add_note(error, self._fn, arrays, self._crossing)
            raise
        if results.__class__ in self._signatures:  # a leaf, as others of its class were
            outputs, structure = [results], pytree.LEAF
        else:
            outputs, structure = pytree.flatten(results, _registry.pytree_node)
        opened = self._unwrap_keys(outputs)
        likeness = self._results_signature(outputs)
        if likeness is None or (structure, likeness, opened) != self._checked:
            for output, path in zip(outputs, pytree.paths(structure), strict=True):
                self._check(output, path)
            check_containers(structure, self.__name__, self._crossing)
            self.results, self._opened = pytree.caller_structure(structure), opened
            plain = pytree.unflattener(self.results)
            self.build = functools.partial(self._build_with_keys, plain) if opened else plain
            self._checked = structure, self._results_signature(outputs), opened
        return outputs

    def captured_values(self) -> list[Any]:
        """What the user's function is, and the static arguments that it is called with."""
        return [self._fn, *map(arguments.unwrap_static, self._leaves)]

    def unsupported(self) -> str | None:
        """A result that only the home framework has, which a graph cannot hold."""
        paths = pytree.paths(self.results) if self._opened else []
        return next(
            (
                f"{self._result_name(paths[i])} is a key of {kind}"
                for i, kind in self._opened.items()
            ),
            None,
        )

    def _unwrap_keys(self, outputs: list[Any]) -> dict[int, str]:
        """Replace results by what others can hold: NOTE [results that only one framework has]."""
        if self._at_home.unwrap_key is None:
            return {}
        opened = {}
        for i, output in enumerate(outputs):
            if self._at_home.is_array(output) and (parts := self._at_home.unwrap_key(output)):
                outputs[i], opened[i] = parts
        return opened

    def _build_with_keys(
        self, plain: Callable[[Sequence[Any]], Any], outputs: Sequence[Any]
    ) -> Any:
        closed, away = list(outputs), _registry.target_arrays(self._crossing.target)
        close: Any = self._at_home.wrap_key
        for i, kind in self._opened.items():
            try:
                closed[i] = close(away.read_values(outputs[i]), kind)
            except (ArgumentError, NoValuesError) as error:
                raise type(error)(
                    f"{self.unsupported()}, which has to be made of values here. Within a "
                    "transformation of the caller, return the data of the key, as of "
                    f"jax.random.key_data. ({error})"
                ) from None
        return plain(closed)

    @user_call
    def _call(self, arrays: Sequence[Any]) -> Any:
        """What the user's function returns."""
        if self._is_row:
            return self._fn(*arrays)
        leaves = pytree.replace_at(arrays, self._at, self._leaves)
        args, kwargs = pytree.unflatten(self._structure, leaves)
        if self._seeded:  # the source has set its generators by it
            del kwargs[SEED]
        return self._fn(*args, **kwargs)

    def _results_signature(self, outputs: Sequence[Any]) -> list[Any] | None:
        """What the check of results depends on: NOTE [results like the last]."""
        try:
            return [(y.__class__, self._signatures[y.__class__](y)) for y in outputs]
        except (KeyError, RuntimeError, NoValuesError):  # new ones, nested tensors, tracers
            return None

    def _result_name(self, path: Sequence[Any]) -> str:
        return f"result{''.join(f'[{key!r}]' for key in path)} of {self.__name__}"

    def _check(self, output: Any, path: Sequence[Any]) -> None:
        """Raise for a result that the caller's framework cannot hold."""
        if isinstance(output, (bool, int, float, complex)):
            return
        where = self._result_name(path)
        owner = check_result(output, where, self._fn, self._crossing)
        try:
            spec = owner.spec(output)
        except ArgumentError as error:
            raise ArgumentError(f"{where} cannot cross: {error}") from None
        caller = _registry.target_arrays(self._crossing.target)
        if not caller.supports_dtype(spec.dtype):
            raise ArgumentError(f"{where} is {spec}, {caller.unsupported_dtype_advice(spec.dtype)}")
        self._signatures[type(output)] = owner.signature


ARRAY = object()
SEED = "rng"


def missing_key_error(name: str) -> ArgumentError:
    """What is wrong with a call of a function that draws random numbers."""
    return ArgumentError(
        f"{name} draws random numbers, which have to follow from an argument. Pass a key, "
        f"`{SEED}=`."
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done for calls with arguments of one structure: NOTE [plans].

    Attributes:
        op: The user's function of flat arrays.
        executor: What evaluates Ops here.
        primals: Of the op.
        native: The op as a function of the caller's framework.
        flat: The user's function behind it, which knows the structure of the results.
        array_leaves: Positions of the leaves handed to `native`, each with what prepares it.
        passthrough: Whether these are all leaves, and nothing is to be prepared.
    """

    op: Op
    executor: Executor
    primals: Specs
    native: Callable[..., Any]
    flat: FlatFunction
    array_leaves: Sequence[tuple[int, Callable[[Any], Any] | None]]
    passthrough: bool

    def __call__(self, leaves: Sequence[Any]) -> Any:
        if not self.passthrough:
            leaves = self.select_arrays(leaves)
        outputs = self.native(*leaves)  # without a trace, the structure is known only now
        return self.flat.build(outputs)

    def select_arrays(self, leaves: Sequence[Any]) -> list[Any]:
        """The leaves that `native` takes."""
        return [
            leaves[i] if prepare is None else prepare(leaves[i]) for i, prepare in self.array_leaves
        ]
