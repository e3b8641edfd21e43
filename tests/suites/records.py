"""Torch's own records of its operators, and samples of them."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.testing._internal.autograd_function_db import autograd_function_db
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree

from tests.suites import truth
from tests.suites.samples import Sample, smooth

# Their results are whatever the memory held before.
UNDEFINED = {"empty", "empty_like", "empty_permuted", "empty_strided", "new_empty"}
UNDEFINED |= {"new_empty_strided", "resize_", "resize_as_"}
# Several numbers are written to one place, and any of them may stay.
UNDEFINED |= {f"nn.functional.max_unpool{rank}d" for rank in (1, 2, 3)}
# Compiled for GPUs alone, though recorded for the CPU.
ON_GPUS = "jiterator"
# How many samples are looked at for one that has several numbers.
_LOOKED_AT = 12


def databases() -> dict[str, Any]:
    """Torch's records of operators and of autograd Functions by name, both private to its tests."""
    records = [*op_db, *autograd_function_db]
    named = {_name(record): record for record in records}
    left_out = lambda name: name in UNDEFINED or name.startswith(ON_GPUS)
    return {name: record for name, record in sorted(named.items()) if not left_out(name)}


def _name(record: Any) -> str:
    variant = record.variant_test_name
    return f"{record.name}.{variant}" if variant else record.name


def dtypes(record: Any) -> list[torch.dtype]:
    """Those to be tried: floats of both sizes and complex numbers, or else integers."""
    supported = record.supported_dtypes("cpu")
    wanted = [torch.float64, torch.complex128, torch.float32]
    chosen = [dtype for dtype in wanted if dtype in supported]
    return chosen or [dtype for dtype in (torch.int64, torch.bool) if dtype in supported][:1]


def sample(record: Any, dtype: torch.dtype) -> Sample | None:
    """The first sample that has several numbers, or the first; `None` if there is none."""
    candidates = _samples(record, dtype)
    first = next(candidates, None)
    if first is None or _has_several(first):
        return first
    return next(filter(_has_several, itertools.islice(candidates, _LOOKED_AT)), first)


def _has_several(sample: Sample) -> bool:
    return any(x.numel() > 1 for x in sample.tensors)


def _samples(record: Any, dtype: torch.dtype) -> Iterator[Sample]:
    torch.manual_seed(7)
    moves = dtype.is_floating_point or dtype.is_complex
    for given in record.sample_inputs(
        "cpu", dtype, requires_grad=moves and record.supports_autograd
    ):
        leaves, structure = _pytree.tree_flatten((given.input, given.args, given.kwargs))
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
        tensors = tuple(leaves[i].detach().clone() for i in places)
        if any(x.layout != torch.strided for x in tensors):
            continue
        sample = Sample(
            function=_of_tensors(record, given, leaves, places, structure),
            tensors=tensors,
            free=tuple(i for i, x in enumerate(tensors) if smooth(x)),
        )
        meant = tuple(i for i, place in enumerate(places) if leaves[place].requires_grad)
        yield sample if _is_differentiable(sample) else dataclasses.replace(sample, free=meant)


def _is_differentiable(sample: Sample) -> bool:
    """Whether torch takes gradients by all arguments that are free, as by no running mean."""
    try:
        sample.function(*[x.clone() for x in truth.leaves(sample)])
    except RuntimeError as error:
        return "is not differentiable with respect to" not in str(error)
    return True


def _of_tensors(
    record: Any, given: Any, leaves: list[Any], places: list[int], structure: Any
) -> Callable[..., list[torch.Tensor]]:
    """The operator as a function of its tensors, followed by what makes its results unique.

    What reads only one triangle of a matrix, or takes it to be Hermitian, is given such a part of
    any matrix, so that it is a function of all numbers.
    """
    wrapper = record.gradcheck_wrapper
    wraps = wrapper.__name__ != "<lambda>"  # which calls the operator, or is about its results
    operator = functools.partial(wrapper, record.op) if wraps else record.op

    def function(*tensors: torch.Tensor) -> list[torch.Tensor]:
        filled = list(leaves)
        for place, tensor in zip(places, tensors, strict=True):
            filled[place] = tensor
        first, args, kwargs = _pytree.tree_unflatten(filled, structure)
        results = given.output_process_fn_grad(operator(first, *args, **kwargs))
        return [y for y in _pytree.tree_leaves(results) if isinstance(y, torch.Tensor)]

    function.__name__ = _name(record)
    return function
