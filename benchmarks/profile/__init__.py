"""The profile of a run: which of our functions each of its processes is busy with, as a table and as a picture."""
