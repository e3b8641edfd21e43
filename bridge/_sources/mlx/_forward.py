"""Forward mode, where `mx.jvp` has it right, and by reverse mode elsewhere.

NOTE [forward mode by reverse mode]
A gradient is linear in its cotangents, and the gradient of that, by the cotangents, is the map of
tangents. It takes twice as long, and is there where MLX has no jvp, as of convolutions. mx.jvp of
a custom function knows nothing of its gradient rule, that of `irfft` is wrong for odd sizes, and
that of `addmm` leaves its factors out.
"""

from collections.abc import Callable

import mlx.core as mx

from bridge._op import Specs
from bridge._sources.mlx._exported import steps
from bridge._sources.mlx._lacking import lacked
from bridge._sources.mlx._nodes import separate
from bridge._sources.mlx._outline import Outline
from bridge._sources.mlx._random import Fun

Push = Callable[[Fun, list[mx.array], list[mx.array]], list[mx.array]]
_DOUBTFUL = {"CustomTransforms", "FFT"}


def is_doubtful(fun: Fun, primals: Specs, known: Outline) -> bool:
    """Whether `mx.jvp` may be wrong: NOTE [forward mode by reverse mode]."""
    if known.operations & _DOUBTFUL:
        return True
    if "AddMM" not in known.operations:
        return False
    found = steps(fun, primals)
    sums = [step["arguments"] for step in found or () if step["name"] == "AddMM"]
    return found is None or any(factors != [1, 1] for factors in sums)


def forward(check: Callable[[], None]) -> Push:
    """`mx.jvp`; where MLX lacks one, reverse mode twice, if `check` does not raise."""

    def push(fun: Fun, xs: list[mx.array], tangents: list[mx.array]) -> list[mx.array]:
        try:
            return mx.jvp(fun, xs, tangents)[1]
        except (ValueError, RuntimeError) as error:
            if lacked(error) is None:
                raise
        check()
        return twice_back(fun, xs, tangents)

    return push


def twice_back(fun: Fun, xs: list[mx.array], tangents: list[mx.array]) -> list[mx.array]:
    """The tangents of `fun`: NOTE [forward mode by reverse mode]."""

    def gradients(*cotangents: mx.array) -> list[mx.array]:
        return separate(mx.vjp(fun, xs, list(cotangents))[1])

    zeros = [mx.zeros_like(y) for y in fun(*xs)]
    return mx.vjp(gradients, zeros, tangents)[1]
