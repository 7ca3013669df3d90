"""Pruning: which weights go."""
