"""Layers: modules of a framework whose parameters are arguments of a function."""
