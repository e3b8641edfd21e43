"""Torch in MLX, with the transformations of MLX."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import torch

from bridge import to_mlx, to_torch, torch2mlx
from tests.suites.questions import Arrays, Asked, axes, stacked
from tests.suites.truth import Question


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
        return [[_numpy(to_torch(x)) for x in ways[mode]()] for mode in modes]

    @staticmethod
    def _gradient(asked: Asked, *free: Any) -> Arrays:
        return mx.vjp(asked.of_free, list(free), list(asked.cotangents))[1]

    @staticmethod
    def _batch(asked: Asked) -> Arrays:
        batch = stacked(asked, to_mlx)
        along = axes(asked)
        return mx.vmap(asked.function, along if len(along) > 1 else along[0])(*batch)


def _numpy(x: torch.Tensor) -> np.ndarray:
    """The values of a tensor; NumPy has no bfloat16, whose values are those of float32."""
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()
