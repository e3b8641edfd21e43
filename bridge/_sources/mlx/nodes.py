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

from bridge._arrays.mlx.upstream.dot_graph import is_same_node, read_graph


def separate_nodes(xs: Iterable[mx.array]) -> list[mx.array]:
    """Return `xs`, each as the result of its own operation: NOTE [a node for each output]."""
    # A transpose can be exported, batched and differentiated to any order; mx.contiguous cannot.
    return [mx.transpose(x, [*range(x.ndim)]) for x in xs]


def is_copy(x: mx.array, original: mx.array) -> bool:
    """Return True if `x` is `original` as a transformation passes it on, maybe several times."""
    if is_same_node(x, original):
        return True
    steps = read_graph([x, original], {"original": original, "x": x})
    copied = {output: s.inputs[0] for s in steps if s.name == "Copy" for output in s.outputs}
    name = "x"
    while name in copied and name != "original":
        name = copied[name]
    return name == "original"
