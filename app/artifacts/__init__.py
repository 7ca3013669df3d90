"""Artifacts: the files that jobs made, for download."""
