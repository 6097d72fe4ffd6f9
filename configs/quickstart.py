"""ExpCTR on a small simulated world, where the true reason of every rating is known.

    bash launch/local.sh        # or: python -m xrec_jax.train --config configs/quickstart.py --workdir DIR

About seven minutes on two CPU cores; what comes out stands in docs/expctr.md.
"""

from ml_collections import ConfigDict

from configs import expctr


def get_config() -> ConfigDict:
    config = expctr.get_config('simulated')
    config.data.update({'data_dir': '', 'num_samples': 4000, 'history_length': 6})
    config.data.options.update({'num_users': 400, 'num_items': 300, 'num_interactions': 10_000, 'num_attributes': 8,
                                'attributes_per_item': (1, 1), 'num_loved': 4, 'num_hated': 4, 'noise': 0.3})
    config.generate.max_length = 40
    return config
