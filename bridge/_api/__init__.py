"""Functions of one framework as functions of another, a module for each framework."""
