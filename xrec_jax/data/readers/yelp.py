"""The Yelp Open Dataset: the publisher's own files → three tables.

`yelp` reads yelp_academic_dataset_{business,review,user}.json, JSON lines, as they stand in yelp_dataset.tar.
- `categories` is a text, 'Pizza, Beer, Wine & Spirits', and a few of Yelp's category names hold commas
  themselves: `WITH_COMMAS` keeps those whole.
- `attributes` is an object or null; its values are texts of Python. The price is among them, as "1" to "4".
- `date` has no zone; it is taken as UTC.
- There is no column for the metropolitan area, and `state` and `city` are as the owners typed them. So
  `metro` goes by the coordinates: the eleven areas lie over 350 km from each other.
- Some reviewers are not in the file of users; they stay, with an empty profile.
Averages of stars (of businesses and of users) are left out: they are made of the very ratings that a model
is to predict. RecPIE's count of 6,990,280 reviews is that of all businesses, not of restaurants alone.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import PLACES, RESTAURANTS
from xrec_jax.data.entry import Entry
from xrec_jax.data.ingest import Source
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import jsonlines, records
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError, nearest

LICENCE = 'Yelp Dataset Terms of Use: academic use; no redistribution, no commercial use'
CITATION = 'Yelp Open Dataset, https://business.yelp.com/data/resources/open-dataset/'
BUSINESS, REVIEW, USER = (f'yelp_academic_dataset_{name}.json' for name in ('business', 'review', 'user'))
BUSINESSES = pa.schema([
    ('business_id', pa.string()), ('name', pa.string()), ('address', pa.string()), ('city', pa.string()),
    ('state', pa.string()), ('postal_code', pa.string()), ('latitude', pa.float64()), ('longitude', pa.float64()),
    ('review_count', pa.int64()), ('is_open', pa.int64()), ('categories', pa.string()),
    ('attributes', pa.struct([('RestaurantsPriceRange2', pa.string())]))])
REVIEWS = pa.schema([('user_id', pa.string()), ('business_id', pa.string()), ('stars', pa.float64()),
                     ('text', pa.string()), ('date', pa.string())])
USERS = pa.schema([('user_id', pa.string()), ('name', pa.string()), ('review_count', pa.int64()),
                   ('yelping_since', pa.string())])
WITH_COMMAS = ('Beer, Wine & Spirits', 'Books, Mags, Music & Video', 'Used, Vintage & Consignment',
               'Wills, Trusts, & Probates')
_CATEGORY = re.compile(r'\s*(' + '|'.join(map(re.escape, WITH_COMMAS)) + r'|[^,]+)')
_DATE = r'^[0-9]{4}-(?:0[1-9]|1[0-2])-(?P<day>[0-3][0-9]) (?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]$'
METROS = {  # of the release with eleven (2021, 2022): latitude and longitude of the centre
    'Boise': (43.62, -116.20), 'Edmonton': (53.55, -113.49), 'Indianapolis': (39.77, -86.16),
    'Nashville': (36.16, -86.78), 'New Orleans': (29.95, -90.07), 'Philadelphia': (39.95, -75.17),
    'Reno': (39.53, -119.81), 'Santa Barbara': (34.42, -119.70), 'St. Louis': (38.63, -90.20),
    'Tampa': (27.95, -82.46), 'Tucson': (32.22, -110.97)}
RADIUS = 150.0  # km


def yelp(files: Mapping[str, RawFile], bad: BadRows, *, category: str = '', metro: str = '', state: str = '') -> Source:
    """Reads businesses, reviews and, where they are there, users.

    Args:
      category: businesses of this category only, as 'Restaurants'; '' for all.
      metro: those within `RADIUS` of the centre of one of `METROS` only; '' for all.
      state: those of this state or province only, as 'PA'; '' for all.
    """
    if metro and metro not in METROS:
        raise UserError(f'metro="{metro}".{nearest(metro, METROS)}')

    @functools.cache
    def businesses() -> _Businesses:  # few, and needed before the reviews
        business = records.joined(jsonlines.stream(files[BUSINESS], BUSINESSES, bad))
        return _chosen(business, category, metro, state)

    def interactions() -> Iterator[pa.Table]:
        listed, chosen = businesses().listed, businesses().chosen
        for review in jsonlines.stream(files[REVIEW], REVIEWS, bad):
            index = tables.rows(review['business_id'], listed)
            review.require(index >= 0, 'business_id', f'is not listed in {files[BUSINESS].label}')
            review.keep &= chosen[index]  # the others are not bad
            review.require(pc.is_valid(review['text']), 'text', 'should be a text')
            yield review.events(
                user_id=records.filled(review, 'user_id'), item_id=records.filled(review, 'business_id'),
                rating=records.numbers(review, 'stars', 1, 5), timestamp=_seconds(review, 'date'),
                review=review['text'])

    def users() -> Iterator[pa.Table]:
        for user in jsonlines.stream(files[USER], USERS, bad) if USER in files else ():
            profile = {'name': records.unescaped(user['name']), 'reviews': user['review_count'].cast(pa.string()),
                       'member since': pc.utf8_slice_codeunits(user['yelping_since'], 0, 10)}
            yield user.table(tables.USERS, user_id=records.filled(user, 'user_id'), profile=records.maps(profile))

    def items() -> Iterator[pa.Table]:
        business = businesses().rows
        price = pc.struct_field(business['attributes'], 'RestaurantsPriceRange2')
        price = pc.if_else(pc.match_substring_regex(price, '^[1-4]$'), price, '0').cast(pa.int32())  # "None" too
        details = {
            'address': business['address'], 'city': business['city'], 'state': business['state'],
            'zip': business['postal_code'], 'price': pc.binary_repeat('$', price),
            'popularity': business['review_count'].cast(pa.string()),
            'open': pa.array(['no', 'yes']).take(pc.equal(business['is_open'], 1).cast(pa.int8()))}
        name = records.unescaped(business['name'])
        yield business.table(
            tables.ITEMS, item_id=business['business_id'],
            title=pc.if_else(pc.equal(pc.utf8_trim_whitespace(name), ''), None, name),
            attributes=pa.array(businesses().categories, pa.list_(pa.string())), details=records.maps(details))

    return Source(
        name='yelp', file=files[REVIEW], interactions=interactions(), users=users, items=items, rating_scale=(1.0, 5.0),
        domain=RESTAURANTS if category == 'Restaurants' else PLACES, licence=LICENCE, bad=bad,
        unmet_stay=not (category or metro or state))


@dataclasses.dataclass(frozen=True)
class _Businesses:
    rows: Records  # of them, those that the options choose are to keep
    categories: list[list[str]]  # [I]
    listed: pa.ChunkedArray  # [B] the ids of all that are sound
    chosen: np.ndarray  # bool[B]


def _chosen(business: Records, category: str, metro: str, state: str) -> _Businesses:
    """Checks the businesses and finds those that the options choose; UserError where that is none."""
    records.filled(business, 'business_id')
    records.unique(business, 'business_id')
    categories = [_categories(text) for text in business['categories'].to_pylist()]
    chosen = np.ones(len(categories), bool)
    if category:
        chosen &= _holding('category', category, categories)
    if state:
        chosen &= _holding('state', state, [[name] if name else [] for name in business['state'].to_pylist()])
    if metro:
        latitude, longitude = METROS[metro]
        north = records.numbers(business, 'latitude', -90, 90) - latitude
        east = (records.numbers(business, 'longitude', -180, 180) - longitude) * np.cos(np.radians(latitude))
        chosen &= np.hypot(north, east) * 111.2 <= RADIUS  # km a degree
    sound = business.keep
    if not (chosen & sound).any():
        raise UserError(f'{business.file.label}: holds no business with category="{category}", metro="{metro}" and '
                        f'state="{state}"')
    business.keep = chosen & sound
    return _Businesses(business, categories, business['business_id'].filter(pa.array(sound)), chosen[sound])


def _holding(option: str, value: str, named: list[list[str]]) -> np.ndarray:
    """Returns bool[I]: which hold `value` among their names; UserError names the nearest where none does."""
    holding = np.array([value in names for names in named])
    if not holding.any():
        there = {name for names in named for name in names}
        hint = nearest(value, there)  # there are over a thousand categories
        raise UserError(f'{option}="{value}": no business has it.{hint if len(hint) < 300 else hint[:300] + " ..."}')
    return holding


def _categories(text: str | None) -> list[str]:
    return [name for found in _CATEGORY.findall(text or '') if (name := found.strip())]


def _seconds(review: Records, name: str) -> pa.ChunkedArray:
    """Returns int64[N]: Unix seconds of '2018-07-07 22:09:11'."""
    found = records.seconds(review[name], _DATE, '%Y-%m-%d %H:%M:%S')
    review.require(pc.is_valid(found), name, 'should be a date and time, as 2018-07-07 22:09:11')
    return found


ENTRIES = {
    'yelp': Entry(
        yelp, LICENCE, CITATION, files=(BUSINESS, REVIEW), optional=(USER,),
        by_hand='accept the terms at https://business.yelp.com/data/resources/open-dataset/ and put yelp_dataset.tar, '
                'taken out of its zip but not unpacked, there'),
}
