"""Graphs as code of a target, one folder for each target."""
