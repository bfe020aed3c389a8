"""Builds a run's parts from its configuration: the same wherever they run, in one process or on Ray."""
