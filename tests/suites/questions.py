"""Questions in terms of a target."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from tests.suites.truth import Question

Arrays = Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Asked:
    """A question in terms of a target: its function, and arrays of it."""

    question: Question
    function: Callable[..., Arrays]
    arrays: Arrays
    cotangents: Arrays
    tangents: Arrays

    @property
    def free(self) -> Arrays:
        """The arguments by which there are derivatives."""
        return [self.arrays[i] for i in self.question.sample.free]

    def of_free(self, *moving: Any) -> Arrays:
        """The results that have derivatives, as a function of the free arguments."""
        results = self.function(*self.question.sample.merged(moving, self.arrays))
        return [results[i] for i in self.question.flowing]


def axes(asked: Asked) -> tuple[int | None, ...]:
    """Along which axis each argument has the examples of a batch."""
    count, batched = len(asked.arrays), asked.question.batched
    return tuple(0 if i in batched else None for i in range(count))


def stacked(asked: Asked, convert: Callable[[torch.Tensor], Any]) -> Arrays:
    """The arguments of a whole batch."""
    examples = asked.question.batch()
    joined = lambda i: convert(torch.stack([example[i] for example in examples]))
    batched = asked.question.batched
    return [joined(i) if i in batched else x for i, x in enumerate(asked.arrays)]
