"""Captured graphs as Python code."""
