"""Scorers: ONNX models over features put together in the manifest's order."""
