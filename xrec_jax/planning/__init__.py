"""What a run asks of its devices, on paper: `xrec_jax.plan`."""
