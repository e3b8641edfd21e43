"""Everything that a call needs besides the values of its arrays.

NOTE [plans]
A plan is made once for each structure, spec and static value of the arguments, and stored. Its key
contains everything that a trace depends on, so that one plan is one trace.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

from bridge._calls import arguments
from bridge._calls.flat_function import FlatFunction
from bridge._core.errors import ArgumentError, NoValuesError
from bridge._core.op import Op, Specs
from bridge._core.protocols import Executor
from bridge._core.spec import ArraySpec


@dataclasses.dataclass(frozen=True)
class LeafInfo:
    """A description of one leaf of the arguments.

    Attributes:
        name: The leaf as the user would write it: `x['weights'][0]`.
        signature: Its part in the key of the plan.
        spec: Its spec if it is an array; `None` if it is static.
        handler: The treatment of leaves of its class.
    """

    name: str
    signature: Any
    spec: ArraySpec | None
    handler: arguments.LeafHandler

    def make_prepare(self, function_name: str) -> Callable[[Any], Any] | None:
        """Return the function that is applied to arguments, whose errors name the argument."""
        prepare = self.handler.prepare
        if prepare is None:
            return None

        def prepare_argument(x: Any) -> Any:
            try:
                return prepare(x)
            except (ArgumentError, NoValuesError) as error:
                raise type(error)(
                    f"argument {self.name} of {function_name} cannot cross: {error}"
                ) from None

        return prepare_argument


@dataclasses.dataclass(frozen=True)
class Plan:
    """The Op and the functions that calls with arguments of one structure use: NOTE [plans].

    Attributes:
        op: The user's function of flat arrays.
        executor: Executes Ops on arrays of the caller.
        primals: The specs of the primals of `op`.
        native: `op` as a function of the caller's framework.
        flat: The user's function that `op` calls; it knows the structure of the results.
        array_leaves: Positions of the leaves that `native` takes, each with the function that is
            applied to it first, if any.
        passthrough: True if `native` takes all leaves as they are.
        device: The device of the caller's arrays.
    """

    op: Op
    executor: Executor
    primals: Specs
    native: Callable[..., Any]
    flat: FlatFunction
    array_leaves: Sequence[tuple[int, Callable[[Any], Any] | None]]
    passthrough: bool
    device: str

    @functools.cached_property
    def needs_seed(self) -> bool:
        """True if the function draws random numbers, and has no key: repeat the call with one."""
        return self.op.traits.uses_global_rng

    def __call__(self, leaves: Sequence[Any]) -> Any:
        if not self.passthrough:
            leaves = self.select_arrays(leaves)
        outputs = self.native(*leaves)
        return self.flat.build(outputs)  # read only now: without a trace, each call may set it

    def select_arrays(self, leaves: Sequence[Any]) -> list[Any]:
        """Return the leaves that `native` takes."""
        return [
            leaves[i] if prepare is None else prepare(leaves[i]) for i, prepare in self.array_leaves
        ]
