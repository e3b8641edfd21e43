"""Arrays of JAX."""

from bridge._arrays.jax.backend import (
    FACE as FACE,
    NARROW as NARROW,
    abstract as abstract,
    conjugate as conjugate,
)
from bridge._arrays.jax.devices import reach as reach
from bridge._arrays.jax.modes import (
    admitting as admitting,
    crossing as crossing,
    not_forked as not_forked,
    x64_mode as x64_mode,
)
