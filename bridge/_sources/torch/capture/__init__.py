"""Capture of functions of torch as graphs."""
