"""The card against counts by hand."""

import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pytest

from tests.data.test_tables import small
from xrec_jax.data import card, catalog, tables

REAL = pathlib.Path(__file__).parents[3] / 'shared' / 'data' / 'ml-100k'


def facts(dataset) -> dict[str, str]:
    return dict(card.card(dataset))


def rated(ratings, scale=(1.0, 5.0), **columns) -> tables.Dataset:
    """`small` with other interactions: the first user and the first item, as often as there are ratings."""
    dataset = small()
    first = np.zeros(len(ratings), np.int32)
    return tables.validate(dataclasses.replace(dataset, rating_scale=scale, interactions=tables.interactions(
        dataset.users, dataset.items, user=first, item=first, rating=pa.array(ratings, pa.float32()), **columns)))


def test_counts_by_hand():
    assert facts(small()) == {
        'dataset': 'small', 'users': '2', 'items': '3', 'interactions': '4',
        'per user': '2.00 on average (2 to 2)', 'per item': '1.33 on average (0 to 2)', 'density': '66.67%',
        'ratings': '1: 33.3%  4: 33.3%  5: 33.3%  (and 1 without, implicit)', 'reviews': '1', 'aspects': '2',
        'time': '1970-01-01 to 1970-01-02 (1 not known)', 'licence': 'none'}


def test_without_ratings_and_times():
    found = facts(rated([None, None]))
    assert (found['ratings'], found['time'], found['reviews']) == ('none (implicit)', 'not known', '0')


def test_ratings_are_in_order_and_a_fine_scale_is_in_ten_bins():
    assert facts(rated([4.5, 0.5, 4.5, 3.0], (0.5, 5.0)))['ratings'] == '0.5: 25.0%  3: 25.0%  4.5: 50.0%'
    assert facts(rated([n / 2 for n in range(1, 11)], (0.5, 5.0)))['ratings'].count('10.0%') == 10
    fine = facts(rated(np.arange(0, 20, dtype=np.float32), (0.0, 20.0)))['ratings']
    assert fine == '  '.join(f'{low}: 10.0%' for low in range(0, 20, 2))


@pytest.mark.parametrize('share, shown', [
    (0.063, '6.30%'), (1, '100.00%'), (0.00123, '0.12%'), (0.000999, '0.100%'), (5.2e-6, '0.00052%'),
    (1e-9, '0.00000010%')])
def test_small_densities_keep_two_digits(share, shown):
    assert card._percent(share) == shown


def test_filters_and_bad_rows_are_told():
    found = facts(small(recipe={'filters': 'min_per_user=5', 'rows_filtered': 1234,
                                'rows_skipped': {'x.csv': 2}}))
    assert found['filters'] == 'min_per_user=5 (1,234 interactions left out)'
    assert found['bad rows'] == '2 of x.csv passed over'
    assert not {'filters', 'bad rows'} & set(facts(small(recipe={'filters': 'none', 'rows_filtered': 0,
                                                                 'rows_skipped': {}})))


def test_ml_100k_is_that_of_table_1_of_llmxrec():
    if not REAL.is_dir():
        pytest.skip(f'{REAL} is not there (MovieLens may not be passed on)')
    found = facts(catalog.load('ml-100k', REAL))
    assert (found['users'], found['items'], found['interactions']) == ('943', '1,682', '100,000')
    assert found['per user'].startswith('106.04 ') and found['per item'].startswith('59.45 ')
    assert found['density'] == '6.30%' and found['time'] == '1997-09-20 to 1998-04-22'
    assert found['ratings'] == '1: 6.1%  2: 11.4%  3: 27.1%  4: 34.2%  5: 21.2%'
