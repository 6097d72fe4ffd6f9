"""From the tables of a dataset to the categorical fields that predictors embed.

Every field has its own range of one shared vocabulary (id 0 means absent, the first field starts
at 1), as RecBole does, so that a predictor holds one embedding table:

  user_id     the row in the users table
  item_id     the row in the items table
  profile     one field for each key of the users' profiles; `age` in MovieLens-1M's groups, no zip
  attributes  one multi-valued field of the items, padded with 0
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from xrec_jax.data import tables
from xrec_jax.errors import UserError, nearest
from xrec_jax.recommenders.tables import padded

FIELDS = ('user_id', 'item_id', 'profile', 'attributes')
AGE_GROUPS = (18, 25, 35, 45, 50, 56)  # first ages of MovieLens-1M's groups after "under 18"
_NOT_CATEGORIES = ('zip', 'zip_code', 'zipcode')  # nearly one value a user


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=['user_fields', 'item_fields', 'item_attributes'], meta_fields=['names', 'sizes'])
@dataclasses.dataclass(frozen=True)
class Fields:
    """Categorical features by row of the users and items tables; a pytree, so `jit` takes it."""

    user_fields: jax.Array      # int32 [U, Fu]
    item_fields: jax.Array      # int32 [I, Fi]
    item_attributes: jax.Array  # int32 [I, A], 0 = pad; A = 0 where attributes are not used
    names: tuple[str, ...]      # of all fields in the order of their ranges
    sizes: tuple[int, ...]      # values of each field; field n starts at 1 + sum(sizes[:n])

    @property
    def vocab_size(self) -> int:
        """Rows of the shared embedding table: every field's values and 0, rounded up to 128."""
        return padded(1 + sum(self.sizes))


def age_group(age: str) -> str:
    """MovieLens-1M's group of an age in years, by its first age ('1' under 18); else unchanged."""
    try:
        years = float(age)
    except ValueError:
        return age
    return str(max((first for first in AGE_GROUPS if first <= years), default=1))


def build_fields(dataset: tables.Dataset, fields: Sequence[str] = FIELDS) -> Fields:
    """Builds the fields named in `fields` (any of `FIELDS`) from the users and items tables.

    Raises:
      UserError: an unknown field, none, or only such as the dataset has no values for.
    """
    for name in fields:
        if name not in FIELDS:
            raise UserError(f'fields: "{name}" is no field of a predictor.{nearest(name, FIELDS)}')
    if not fields:
        raise UserError(f'fields: a predictor needs at least one of {", ".join(FIELDS)}.')
    num_users, num_items = dataset.users.num_rows, dataset.items.num_rows
    names, sizes = [], []

    def place(name: str, ids: np.ndarray, size: int) -> np.ndarray:
        """Moves ids (-1 = absent) to the next free range of the vocabulary."""
        start = 1 + sum(sizes)
        names.append(name)
        sizes.append(size)
        return np.where(ids < 0, 0, ids + start).astype(np.int32)

    user_columns, item_columns = [], []
    if 'user_id' in fields:
        user_columns.append(place('user_id', np.arange(num_users), num_users))
    if 'profile' in fields:
        for key, values in _profile_columns(dataset.users['profile'].to_pylist()).items():
            user_columns.append(place(f'profile.{key}', *_categories(values)))
    if 'item_id' in fields:
        item_columns.append(place('item_id', np.arange(num_items), num_items))
    attributes = np.zeros((num_items, 0), np.int32)
    if 'attributes' in fields:
        padded, size = _multi_valued(dataset.items['attributes'].to_pylist())
        if size:
            attributes = place('attributes', padded, size)
    if not names:
        raise UserError(f'fields: dataset "{dataset.name}" has no {" and no ".join(fields)}; add '
                        '"user_id" or "item_id".')
    return Fields(
        user_fields=jnp.asarray(_stack(user_columns, num_users)),
        item_fields=jnp.asarray(_stack(item_columns, num_items)),
        item_attributes=jnp.asarray(attributes),
        names=tuple(names), sizes=tuple(sizes))


def _stack(columns: list[np.ndarray], num_rows: int) -> np.ndarray:
    return np.stack(columns, axis=1) if columns else np.zeros((num_rows, 0), np.int32)


def _profile_columns(profiles: list) -> dict[str, list[str | None]]:
    """Profiles (maps as lists of pairs) as one column a key, in alphabetical order of keys."""
    rows = [dict(profile or ()) for profile in profiles]
    keys = sorted({key for row in rows for key in row if key.lower() not in _NOT_CATEGORIES})
    columns = {key: [row.get(key) for row in rows] for key in keys}
    return {key: [v and age_group(v) for v in column] if key.lower() == 'age' else column
            for key, column in columns.items()}


def _categories(values: list[str | None]) -> tuple[np.ndarray, int]:
    """Ids by alphabetical order of the values, -1 where there is none, and their number."""
    ids = {value: n for n, value in enumerate(sorted({v for v in values if v}))}
    return np.array([ids.get(value, -1) for value in values], np.int64), len(ids)


def _multi_valued(rows: list[list[str] | None]) -> tuple[np.ndarray, int]:
    """Ids [N, A] padded with -1 on the right (A = the longest row), and the number of values."""
    rows = [sorted(set(row or ())) for row in rows]
    ids = {value: n for n, value in enumerate(sorted({v for row in rows for v in row}))}
    padded = np.full((len(rows), max(map(len, rows), default=0)), -1, np.int64)
    for n, row in enumerate(rows):
        padded[n, :len(row)] = [ids[value] for value in row]
    return padded, len(ids)
