"""Every figure that is quoted anywhere, one command each: `python -m benchmarks.NAME`."""
