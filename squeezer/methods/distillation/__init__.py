"""Distillation: a network learns from another one's outputs."""
