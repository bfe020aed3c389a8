"""Where else the figures and pictures of a run go, beside /metrics and metrics.jsonl."""
