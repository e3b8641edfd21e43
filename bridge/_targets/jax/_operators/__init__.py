"""Operators of torch in terms of `jax.numpy` and `lax`, by their names."""

from bridge._targets.jax._operators import (
    _arithmetic as _arithmetic,
    _distances as _distances,
    _embedding as _embedding,
    _fourier as _fourier,
    _functions as _functions,
    _indexing as _indexing,
    _layers as _layers,
    _linalg as _linalg,
    _making as _making,
    _pooling as _pooling,
    _products as _products,
    _random as _random,
    _reductions as _reductions,
    _sampling as _sampling,
    _shapes as _shapes,
    _sorting as _sorting,
)
from bridge._targets.jax._operators._table import Result as Result, cast as cast, rule as rule
