"""What a figure rests on: processor, memory, clocks, GPUs, and what else runs."""
