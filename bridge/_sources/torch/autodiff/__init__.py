"""Derivatives of functions of torch."""
