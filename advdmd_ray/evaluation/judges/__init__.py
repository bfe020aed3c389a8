"""Judges: what a figure is, how a sampler is drawn for one, and the one of images that nobody can check."""
