"""What a run would do: the real controller in virtual time, over workers that only take time."""
