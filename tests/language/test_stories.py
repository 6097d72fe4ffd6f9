"""Stories: reasons that hold, and batches that are a pure function of (seed, index)."""

import collections
import re

import numpy as np
import pytest

from xrec_jax.language import stories, tokenizers
from xrec_jax.language.stories import Mixture, pool, tell

MIXTURE = Mixture(history=(2, 8), click_share=0.3, recall_share=0.2)
SIZES = {'num_batches': 4, 'tokens_per_batch': 2048}


@pytest.fixture(scope='module')
def told():
    return [tell(np.random.default_rng(seed), 2 + seed % 8) for seed in range(300)]


@pytest.fixture(scope='module')
def tokenizer():
    rng = np.random.default_rng(0)
    return tokenizers.train_tokenizer(
        [prompt + response for prompt, response in stories.texts(rng, 100, MIXTURE)], vocab_size=600)


@pytest.fixture(scope='module')
def batches(tokenizer):
    return pool(tokenizer, 5, 0, MIXTURE, **SIZES)


def attributes_of(text):
    """The attributes of an item's text, without opinions."""
    return {shown.split(' ')[0] for shown in text.rpartition(' - ')[2].split(', ')}


def claim(story):
    """What a careful reason says first: (attribute, whether it was liked)."""
    attribute, past = re.match(r'(?:With|The) (\S+) (liked|disliked) before', story.reason).groups()
    return attribute, past == 'liked'


def promises(reason):
    """Whether a reason foretells a like."""
    verdict, = [good for good, ways in stories.VERDICTS.items() if any(way in reason for way in ways)]
    return verdict


def balance(story):
    """Items liked less items disliked, by attribute of the history."""
    count = collections.Counter()
    for texts, sign in ((story.liked, 1), (story.disliked, -1)):
        for text in texts:
            count.update({attribute: sign for attribute in attributes_of(text)})
    return count


def test_careful_reason_names_a_shared_attribute_what_was_thought_of_it_and_what_follows(told):
    careful = [story for story in told if story.careful]
    assert 0.2 < len(careful) / len(told) < 0.6
    for story in careful:
        attribute, liked = claim(story)
        assert attribute in story.shared and attribute in attributes_of(story.target)
        assert promises(story.reason) == story.verdict == liked
        assert story.title in story.reason


def test_careful_reason_names_the_attribute_for_which_the_history_speaks_loudest(told):
    for story in told:
        of_target = {attribute: balance(story)[attribute] for attribute in story.target_attributes}
        assert {attribute for attribute, value in of_target.items() if value} == set(story.shared)
        if story.careful:
            attribute, liked = claim(story)
            assert abs(of_target[attribute]) == max(abs(value) for value in of_target.values())
            assert (of_target[attribute] > 0) == liked


def test_history_tells_of_each_attribute_what_was_thought_of_the_item(told):
    for story in told[:50]:
        for texts, opinion in ((story.liked, 'liked'), (story.disliked, 'disliked')):
            for text in texts:
                assert all(shown.split(' ')[1] == opinion for shown in text.rpartition(' - ')[2].split(', '))
        assert set(story.target.rpartition(' - ')[2].split(', ')) == set(story.target_attributes)
        assert set(story.history_attributes) == set(balance(story))


def test_careless_reason_names_no_attribute_and_no_item_of_the_history(told):
    for story in told:
        if not story.careful:
            assert any(excuse in story.reason for excuses in stories.EXCUSES.values() for excuse in excuses)
            assert ' before' not in story.reason


def test_history_has_the_length_that_was_asked_for(told):
    for seed, story in enumerate(told):
        assert len(story.liked) + len(story.disliked) == 2 + seed % 8


def test_prompts_show_what_the_story_holds(told):
    for story in told[:50]:
        prompt = story.explain_prompt
        assert all(text in prompt for text in story.liked + story.disliked + [story.target])
        assert story.reason not in prompt and story.reason in story.click_prompt
        assert story.answer == (' Yes.' if story.label else ' No.')
        assert story.recall_answer == ' ' + '; '.join(story.liked + story.disliked) + '.'


def test_careful_reasons_predict_the_label_better_than_careless_ones(told):
    def accuracy(careful):
        return np.mean([promises(story.reason) == story.label for story in told if story.careful == careful])

    assert accuracy(True) > 0.65 > 0.6 > accuracy(False)


def test_story_is_a_pure_function_of_its_generator():
    assert tell(np.random.default_rng(3), 5) == tell(np.random.default_rng(3), 5)


def test_pool_is_a_pure_function_of_seed_and_index(tokenizer, batches):
    pool(tokenizer, 5, 1, MIXTURE, **SIZES)  # whatever happened in between
    np.random.default_rng().random()
    again = pool(tokenizer, 5, 0, MIXTURE, **SIZES)
    assert len(again) == len(batches)
    for one, other in zip(batches, again):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    for seed, index in ((5, 1), (6, 0)):
        other = pool(tokenizer, seed, index, MIXTURE, **SIZES)
        rows = {bytes(row) for batch in batches for row in batch['tokens'][:, :32].copy()}
        fresh = [bytes(row) in rows for batch in other for row in batch['tokens'][:, :32].copy()]
        assert np.mean(fresh) < 0.9


def test_shapes_come_from_few_buckets_of_a_fixed_number_of_tokens(batches):
    assert len(batches) >= 2
    for batch in batches:
        size, length = batch['tokens'].shape
        assert length % 32 == 0 and size == 2048 // length
        assert batch['tokens'].dtype == np.int32
        assert batch['mask'].dtype == batch['response'].dtype == bool
        assert batch['mask'].sum(axis=1).max() > length - 32


def test_response_mask_covers_exactly_the_response_and_its_eos(tokenizer, batches):
    kinds = set()
    for batch in batches:
        for tokens, mask, response in zip(batch['tokens'], batch['mask'], batch['response']):
            length, first = int(mask.sum()), int(response.argmax())
            assert mask[:length].all() and response[first:length].all()  # each in one piece
            assert not mask[length:].any() and not response[length:].any() and not response[:first].any()
            assert tokens[0] == tokenizer.bos_token_id
            assert (tokens[:length] == tokenizer.eos_token_id).sum() == 1
            assert tokens[length - 1] == tokenizer.eos_token_id
            prompt, answer = tokenizer.decode(tokens[1:first]), tokenizer.decode(tokens[first:length - 1])
            if prompt.startswith('Given how'):
                kinds.add('click')
                assert answer in (' Yes.', ' No.') and prompt.endswith(':')
            elif prompt.startswith('You are'):
                kinds.add('explain')
                assert answer.endswith('.') and prompt.endswith('one sentence.\n')
            else:
                kinds.add('recall')
                assert prompt.endswith('in the same order:')
                assert all(item in prompt for item in answer.strip(' .').split('; '))
    assert kinds == {'click', 'explain', 'recall'}


def test_mixture_sets_the_shares():
    prompts = [prompt for prompt, _ in stories.texts(np.random.default_rng(1), 400, MIXTURE)]
    for share, sign in ((0.3, 'Given how'), (0.2, 'Name all'), (0.5, 'You are')):
        assert abs(np.mean([sign in prompt for prompt in prompts]) - share) < 0.08


def test_only_true_asks_about_careful_reasons_whose_verdict_came_true():
    rng = np.random.Generator(np.random.Philox(3))
    asked = list(stories.texts(rng, 200, stories.Mixture((4, 6), 1.0, only_true=True)))
    said_yes = [promises(prompt) for prompt, _ in asked]
    careful = [' before' in prompt for prompt, _ in asked]
    agrees = [yes == (answer == ' Yes.') for yes, (_, answer) in zip(said_yes, asked)]
    assert all(agree for agree, known in zip(agrees, careful) if known)
    assert 0.3 < np.mean([agree for agree, known in zip(agrees, careful) if not known]) < 0.7
