"""Fields against tables written by hand and properties that any vocabulary must have."""

import jax
import numpy as np
import pyarrow as pa
import pytest

from xrec_jax.data import tables
from xrec_jax.data.domains import MOVIES
from xrec_jax.errors import UserError
from xrec_jax.recommenders import fields

USERS = [{'age': '24', 'gender': 'male', 'zip': '1'}, {'age': '17', 'gender': 'female', 'zip': '2'},
         {'age': '18', 'zip': '3'}]
ITEMS = [['war', 'drama'], [], ['comedy', 'war', 'war']]


def dataset(users=USERS, items=ITEMS) -> tables.Dataset:
    users = tables.table(tables.USERS, user_id=list('abc'), profile=pa.array(
        [list(u.items()) for u in users], tables.USERS.field('profile').type))
    items = tables.table(tables.ITEMS, item_id=list('xyz'), title=list('XYZ'), attributes=items)
    return tables.validate(tables.Dataset(
        name='hand',
        interactions=tables.interactions(users, items, user=['a'], item=['x'], rating=pa.array([1.0], pa.float32()),
                                         timestamp=[0]),
        users=users, items=items, rating_scale=(1.0, 5.0), domain=MOVIES, licence='none'))


def test_hand_example():
    f = fields.build_fields(dataset())
    assert f.names == ('user_id', 'profile.age', 'profile.gender', 'item_id', 'attributes')
    assert f.sizes == (3, 2, 2, 3, 3)  # ages '1' and '18'; female, male; comedy, drama, war
    np.testing.assert_array_equal(f.user_fields, [[1, 5, 7], [2, 4, 6], [3, 5, 0]])
    np.testing.assert_array_equal(f.item_fields, [[8], [9], [10]])
    np.testing.assert_array_equal(f.item_attributes, [[12, 13], [0, 0], [11, 13]])
    assert f.user_fields.dtype == f.item_fields.dtype == f.item_attributes.dtype == np.int32


def test_ranges_do_not_overlap_and_fit_the_vocabulary():
    f = fields.build_fields(dataset())
    ends = 1 + np.cumsum((0, *f.sizes))
    columns = [*np.asarray(f.user_fields).T, *np.asarray(f.item_fields).T,
               np.asarray(f.item_attributes).ravel()]
    for column, low, high in zip(columns, ends[:-1], ends[1:]):
        used = column[column > 0]
        assert set(used.tolist()) == set(range(low, high))  # every id of the range is some value
    assert f.vocab_size >= ends[-1] and f.vocab_size % 128 == 0 and f.vocab_size - 128 < ends[-1]


@pytest.mark.parametrize('chosen, names, shapes', [
    (('user_id', 'item_id'), ('user_id', 'item_id'), ((3, 1), (3, 1), (3, 0))),
    (('item_id', 'attributes'), ('item_id', 'attributes'), ((3, 0), (3, 1), (3, 2))),
    (('profile',), ('profile.age', 'profile.gender'), ((3, 2), (3, 0), (3, 0))),
])
def test_only_the_chosen_fields(chosen, names, shapes):
    f = fields.build_fields(dataset(), chosen)
    assert f.names == names
    assert (f.user_fields.shape, f.item_fields.shape, f.item_attributes.shape) == shapes


@pytest.mark.parametrize('age, group', [
    ('1', '1'), ('7', '1'), ('17', '1'), ('18', '18'), ('24', '18'), ('25', '25'), ('34', '25'),
    ('49', '45'), ('50', '50'), ('55', '50'), ('56', '56'), ('73', '56'), ('young', 'young')])
def test_ages_fall_into_the_groups_of_movielens_1m(age, group):
    assert fields.age_group(age) == group


@pytest.mark.parametrize('chosen, message', [
    (('user_id', 'items'), 'fields: "items" is no field'), (('user_ids',), 'Did you mean "user_id"'),
    ((), 'at least one of user_id, item_id')])
def test_unknown_or_no_fields_are_refused(chosen, message):
    with pytest.raises(UserError, match=message):
        fields.build_fields(dataset(), chosen)


def test_fields_without_any_value_are_refused():
    bare = dataset(users=[{}, {}, {}], items=[[], [], []])
    with pytest.raises(UserError, match='has no profile and no attributes'):
        fields.build_fields(bare, ('profile', 'attributes'))
    assert fields.build_fields(bare).names == ('user_id', 'item_id')


def test_fields_pass_through_jit():
    f = fields.build_fields(dataset())
    np.testing.assert_array_equal(
        jax.jit(lambda f, u: f.user_fields[u] + f.vocab_size - 128)(f, np.array([2])), [[3, 5, 0]])
