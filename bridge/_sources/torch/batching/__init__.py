"""Batched forms of functions of torch."""
