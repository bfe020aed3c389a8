"""The learner station: networks, engines, updates and checkpoints of the gang."""
