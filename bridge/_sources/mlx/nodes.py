"""Separate nodes in MLX's graph for arrays that enter or leave a transformation.

NOTE [a node for each output]
If an output is the result of stop_gradient, mx.vjp drops its cotangent and gives the next output
that one. If one array is two outputs, mx.vjp loses the second cotangent, and mx.vmap moves its axis
twice.

NOTE [copies peeled off]
A transformation takes an argument that is an unmarked copy for a result of an earlier call, and
uses the array that was copied instead, which the outer transformation does not know. That happens
to our arguments too if another transformation has closed over them before, which removes their
mark: the gradient is then missing. Results of other operations than copies are left alone.
"""

from collections.abc import Iterable

import mlx.core as mx


def separate_nodes(xs: Iterable[mx.array]) -> list[mx.array]:
    """Return `xs`, each as the result of its own operation: NOTE [a node for each output]."""
    # A transpose can be exported, batched and differentiated to any order; mx.contiguous cannot.
    return [mx.transpose(x, [*range(x.ndim)]) for x in xs]
