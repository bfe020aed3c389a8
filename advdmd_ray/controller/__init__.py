"""The controller: the loops of a run, what they work against, and what they say of it."""
