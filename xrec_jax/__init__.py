"""Explainable recommendation with language models, in JAX and Flax."""
