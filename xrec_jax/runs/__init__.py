"""A run on disk: state, checkpoints, metrics, progress."""
