"""Functions of torch as graphs."""
