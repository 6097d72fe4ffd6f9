"""The models that others are held against, without explanations: `ctr` and `ranking`."""

from collections.abc import Sequence

from xrec_jax.errors import UserError, nearest


def parse(argument: str, models: Sequence[str]) -> tuple[str, list[str]]:
    """'ml-100k' → the dataset and all `models`; 'ml-100k,bpr,sasrec' → it and those two."""
    dataset, *chosen = argument.split(',')
    for name in chosen:
        if name not in models:
            raise UserError(f'--config …:{argument}: "{name}" is none of the models.{nearest(name, models)}')
    return dataset, [name for name in models if name in chosen or not chosen]
