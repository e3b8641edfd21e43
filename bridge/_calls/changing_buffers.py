"""The buffers of a module that a call changes, which some frameworks write into.

NOTE [buffers that a call changes]
New values are written into the buffers after the call, for whoever holds these. The backward pass
of the call must not see them: so the call gets copies. Buffers that it does not change, which may
be large, are not copied. A plan knows which ones change once the module was traced.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from bridge._calls.plan import Plan
from bridge._core import pytree
from bridge._core.pure_module import PureModule

_Prepare = Callable[[Any], Any]


def copy_changing_buffers(plan: Plan, structure: Any, copy: _Prepare) -> Plan:
    """Return the plan of a `PureModule` with copies of changing buffers among its arrays."""
    changing = _changing_names(plan.flat.result_structure)
    paths = pytree.paths(structure)

    def changes(path: Any) -> bool:
        in_kwargs, position, *name = path
        is_buffer = not in_kwargs and position == 2  # after the variant and the parameters
        return is_buffer and (changing is None or tuple(name) in changing)

    array_leaves = [
        (i, _prepare_copy(prepare, copy) if changes(paths[i]) else prepare)
        for i, prepare in plan.array_leaves
    ]
    return dataclasses.replace(plan, array_leaves=array_leaves, passthrough=False)


def copy_buffers(fn: Any, args: Any, copy: Callable[[Sequence[Any]], Sequence[Any]]) -> Any:
    """Return the arguments of a call for a graph, which has no plan, with copies of buffers."""
    if not isinstance(fn, PureModule):
        return args
    variant, params, buffers, *others = args
    copies = zip(buffers, copy([*buffers.values()]), strict=True)
    return variant, params, dict(copies), *others


def _changing_names(result_structure: Any) -> set[tuple[Any, ...]] | None:
    """Return the names of the buffers among the results; None if they are not known yet."""
    if result_structure is None:
        return None
    return {tuple(name) for place, *name in pytree.paths(result_structure) if place == 1}


def _prepare_copy(prepare: _Prepare | None, copy: _Prepare) -> _Prepare:
    return copy if prepare is None else lambda x: copy(prepare(x))
