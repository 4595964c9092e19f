"""Data: from folders of sound files to batches that are a function of (seed, step)."""
