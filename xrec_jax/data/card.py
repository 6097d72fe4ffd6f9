"""What a person wants to know of a dataset before using it."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables


def card(dataset: tables.Dataset) -> list[tuple[str, str]]:
    """Returns (label, value) pairs that describe a dataset, ready to print."""
    users, items, actions = (
        dataset.users.num_rows, dataset.items.num_rows, dataset.interactions.num_rows)

    def per(key: str, owners: pa.Table) -> str:
        each = np.bincount(tables.codes(dataset.interactions[key]), minlength=owners.num_rows)
        return f'{each.mean():,.2f} on average ({each.min():,} to {each.max():,})'

    def count(name: str) -> str:
        return f'{actions - dataset.interactions[name].null_count:,}'

    facts = [
        ('dataset', dataset.name),
        ('users', f'{users:,}'),
        ('items', f'{items:,}'),
        ('interactions', f'{actions:,}'),
        ('per user', per('user_id', dataset.users)),
        ('per item', per('item_id', dataset.items)),
        ('density', _percent(actions / users / items)),
        ('ratings', _ratings(dataset)),
        ('reviews', count('review')),
        ('aspects', count('aspects')),
        ('time', _span(dataset)),
        ('licence', dataset.licence),
    ]
    recipe = dataset.recipe
    if recipe.get('filters', 'none') != 'none':
        facts.append(('filters', f'{recipe["filters"]} ({recipe["rows_filtered"]:,} interactions left out)'))
    for name, number in recipe.get('rows_skipped', {}).items():
        facts.append(('bad rows', f'{number:,} of {name} passed over'))
    return facts


def _percent(share: float) -> str:
    """'6.30%'; of a share below a thousandth two digits that count: '0.00052%'."""
    if share >= 1e-3:
        return f'{share:.2%}'
    digits = 1 - int(np.floor(np.log10(100 * share)))
    return f'{100 * share:.{digits}f}%'


def _ratings(dataset: tables.Dataset) -> str:
    rating = dataset.interactions['rating'].drop_null()
    missing = dataset.interactions['rating'].null_count
    if not len(rating):
        return 'none (implicit)'
    each = pc.value_counts(rating)
    if len(each) <= 10:
        values, counts = (each.field(name).to_numpy() for name in ('values', 'counts'))
        values, counts = values[np.argsort(values)], counts[np.argsort(values)]
    else:  # a fine scale: ten equal bins, by their lower ends
        counts, values = np.histogram(rating.to_numpy(), bins=10, range=dataset.rating_scale)
    histogram = '  '.join(f'{v:g}: {n / len(rating):.1%}' for v, n in zip(values, counts))
    return histogram + (f'  (and {missing:,} without, implicit)' if missing else '')


def _span(dataset: tables.Dataset) -> str:
    span = pc.min_max(dataset.interactions['timestamp']).as_py()
    if span['min'] is None:
        return 'not known'
    first, last = (np.datetime64(span[end], 's').astype('datetime64[D]') for end in ('min', 'max'))
    missing = dataset.interactions['timestamp'].null_count
    return f'{first} to {last}' + (f' ({missing:,} not known)' if missing else '')
