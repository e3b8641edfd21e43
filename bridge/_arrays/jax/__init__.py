"""The arrays of JAX, and the devices and modes that they depend on."""

from bridge._arrays.jax.backend import (
    ARRAYS as ARRAYS,
    NARROW as NARROW,
    conjugate_all as conjugate_all,
    shape_dtype_struct as shape_dtype_struct,
)
from bridge._arrays.jax.devices import (
    choose_compute_device as choose_compute_device,
    free_to_move as free_to_move,
)
from bridge._arrays.jax.upstream.modes import (
    allow_transfers as allow_transfers,
    check_not_forked as check_not_forked,
    x64_mode as x64_mode,
)
