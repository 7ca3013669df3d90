"""Uploads: bodies as streams, straight to storage."""
