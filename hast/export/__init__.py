"""A student for the world outside Python: ONNX, torch.export, and how well each agrees with it."""
