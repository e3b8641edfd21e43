"""Tensors that a function of torch finds besides its arguments."""
