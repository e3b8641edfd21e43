"""The ways on which a sample of torch is computed, each with the transformations of its target."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import mlx.core as mx
import numpy as np
import torch

from bridge import to_jax, to_mlx, to_torch, torch2jax, torch2mlx
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


def _axes(asked: Asked) -> tuple[int | None, ...]:
    """Along which axis each argument has the examples of a batch."""
    count, batched = len(asked.arrays), asked.question.batched
    return tuple(0 if i in batched else None for i in range(count))


def _stacked(asked: Asked, convert: Callable[[torch.Tensor], Any]) -> Arrays:
    """The arguments of a whole batch."""
    examples = asked.question.batch()
    joined = lambda i: convert(torch.stack([example[i] for example in examples]))
    batched = asked.question.batched
    return [joined(i) if i in batched else x for i, x in enumerate(asked.arrays)]


class Jax:
    """Torch in JAX, `lower` saying how."""

    # What is asked in its place, where the target lacks a dtype.
    dtypes: Mapping[torch.dtype, torch.dtype] = {}
    # The modes that are compiled as one program, for that takes less time.
    at_once = ("value", "gradient", "tangent", "second order")

    def __init__(self, lower: str) -> None:
        self.lower = lower

    def ask(self, question: Question) -> Asked:
        """The question, asked in JAX."""
        there = lambda xs: [to_jax(x.resolve_conj().resolve_neg(), copy=True) for x in xs]
        function = torch2jax(question.sample.function, lower=self.lower)
        lists = (question.sample.tensors, question.cotangents, question.tangents)
        with jax.enable_x64(True):
            return Asked(question, function, *map(there, lists))

    def answer(self, asked: Asked, modes: Sequence[str]) -> list[list[np.ndarray]]:
        """What JAX finds, compiled as one program."""
        ways = {
            "value": lambda *xs: list(asked.function(*xs)),
            "gradient": lambda *xs: self._gradient(asked, *xs),
            "tangent": lambda *_: jax.jvp(asked.of_free, asked.free, list(asked.tangents))[1],
            "second order": lambda *_: self._pulled(
                lambda *moving: self._gradient(
                    asked, *asked.question.sample.merged(moving, asked.arrays)
                ),
                asked.free,
                asked.tangents,
            ),
            "batch": lambda *_: self._batch(asked),
        }
        with jax.enable_x64(True):
            found = jax.jit(lambda *xs: [ways[mode](*xs) for mode in modes])(*asked.arrays)
            return [[np.asarray(x) for x in results] for results in found]

    def _gradient(self, asked: Asked, *arrays: Any) -> Arrays:
        free = [arrays[i] for i in asked.question.sample.free]
        return self._pulled(asked.of_free, free, asked.cotangents)

    @staticmethod
    def _pulled(function: Callable[..., Any], free: Arrays, cotangents: Arrays) -> Arrays:
        """The gradient as torch has it: JAX's is the conjugate."""
        _, pull = jax.vjp(function, *free)
        return [jnp.conj(g) for g in pull([jnp.conj(c) for c in cotangents])]

    def _batch(self, asked: Asked) -> Arrays:
        stacked = _stacked(asked, to_jax)
        return list(jax.vmap(asked.function, _axes(asked))(*stacked))


class Mlx:
    """Torch in MLX."""

    dtypes: Mapping[torch.dtype, torch.dtype] = {torch.complex128: torch.complex64}
    at_once = ()

    def ask(self, question: Question) -> Asked:
        """The question, asked in MLX."""
        there = lambda xs: [to_mlx(x.resolve_conj().resolve_neg().contiguous()) for x in xs]
        lists = (question.sample.tensors, question.cotangents, question.tangents)
        return Asked(question, torch2mlx(question.sample.function), *map(there, lists))

    def answer(self, asked: Asked, modes: Sequence[str]) -> list[list[np.ndarray]]:
        """What MLX finds."""
        ways: dict[str, Callable[[], Arrays]] = {
            "value": lambda: asked.function(*asked.arrays),
            "gradient": lambda: self._gradient(asked, *asked.free),
            "tangent": lambda: mx.jvp(asked.of_free, asked.free, list(asked.tangents))[1],
            "second order": lambda: mx.vjp(
                lambda *moving: self._gradient(asked, *moving), asked.free, list(asked.tangents)
            )[1],
            "batch": lambda: self._batch(asked),
        }
        return [[to_torch(x).numpy() for x in ways[mode]()] for mode in modes]

    @staticmethod
    def _gradient(asked: Asked, *free: Any) -> Arrays:
        return mx.vjp(asked.of_free, list(free), list(asked.cotangents))[1]

    @staticmethod
    def _batch(asked: Asked) -> Arrays:
        stacked = _stacked(asked, to_mlx)
        axes = _axes(asked)
        return mx.vmap(asked.function, axes if len(axes) > 1 else axes[0])(*stacked)


WAYS = {"torch2jax": Jax("ffi"), 'lower="xla"': Jax("xla"), "torch2mlx": Mlx()}
