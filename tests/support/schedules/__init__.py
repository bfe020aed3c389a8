"""Schedules: what time and misfortune do to a run, drawn by hypothesis, and the laws that hold whatever they do."""
