"""Modules of Flax that tests of modules take to other frameworks."""

import jax.numpy as jnp
from flax import nnx


class Normalized(nnx.Module):
    """A network with a normalization and numbered layers."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.9, rngs=rngs)
        self.rest = nnx.List([nnx.Linear(5, 4, rngs=rngs), nnx.Linear(4, 2, rngs=rngs)])

    def encode(self, x):
        return jnp.tanh(self.first(x))

    def __call__(self, x):
        first, second = self.rest
        return second(jnp.tanh(first(jnp.tanh(self.norm(self.first(x))))))


class Dropping(nnx.Module):
    """Half of its argument, at random."""

    def __init__(self, rngs):
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(x)
