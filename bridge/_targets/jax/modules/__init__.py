"""Modules of other frameworks as modules of libraries of JAX."""

from bridge._targets.jax.modules.views import (
    make_view as make_view,
    watch_in_trees as watch_in_trees,
)
