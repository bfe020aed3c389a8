"""Metrics: one catalogue of every series, one hub that serves them and writes metrics.jsonl."""
