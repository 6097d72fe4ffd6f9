"""What models that learn to write (PETER) learn from: a text of each training example, in words.

A training example's text is the review of its interaction, cut to the model's `max_words` words; where there is no review
it is the item's title and attributes (`Task.item_texts`), so that of data without reviews PETER learns to name the item.
The vocabulary is that of the training examples' texts, and is not kept: the same run makes the same again.
"""

import functools

import ml_collections
import numpy as np
import pyarrow as pa
import tokenizers

from xrec_jax.errors import UserError
from xrec_jax.phases.task import Task
from xrec_jax.recommenders import words as words_lib
from xrec_jax.recommenders.predictor import Predictor


def texts(task: Task) -> list[str]:
    """Of each training example."""
    train = task.examples['train']
    reviews = task.dataset.interactions['review'].take(pa.array(train.interaction)).to_pylist()
    return [review if review and review.strip() else task.item_texts[item]
            for review, item in zip(reviews, train.item.tolist())]


def vocabulary(task: Task, model: type[Predictor], settings: ml_collections.ConfigDict) -> tokenizers.Tokenizer:
    """For a fit of `model` with `settings`; UserError for a size that holds no words."""
    most = settings.model.get('max_vocabulary', model.max_vocabulary)
    if most <= len(words_lib.SPECIAL):
        raise UserError(f'fit({settings.name}): max_vocabulary={most} should be above {len(words_lib.SPECIAL)}.')
    return _vocabulary(task, most)


@functools.lru_cache(maxsize=2)
def _vocabulary(task: Task, most: int) -> tokenizers.Tokenizer:
    return words_lib.train_vocabulary(texts(task), most)


def words(task: Task, model: type[Predictor], settings: ml_collections.ConfigDict) -> np.ndarray:
    """int32 [N, max_words + 1], of each training example: `words.encode`."""
    most = settings.model.get('max_words', model.max_words)
    return words_lib.encode(vocabulary(task, model, settings), texts(task), most)
