"""Tensors that a function of torch uses besides its arguments."""
