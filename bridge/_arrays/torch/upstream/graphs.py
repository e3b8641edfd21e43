"""Private names of torch about graphs: their capture, and the operators in them."""
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._decomp import decomposition_table
from torch._subclasses.fake_tensor import (
    FakeTensorMode,
)

from bridge._core.spec import ArraySpec


def fake_tensors(specs: Sequence[ArraySpec]) -> list[torch.Tensor]:
    """Make tensors without values of these specs; operators compute shapes and dtypes of them.

    Required: graphs are captured with such tensors.
    """
    # Tensors that a function closes over have values; they become constants of its graph.
    with FakeTensorMode(allow_non_fake_inputs=True):
        return [
            torch.empty(spec.shape, dtype=getattr(torch, spec.dtype), device=spec.device)
            for spec in specs
        ]


def fake_mode_of(fakes: Sequence[Any]) -> FakeTensorMode:
    """Return a context in which new tensors have no values, as those of `fakes`."""
    return fakes[0].fake_mode if fakes else FakeTensorMode(allow_non_fake_inputs=True)


@functools.cache
def load_exporter() -> Callable[..., Any]:
    """Import what captures graphs; required, but only for a capture.

    The import takes as long as that of torch itself, since it loads a compiler and SymPy.
    """
    from torch._functorch.aot_autograd import aot_export_joint_simple

    return aot_export_joint_simple


def export(
    fun: Callable[..., tuple[torch.Tensor, ...]], fakes: Sequence[torch.Tensor], *, joint: bool
) -> torch.fx.GraphModule:
    """Capture the functional graph of `fun`; if `joint`, with the gradients of `fakes`."""
    return load_exporter()(fun, tuple(fakes), trace_joint=joint)


def decomposition(target: Any) -> Callable[..., Any] | None:
    """Return a function that computes an operator by simpler ones, if torch has one."""
    if target in decomposition_table:
        return decomposition_table[target]
    if isinstance(target, torch._ops.OpOverload) and target._can_decompose():
        return target.decompose
    return None


@functools.cache
def graphs_have_a_loss_wrong() -> bool:
    """Return True if torch decomposes `multilabel_margin_loss` wrongly, as 2.13, but not 2.15."""
    kernel = torch.ops.aten.multilabel_margin_loss_forward.default
    if kernel not in decomposition_table:
        return False
    x, labels = torch.tensor([0.3, -0.2, 0.9], device="cpu"), torch.tensor([1, -1, 0], device="cpu")
    parts = decomposition_table[kernel](x, labels, 1)
    return not torch.allclose(parts[0], kernel(x, labels, 1)[0])


def schema_of(target: Any) -> Any:
    """Return the schema of an operator, its arguments and results; `None` for anything else."""
    return getattr(target, "_schema", None)


def argument_names(target: Any) -> list[str]:
    """Return the names of an operator's arguments."""
    return [argument.name for argument in schema_of(target).arguments]


def returns_view(target: Any) -> bool:
    """Return True if the results of an operator may use the memory of its arguments."""
    schema = schema_of(target)
    return schema is not None and any(result.alias_info for result in schema.returns)


# A check that may raise, as of a singular matrix, has no result: torch orders it by a token.
with_effects: Any = getattr(torch.ops.higher_order, "with_effects", None)


def raw_operator(target: Any) -> Any:
    """Return what an operator calls; without the name the operator, which costs one more call."""
    return getattr(target, "_op", target) if isinstance(target, torch._ops.OpOverload) else target


def out_variant(target: Any) -> Any:
    """Return the variant of an operator that computes directly in its argument `out`, if any."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return None
    arguments = _arguments(target)
    # A loss computes each term in `out` before it reduces them, so that it resizes `out`.
    if any(name == "reduction" for name, _ in arguments):
        return None
    packet = target.overloadpacket
    for name in packet.overloads():
        variant = getattr(packet, name)
        if torch.Tag.generated in variant.tags:  # computes in other memory, and copies
            continue
        written = [a.name for a in variant._schema.arguments if a.alias_info]
        others = [a for a in _arguments(variant) if a[0] != "out"]
        if written == ["out"] and others == arguments:
            return variant
    return None


def _arguments(overload: Any) -> list[tuple[str, str]]:
    """Return the names and types of an operator's arguments."""
    return [(a.name, str(a.type)) for a in overload._schema.arguments]


# Distributions check their values by these; without the names, functions that use them are rerun.
is_all_true: Any = getattr(torch, "_is_all_true", None)
is_all_true_method: Any = getattr(torch.Tensor, "_is_all_true", None)  # of torch._check_tensor_all
assert_async: Any = getattr(torch, "_assert_async", None)
