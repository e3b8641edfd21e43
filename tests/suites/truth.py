"""Torch's own values and derivatives of a sample, and differences to settle a dispute."""

import dataclasses
import unittest.mock
from collections.abc import Callable, Sequence

import torch

from tests.suites.samples import Sample, Tensors, smooth

MODES = ("value", "gradient", "tangent", "second order", "batch")
_SCALES = (
    1.0,
    0.9,
)  # of the examples of a batch: positive ones stay positive, definite ones definite
_STEP = 1e-6


@dataclasses.dataclass(frozen=True)
class Question:
    """A sample, with what its derivatives are multiplied by.

    Attributes:
        sample: The function and its arguments.
        flowing: Positions of the results that have derivatives.
        cotangents: Of those.
        tangents: Of the free arguments; they are the cotangents of the gradient, too.
    """

    sample: Sample
    flowing: tuple[int, ...]
    cotangents: Tensors
    tangents: Tensors

    @property
    def batched(self) -> tuple[int, ...]:
        """Positions of the arguments that have an example's axis: the free ones, or all."""
        return self.sample.free or tuple(range(len(self.sample.tensors)))

    def batch(self) -> list[list[torch.Tensor]]:
        """The arguments of each example; those without derivatives are the same in all."""
        scaled = [i for i in self.batched if smooth(self.sample.tensors[i])]
        return [
            [x * scale if i in scaled else x for i, x in enumerate(self.sample.tensors)]
            for scale in _SCALES
        ]


def asked(sample: Sample) -> Question:
    """The question about a sample; its results must not depend on chance."""
    generator = torch.Generator().manual_seed(11)
    try:
        results = sample.function(*[x.clone() for x in leaves(sample)])
    except RuntimeError as error:
        if "does not support automatic differentiation" not in str(error):
            raise
        sample = dataclasses.replace(sample, free=())
        results = sample.function(*sample.tensors)
    flowing = tuple(i for i, y in enumerate(results) if y.requires_grad)
    like = lambda x: torch.randn(x.shape, dtype=x.dtype, generator=generator)
    cotangents = [like(results[i].detach()) for i in flowing]
    tangents = [like(sample.tensors[i]) for i in sample.free]
    return Question(sample, flowing, cotangents, tangents)


def draws(sample: Sample) -> bool:
    """Whether two calls differ."""
    torch.manual_seed(1)
    first = sample.function(*[x.clone() for x in sample.tensors])
    torch.manual_seed(2)
    second = sample.function(*[x.clone() for x in sample.tensors])
    pairs = zip(first, second, strict=True)
    same = lambda x, y: x.shape == y.shape and torch.allclose(x, y, equal_nan=True)
    return not all(x.is_sparse or same(x, y) for x, y in pairs)


def sets_seed(sample: Sample) -> bool:
    """Whether it sets the seed of torch itself: examples of a batch then draw other numbers."""
    with unittest.mock.patch("torch.manual_seed") as seed:
        sample.function(*[x.clone() for x in sample.tensors])
    return seed.called


def leaves(sample: Sample) -> list[torch.Tensor]:
    return [x.clone().requires_grad_(i in sample.free) for i, x in enumerate(sample.tensors)]


def value(question: Question) -> list[torch.Tensor]:
    """The results."""
    return question.sample.function(*[x.clone() for x in question.sample.tensors])


def gradient(question: Question) -> list[torch.Tensor]:
    """By the free arguments."""
    arguments = leaves(question.sample)
    return [x.detach() for x in _gradient(question, arguments, create_graph=False)]


def _gradient(
    question: Question, arguments: list[torch.Tensor], *, create_graph: bool
) -> Sequence[torch.Tensor]:
    results = question.sample.function(*[x.clone() for x in arguments])
    free = [arguments[i] for i in question.sample.free]
    return torch.autograd.grad(
        [results[i] for i in question.flowing],
        free,
        question.cotangents,
        create_graph=create_graph,
        materialize_grads=True,
    )


def tangent(question: Question) -> list[torch.Tensor]:
    """Of the results that have derivatives."""
    sample = question.sample

    def of_free(*moving: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = sample.function(*[x.clone() for x in sample.merged(moving, sample.tensors)])
        return tuple(results[i] for i in question.flowing)

    primals = tuple(sample.tensors[i] for i in sample.free)
    return list(torch.func.jvp(of_free, primals, tuple(question.tangents))[1])


def second_order(question: Question) -> list[torch.Tensor]:
    """The gradient of the gradient, multiplied by the tangents."""
    arguments = leaves(question.sample)
    gradients = _gradient(question, arguments, create_graph=True)
    free = [arguments[i] for i in question.sample.free]
    moved = [(g, t) for g, t in zip(gradients, question.tangents, strict=True) if g.requires_grad]
    if not moved:
        return [torch.zeros_like(x) for x in free]
    given = [g for g, _ in moved], free, [t for _, t in moved]
    return list(torch.autograd.grad(*given, materialize_grads=True))


def batch(question: Question) -> list[torch.Tensor]:
    """The results of all examples, computed one after the other."""
    if sets_seed(question.sample):
        raise ValueError("each example has the random numbers of one call")
    examples = [value(_at(question, tensors)) for tensors in question.batch()]
    return [torch.stack(results) for results in zip(*examples, strict=True)]


ANSWERS: dict[str, Callable[[Question], list[torch.Tensor]]] = {
    "value": value,
    "gradient": gradient,
    "tangent": tangent,
    "second order": second_order,
    "batch": batch,
}


def _at(question: Question, tensors: Tensors) -> Question:
    return dataclasses.replace(question, sample=question.sample.with_tensors(tensors))


def differences(mode: str, question: Question) -> list[torch.Tensor]:
    """The derivative of a mode by central differences, a number for each direction.

    Of a gradient and of a second order only the product with the tangents is known this way.
    """
    moved = [_moved(mode, question, sign * _STEP) for sign in (1, -1)]
    slopes = [(ahead - behind) / (2 * _STEP) for ahead, behind in zip(*moved, strict=True)]
    if mode == "tangent":
        return slopes
    weights = question.cotangents if mode == "gradient" else question.tangents
    return [inner(weights, slopes)]


def _moved(mode: str, question: Question, step: float) -> list[torch.Tensor]:
    sample = question.sample
    free = [sample.tensors[i] for i in sample.free]
    moving = [x + step * t for x, t in zip(free, question.tangents, strict=True)]
    there = _at(question, sample.merged(moving, sample.tensors))
    if mode == "second order":
        return gradient(there)
    results = value(there)
    return [results[i] for i in question.flowing]


def inner(xs: Tensors, ys: Tensors) -> torch.Tensor:
    """The real inner product of two lists of tensors."""
    return sum((x.conj() * y).real.sum() for x, y in zip(xs, ys, strict=True))
