"""Graphs of torch as code of JAX."""
