"""Layers: modules of a target whose parameters are arguments of a function."""
