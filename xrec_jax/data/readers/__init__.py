"""One reader a publisher: raw files to the three tables."""
