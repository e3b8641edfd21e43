"""The operators of torch in terms of `jax.numpy` and `jax.lax`, by name."""

from bridge._lowering.jax.operators import (
    binary as binary,
    contractions as contractions,
    creation as creation,
    distances as distances,
    embedding as embedding,
    fourier as fourier,
    indexing as indexing,
    layers as layers,
    linalg as linalg,
    pooling as pooling,
    random as random,
    reductions as reductions,
    sampling as sampling,
    shapes as shapes,
    sorting as sorting,
    unary as unary,
)
from bridge._lowering.jax.operators.lowerings import (
    OutputInfo as OutputInfo,
    cast as cast,
    find_lowering as find_lowering,
)
