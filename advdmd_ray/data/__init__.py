"""Real images and prompts."""
