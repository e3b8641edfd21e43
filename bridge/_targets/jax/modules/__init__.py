"""Modules of other frameworks as modules of libraries of JAX."""

from bridge._targets.jax.modules.views import (
    make_view as make_view,
    module_state as module_state,
    watch_in_trees as watch_in_trees,
)
