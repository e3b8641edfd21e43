"""Torch in JAX, with the transformations of JAX."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from bridge import to_jax, torch2jax
from tests.suites.questions import Arrays, Asked, axes, stacked
from tests.suites.truth import Question


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
        batch = stacked(asked, to_jax)
        return list(jax.vmap(asked.function, axes(asked))(*batch))
