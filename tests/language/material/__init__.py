"""Tests; the folders mirror xrec_jax/."""
