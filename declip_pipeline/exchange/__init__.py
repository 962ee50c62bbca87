"""Decoders from and for others: the published checkpoints, and ONNX."""
