"""Flow matching in plain torch: noise levels, the one transition kernel, seeded noise and sampling."""
