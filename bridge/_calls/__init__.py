"""A bridged function, from its arguments to its results."""
