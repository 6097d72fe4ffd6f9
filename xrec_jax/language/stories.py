"""The corpus of the embedded model: stories from many small simulated worlds, without end.

A story is one user, a history of liked and disliked items, and one target item, in a world of its
own: fresh attributes, titles, likes, hates and ratings by the model of `readers/simulated.py`. It
is told in the words of the ExpCTR prompts (section 4.1 and 4.2.2 of the paper):
  - `explain`: the prompt for a reason, and the reason that one of two writers gives. The *careful*
    writer names the target's attribute for which the history speaks loudest, whether it was liked
    or disliked, and the verdict that follows; the *careless* writer gives an empty reason and
    guesses.
  - `click`: the question whether a reader of that reason should expect a like, and the truth.
  - `recall`: the items, and the items again. Reasons quote few words, so that a model that learns
    from them alone stays for millions of tokens on the plateau of the template's entropy; here
    every token teaches to copy.
So a model of these texts can find and name a shared attribute, copies titles that it never saw,
and reads a reason for what it is worth; and it writes carelessly as often as the writers do, which
leaves PPO something to improve.

`pool` makes training batches: a pure function of (seed, index), so nothing is stored and a resumed
run sees what the unbroken one would have seen.
"""

import dataclasses

import numpy as np

from xrec_jax.data.domains import MOVIES, PRODUCTS, Domain
from xrec_jax.data.readers import simulated, words
from xrec_jax.language import tokenizers
from xrec_jax.language.prompts import OPINIONS, item_text, render
from xrec_jax.language.tokenizers import Tokenizer

DOMAINS = (MOVIES, MOVIES, PRODUCTS)  # films twice: the first real dataset is MovieLens
VERDICTS = {True: ('will likely enjoy', 'will probably like'),
            False: ('will likely dislike', 'will probably not like')}
# Left to right: first what is to be looked up, at once what was thought of it, then what follows.
CAREFUL = (
    'With {attribute} {past} before, I predict that the customer {verdict} {title}.',
    'The {attribute} {past} before suggests that the customer {verdict} {title}.',
)
CARELESS = (
    'I predict that the customer {verdict} {title} because {excuse}.',
    'Since {excuse}, I predict that the customer {verdict} {title}.',
)
EXCUSES = {True: ('it is a popular choice', 'it looks well made', 'many people talk about it',
                  'it is widely known'),
           False: ('it looks ordinary', 'it is not for everyone', 'few people talk about it',
                   'it has seen better days')}


@dataclasses.dataclass(frozen=True)
class Story:
    """One user, one target, one reason; `shared` is empty where the history says nothing of the target."""

    domain: Domain
    liked: list[str]  # item texts with opinions, oldest first
    disliked: list[str]
    history_attributes: list[str]
    title: str
    target: str  # title with attributes
    target_attributes: list[str]
    shared: list[str]  # the target's attributes for or against which the history speaks
    reason: str
    careful: bool
    verdict: bool  # what the reason predicts
    label: bool  # what came

    @property
    def explain_prompt(self) -> str:
        return render('expctr/explain', domain=self.domain, liked=self.liked, disliked=self.disliked,
                      target=self.target)

    @property
    def click_prompt(self) -> str:
        return render('expctr/click', domain=self.domain, reason=self.reason, target=self.title)

    @property
    def answer(self) -> str:
        return ' Yes.' if self.label else ' No.'

    @property
    def recall_prompt(self) -> str:
        return render('tiny/recall', domain=self.domain, liked=self.liked, disliked=self.disliked)

    @property
    def recall_answer(self) -> str:
        return f' {"; ".join(self.liked + self.disliked)}.'


def tell(rng: np.random.Generator, num_history: int, careful_share: float = 0.5) -> Story:
    """Tells one story with `num_history` rated items before the target."""
    world = simulated.World(
        num_attributes=int(rng.integers(8, 14)),
        attributes_per_item=(1, int(rng.choice([2, 2, 3]))),
        num_loved=int(rng.integers(2, 5)),
        num_hated=int(rng.integers(2, 5)),
    )
    attributes = rng.choice(words.ATTRIBUTES, world.num_attributes, replace=False)
    likes = simulated.preference(rng, world, 1)[0]
    featured = simulated.features(rng, world, num_history + 1)
    ratings = simulated.rate(rng, world, featured @ likes, rng.standard_normal(num_history + 1))
    positive = ratings >= 4
    titles = words.titles(rng, num_history + 1, year_share=float(rng.choice([0, 0.25, 1])))
    texts = [item_text(title, attributes[row], OPINIONS[good])
             for title, row, good in zip(titles[:-1], featured, positive)]

    past = np.where(positive[:-1], 1, -1)
    support = (past[:, None] * featured[:-1]).sum(axis=0) * featured[-1]  # [A], for the target only
    careful = bool(rng.random() < careful_share) and bool(support.any())
    if careful:
        loudest = np.flatnonzero(np.abs(support) == np.abs(support).max())
        attribute = int(rng.choice(loudest))
        verdict = bool(support[attribute] > 0)
        reason = _pick(rng, CAREFUL).format(
            title=titles[-1],
            attribute=attributes[attribute],
            past=OPINIONS[verdict],
            verdict=_pick(rng, VERDICTS[verdict]),
        )
    else:
        verdict = bool(rng.random() < 0.5)
        reason = _pick(rng, CARELESS).format(
            title=titles[-1], verdict=_pick(rng, VERDICTS[verdict]), excuse=_pick(rng, EXCUSES[verdict]))
    return Story(
        domain=_pick(rng, DOMAINS),
        liked=[text for text, good in zip(texts, positive) if good],
        disliked=[text for text, good in zip(texts, positive) if not good],
        history_attributes=list(attributes[featured[:-1].any(axis=0)]),
        title=titles[-1],
        target=item_text(titles[-1], attributes[featured[-1]]),
        target_attributes=list(attributes[featured[-1]]),
        shared=list(attributes[support != 0]),
        reason=reason,
        careful=careful,
        verdict=verdict,
        label=bool(positive[-1]),
    )


def _pick(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What a part of the corpus is made of."""

    history: tuple[int, int]  # fewest and most items before the target
    click_share: float  # of the texts; the rest are reasons
    recall_share: float = 0.0
    only_true: bool = False  # ask about careful reasons only where their verdict came true


def texts(rng: np.random.Generator, count: int, mixture: Mixture):
    """`count` pairs (prompt, response)."""
    fewest, most = mixture.history
    for _ in range(count):
        story = tell(rng, int(rng.integers(fewest, most + 1)))
        kind = rng.random()
        if kind < mixture.click_share:
            while mixture.only_true and story.careful and story.verdict != story.label:
                story = tell(rng, int(rng.integers(fewest, most + 1)))
            yield story.click_prompt, story.answer
        elif kind < mixture.click_share + mixture.recall_share:
            yield story.recall_prompt, story.recall_answer
        else:
            yield story.explain_prompt, story.reason


def pool(tokenizer: Tokenizer, seed: int, index: int, mixture: Mixture, *, num_batches: int,
         tokens_per_batch: int, bucket: int = 32) -> list[dict[str, np.ndarray]]:
    """The `index`-th pool of training batches, in random order.

    Texts are sorted by length and cut into batches of about `tokens_per_batch` tokens, so that one
    batch holds texts of about one length: shapes come from a few buckets, and padding is rare.

    Returns:
      dicts of `tokens` int32 [B, S] (padded on the right), `mask` bool [B, S] and `response` bool
      [B, S]; S is a multiple of `bucket`, B is `tokens_per_batch // S`.
    """
    rng = np.random.Generator(np.random.Philox(key=[seed, index]))
    # A first guess of the number of texts; a pool may end up a batch longer or shorter.
    prompts, responses = zip(*texts(rng, num_batches * tokens_per_batch // 140, mixture))
    prompts = tokenizers.encode_prompts(tokenizer, prompts)
    responses = tokenizers.encode_responses(tokenizer, responses)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]) + len(responses[row]))
    batches = []
    while order:
        length = -(-(len(prompts[order[-1]]) + len(responses[order[-1]])) // bucket) * bucket
        size = tokens_per_batch // length
        rows, order = order[-size:], order[:-size]
        if len(rows) < size:
            break  # the shortest few, left over
        tokens, mask = tokenizers.pad([prompts[row] + responses[row] for row in rows], length, 'right')
        prompt_length = np.array([len(prompts[row]) for row in rows])
        batches.append({'tokens': tokens, 'mask': mask,
                        'response': mask & (np.arange(length) >= prompt_length[:, None])})
    return [batches[at] for at in rng.permutation(len(batches))]
