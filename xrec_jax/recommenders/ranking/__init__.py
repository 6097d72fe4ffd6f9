"""Training and evaluation of models that rank all items: one epoch is one `jit`, and so is one evaluation.

  `data`        a protocol's examples -> `Data` (what is trained on) and `Queries` by split, on the device
  `negatives`   items that a user has not met, uniformly
  `training`    shuffle, draw negatives -> lax.scan over batches -> rank for the validation users -> keep the best
  `evaluation`  the top k items of each user, and `metrics.ranking` of them

A ranking model is a Flax module with `user_vectors(user [B], history [B, L]) -> [B, E]`, `item_vectors() -> [I, E]`
and, where it has one, `item_bias() -> [I]`; scores are their product. Histories are as in `sequences`: rows of
the items table + 1, right-aligned, 0 pads; a model without `states` gets L = 0. A model with `constants(user, item)`
gets the collections that this makes of the training interactions (a graph, counts) beside its parameters.

What is trained for is any pure function loss(params, batch, key) -> scalar, the mean over `batch.mask`; hand in
the same function object each time, as it is a static argument of `jit`. `pairwise` makes it of a model's own
`loss(user, item, negative, mask)`: that is BPR-MF and LightGCN; `sequences` has those of the models of histories.

Who is not ranked as the model says:
  a user without history (none of its training items known, or for a sequence model an empty history)
                                             gets the items by their count in training
  an item unseen in training                 stands after all that were seen, in the order of the items table
  k above the number of items that are left  the list ends early: -1
  what a user met in training, and for test also in validation, is never recommended (unless `mask_seen` is off),
                                             except where it is what is held out (met again), as in RecBole 1.2.1

All is plain `jnp`: several seeds are a `vmap` over states, and another learning rate needs no other compilation.

`N` targets, `U` users, `I` items, `B` batch, `L` history, `E` embedding, `Q` queries, `M` interactions, `S` seeds.
"""

from xrec_jax.recommenders.ranking.data import Batch, Data, Positives, Queries, Targets, make_data
from xrec_jax.recommenders.ranking.evaluation import counts, evaluate, recommend, scores
from xrec_jax.recommenders.ranking.negatives import draw_negatives
from xrec_jax.recommenders.ranking.training import (
    Loss, RankingConfig, State, abstract_state, finished, fit, init_seeds, init_state, pairwise, run_epoch,
    run_epoch_of_seeds, state_specs)

__all__ = ['Batch', 'Data', 'Loss', 'Positives', 'Queries', 'RankingConfig', 'State', 'Targets', 'abstract_state',
           'counts', 'draw_negatives', 'evaluate', 'finished', 'fit', 'init_seeds', 'init_state', 'make_data',
           'pairwise', 'recommend', 'run_epoch', 'run_epoch_of_seeds', 'scores', 'state_specs']
