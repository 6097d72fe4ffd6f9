"""Explainable recommendation with language models, in JAX and Flax."""

from xrec_jax.parallel import host_threads

host_threads.give()  # before anything asks JAX for its devices
