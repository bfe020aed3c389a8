"""Losses as small pure functions in plain torch: one module per station of the learner."""
