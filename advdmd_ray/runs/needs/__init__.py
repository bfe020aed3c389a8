"""What a run needs: forwards, activations, memory, and who gets which cores and GPUs."""
