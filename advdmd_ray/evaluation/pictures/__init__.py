"""What people look at: grids of samples, curves, and the page of a run."""
