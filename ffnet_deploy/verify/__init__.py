"""Is it still the same network? Rungs and inner tensors compared with PyTorch."""
