"""The benchmark behind `make bench`: what a run does on the host, against its rivals, in turns."""
