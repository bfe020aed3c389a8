"""The benchmark behind `make bench-gpu`: rollouts and learner updates of networks of full size with random weights."""
