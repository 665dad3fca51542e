"""What can run a model: PyTorch, ONNX Runtime, TensorRT and TensorRT-RTX."""
