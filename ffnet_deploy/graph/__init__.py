"""ONNX graphs: export from PyTorch, and passes that change their precision."""
