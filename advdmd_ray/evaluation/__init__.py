"""Judging samples and reporting."""
