"""A run on a cluster of several nodes whose processes and nodes are killed and stopped, one after another."""
