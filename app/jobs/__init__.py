"""Jobs: the table that is the truth about all work."""
