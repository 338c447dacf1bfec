"""Architectures, and how a model is stored: model.safetensors and config.json, no pickle."""
