"""The page of a run: what its folder holds, for a reader, live in a browser or frozen as one file."""
