"""What `python -m xrec_jax.report` shows of finished runs: read, put side by side, drawn, laid out as one page."""
