"""Versioned weights that prove themselves: snapshots, how they are loaded, and who runs what."""
