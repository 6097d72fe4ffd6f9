"""From raw files to tables, examples and batches; knows nothing of models."""
