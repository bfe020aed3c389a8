"""GenEval and DPG-Bench: images laid out as their official scorers read them, and the scorers' results as a table."""
