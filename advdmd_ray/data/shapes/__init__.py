"""Scenes of coloured shapes: what they are, how they are drawn, asked for in words, and checked."""
