"""What recipes may hold: methods and presets."""
