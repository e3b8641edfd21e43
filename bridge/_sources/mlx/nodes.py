"""Nodes of their own in the graph of MLX, for what enters and leaves a transformation.

NOTE [a node for each output]
mx.vjp gives an output that is the result of stop_gradient no cotangent, and the next output
gets it instead; of an array that is two outputs the second cotangent is lost, and mx.vmap moves
its axis twice.

NOTE [copies peeled off]
A transformation takes its arguments for results of an earlier one if they are copies without a
mark, and puts what was copied in their place, which the outer transformation knows nothing of. It
does so with arguments of ours too that another transformation has closed over before, which takes
off their mark: that gradient is missing. Operations of another kind are left alone.
"""

from collections.abc import Iterable

import mlx.core as mx


def separate_nodes(xs: Iterable[mx.array]) -> list[mx.array]:
    """`xs`, each as the result of an operation of its own: NOTE [a node for each output].

    One that MLX exports, with derivatives of every order and batches: `mx.contiguous` is none.
    """
    return [mx.transpose(x, [*range(x.ndim)]) for x in xs]
