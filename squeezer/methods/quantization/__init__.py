"""Quantisation: how few values the kept weights may take."""
