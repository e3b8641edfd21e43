"""Captured graphs compiled to Python code."""
