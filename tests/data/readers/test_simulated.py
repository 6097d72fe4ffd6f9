"""The simulated world against its stated model: ratings, true reasons, reviews, reproducibility."""

import dataclasses
import math

import numpy as np
import pytest

from xrec_jax.data import tables
from xrec_jax.data.readers import simulated, words
from xrec_jax.errors import UserError

WORLD = simulated.World(num_users=60, num_items=80, num_interactions=2000, seed=5)


@pytest.fixture(scope='module')
def dataset():
    return simulated.simulate(WORLD)


def test_the_tables_are_sound_and_of_the_size_asked_for(dataset):
    tables.validate(dataset)
    assert (dataset.users.num_rows, dataset.items.num_rows, dataset.interactions.num_rows) == (
        60, 80, 2000)
    assert simulated.World(**dataset.recipe) == WORLD


def test_no_pair_is_met_twice_and_users_meet_about_equally_many(dataset):
    rows = dataset.interactions.select(['user_id', 'item_id']).to_pylist()
    assert len({(r['user_id'], r['item_id']) for r in rows}) == len(rows)
    counts = np.unique([r['user_id'] for r in rows], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1


def test_titles_are_unique_and_attributes_as_many_as_said(dataset):
    items = dataset.items.to_pylist()
    assert len({item['title'] for item in items}) == len(items)
    assert {len(item['attributes']) for item in items} == {1, 2}
    assert all(len(set(item['attributes'])) == len(item['attributes']) for item in items)
    used = {a for item in items for a in item['attributes']}
    assert used <= set(words.ATTRIBUTES) and len(used) == WORLD.num_attributes


def reasons_by_user(dataset) -> dict[str, tuple[set, set]]:
    """(named, passed over): attributes that were, or were not, given as reasons by each user."""
    attributes = {i['item_id']: i['attributes'] for i in dataset.items.to_pylist()}
    result = {u: (set(), set()) for u in dataset.users['user_id'].to_pylist()}
    for row in dataset.interactions.to_pylist():
        featured = set(attributes[row['item_id']])
        assert set(row['aspects']) <= featured and len(set(row['aspects'])) == len(row['aspects'])
        named, passed = result[row['user_id']]
        named |= set(row['aspects'])
        passed |= featured - set(row['aspects'])
    return result


def test_aspects_are_exactly_the_users_decisive_attributes_that_the_item_features(dataset):
    for named, passed in reasons_by_user(dataset).values():
        assert not named & passed  # decisive in one place, decisive in every place
        assert len(named) <= WORLD.num_loved + WORLD.num_hated
    totals = [len(named) for named, _ in reasons_by_user(dataset).values()]
    assert np.mean(totals) > 5.5  # with 33 interactions nearly all six show


def planted(world):
    """The world's own draws again, by its seed: likes [U, A], featured [I, A], attribute names."""
    rng = np.random.Generator(np.random.Philox(world.seed))
    names = rng.permutation(np.array(words.ATTRIBUTES))[:world.num_attributes]
    likes = simulated.preference(rng, world, world.num_users)
    featured = simulated.features(rng, world, world.num_items)
    return names.tolist(), likes, featured, rng.standard_normal(world.num_items)


def test_aspects_and_reviews_equal_a_slow_loop_over_the_plant(dataset):
    names, likes, featured, _ = planted(WORLD)
    verdict = {1: 'Awful.', 2: 'Not for me.', 3: 'It was fine.', 4: 'I liked it.', 5: 'I loved it.'}
    for row in dataset.interactions.to_pylist():
        u, i = int(row['user_id'][1:]) - 1, int(row['item_id'][1:]) - 1
        loved = [n for a, n in enumerate(names) if featured[i, a] and likes[u, a] == 1]
        hated = [n for a, n in enumerate(names) if featured[i, a] and likes[u, a] == -1]
        assert sorted(row['aspects']) == sorted(loved + hated)
        review = verdict[row['rating']]
        review += f' What I enjoy is {" and ".join(loved)}.' if loved else ''
        review += f' What I cannot stand is {" and ".join(hated)}.' if hated else ''
        assert row['review'] == review


def test_users_love_and_hate_as_many_attributes_as_said():
    likes = simulated.preference(np.random.default_rng(0), WORLD, 4000)
    assert (np.sum(likes == 1, axis=1) == 3).all() and (np.sum(likes == -1, axis=1) == 3).all()
    np.testing.assert_allclose(likes.mean(axis=0), 0, atol=0.06)  # no attribute is favoured
    np.testing.assert_allclose((likes == 1).mean(axis=0), 0.25, atol=0.04)


def probability(stars: int, mean: float, noise: float) -> float:
    """P(clip(round(mean + noise ε), 1, 5) = stars) from the normal distribution."""
    below = lambda x: 0.5 * (1 + math.erf((x - mean) / noise / math.sqrt(2)))
    high = 1.0 if stars == 5 else below(stars + 0.5)
    return high - (0.0 if stars == 1 else below(stars - 0.5))


@pytest.mark.parametrize('balance', [-2, -1, 0, 1, 2])
@pytest.mark.parametrize('quality', [-1.3, 0.0, 0.8])
def test_ratings_follow_the_stated_distribution(balance, quality):
    n = 20_000
    rating = simulated.rate(np.random.default_rng(0), dataclasses.replace(WORLD, noise=0.7, quality=0.9),
                            np.full(n, balance), np.full(n, quality))
    assert rating.dtype == np.float32
    for stars in range(1, 6):
        p = probability(stars, 3.5 + 1.5 * balance + 0.9 * quality, 0.7)
        assert np.mean(rating == stars) == pytest.approx(p, abs=5 * math.sqrt(p * (1 - p) / n) + 1e-9)


def test_without_noise_ratings_equal_a_slow_loop():
    world = dataclasses.replace(WORLD, noise=0.0)
    _, likes, featured, quality = planted(world)
    for row in simulated.simulate(world).interactions.to_pylist():
        u, i = int(row['user_id'][1:]) - 1, int(row['item_id'][1:]) - 1
        balance = 0
        for a in range(world.num_attributes):
            balance += int(featured[i, a]) * int(likes[u, a])
        assert row['rating'] == min(max(round(3.5 + 1.5 * balance + 0.4 * quality[i]), 1), 5)


def test_users_meet_what_they_love_more_often_than_what_they_hate(dataset):
    names, likes, featured, _ = planted(WORLD)
    user = tables.codes(dataset.interactions['user_id'])
    item = tables.codes(dataset.interactions['item_id'])
    met = np.zeros((WORLD.num_users, WORLD.num_items), bool)
    met[user, item] = True
    loves = ((likes == 1).astype(int) @ featured.T.astype(int)) > 0
    hates = ((likes == -1).astype(int) @ featured.T.astype(int)) > 0
    assert met[loves & ~hates].mean() > met[hates & ~loves].mean() + 0.03


def test_same_seed_same_tables_and_another_seed_others(dataset):
    again = simulated.simulate(dataclasses.replace(WORLD))
    other = simulated.simulate(dataclasses.replace(WORLD, seed=6))
    for name in tables.SCHEMAS:
        assert getattr(again, name).equals(getattr(dataset, name))
        assert not getattr(other, name).equals(getattr(dataset, name))


@pytest.mark.parametrize('world', [
    simulated.World(num_users=4, num_items=5, num_interactions=20),  # every pair there is
    simulated.World(num_users=9, num_items=5, num_interactions=4),   # users who meet nothing
    simulated.World(num_users=3, num_items=4, num_interactions=6, num_attributes=1,
                    attributes_per_item=(0, 1), num_loved=0, num_hated=1),
    simulated.World(num_users=1, num_items=1, num_interactions=1),
], ids=['full', 'sparse', 'one attribute', 'one pair'])
def test_the_smallest_worlds_stand(world):
    dataset = simulated.simulate(world)
    rows = dataset.interactions.select(['user_id', 'item_id']).to_pylist()
    assert len({(r['user_id'], r['item_id']) for r in rows}) == world.num_interactions == len(rows)


def test_fifty_thousand_interactions():
    dataset = simulated.simulate(simulated.World(
        num_users=1500, num_items=600, num_interactions=50_000, num_attributes=40))
    assert dataset.interactions.num_rows == 50_000
    codes = (tables.codes(dataset.interactions['user_id']).astype(np.int64)
             * 600 + tables.codes(dataset.interactions['item_id']))
    assert len(np.unique(codes)) == 50_000
    popularity = np.sort(np.bincount(codes % 600))[::-1]
    assert popularity[:60].sum() > 2.0 * popularity[-300:].sum() / 5  # a head and a tail


@pytest.mark.parametrize('options, message', [
    (dict(num_users=0), 'num_users=0: should be an integer of at least 1'),
    (dict(num_users='40'), "num_users='40'"), (dict(num_items=2.5), 'num_items=2.5'),
    (dict(num_loved=-1), 'num_loved=-1'), (dict(seed=None), 'seed=None'), (dict(seed=True), 'seed=True'),
    (dict(noise=-0.1), 'noise=-0.1'), (dict(noise='x'), "noise='x'"), (dict(quality=-1), 'quality=-1'),
    (dict(noise=float('nan')), 'noise=nan'),
    (dict(attributes_per_item=2), 'attributes_per_item=2: should be two'),
    (dict(attributes_per_item=(1, 2, 3)), 'should be two'),
    (dict(attributes_per_item=(1, 'two')), "attributes_per_item='two'"),
    (dict(attributes_per_item=(3, 2)), 'fewest and most'),
    (dict(attributes_per_item=(1, 13)), 'no more than num_attributes=12'),
    (dict(num_attributes=1000), 'num_attributes=1000: there are words for'),
    (dict(num_loved=8, num_hated=5), 'together more than num_attributes=12'),
    (dict(num_interactions=120_001), '400 users and 300 items have only 120000 pairs')])
def test_a_world_that_cannot_be_is_refused(options, message):
    with pytest.raises(UserError) as error:
        simulated.World(**options)
    assert message in str(error.value)


def test_lists_numpy_numbers_and_whole_noise_are_taken():
    world = simulated.World(num_users=np.int64(3), attributes_per_item=[1, 2], noise=1,
                            num_interactions=5)
    assert world.attributes_per_item == (1, 2) and type(world.num_users) is int
    assert isinstance(world.noise, float) and hash(world)
