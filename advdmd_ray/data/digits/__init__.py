"""Handwritten digits: the images, their prompts and their judge."""
