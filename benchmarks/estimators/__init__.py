"""What an estimator of RL's gradient is worth: its noise, what it does to the exact checker, what it costs."""
