"""Google Local reviews of 2021 (McAuley lab, UCSD): the publisher's own files of a state → three tables.

`google_local` reads review-California.json.gz, or review-California_10.json.gz, which is the publisher's 10-core,
and meta-California.json.gz: JSON lines. What lies in no state is in review-other.json.gz.
- `time` is in milliseconds. `text` is null for ratings without words. A review may stand twice: both stay,
  unless `Filters.repeats` says otherwise.
- In the metadata a business may stand twice: its first line counts, or the first in the zip codes asked for.
  A business of the reviews may be missing there; it stays, without a title, where no zip code is asked for.
- There is no column for the zip code: it is the end of `address`, as 'Mountain View, CA 94043'. RecPIE's
  Mountain View is `zip_codes=MOUNTAIN_VIEW`.
- Users have no file of their own. `avg_rating` is left out: it is made of the ratings that a model is to predict.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.data import tables
from xrec_jax.data.domains import PLACES
from xrec_jax.data.entry import Entry
from xrec_jax.data.fetch import Download
from xrec_jax.data.ingest import Source, nothing
from xrec_jax.data.raw import BadRows, RawFile
from xrec_jax.data.readers import jsonlines, records
from xrec_jax.data.readers.records import Records
from xrec_jax.errors import UserError

URL = 'https://mcauleylab.ucsd.edu/public_datasets/gdrive/googlelocal'
LICENCE = 'none stated; the publisher asks that two papers be cited'
CITATION = ('J. Li, J. Shang, J. McAuley: UCTopic: Unsupervised Contrastive Learning for Phrase Representations and '
            'Topic Mining. ACL 2022; A. Yan, Z. He, J. Li, T. Zhang, J. McAuley: Personalized Showcases: Generating '
            'Multi-Modal Explanations for Recommendations. SIGIR 2023')
REVIEW, META = 'review-{place}{subset}.json', 'meta-{place}.json'
REVIEWS = pa.schema([('user_id', pa.string()), ('gmap_id', pa.string()), ('rating', pa.float64()), ('time', pa.int64()),
                     ('text', pa.string())])
BUSINESSES = pa.schema([
    ('gmap_id', pa.string()), ('name', pa.string()), ('address', pa.string()), ('description', pa.string()),
    ('category', pa.list_(pa.string())), ('num_of_reviews', pa.int64()), ('price', pa.string())])
MOUNTAIN_VIEW = tuple(str(code) for code in range(94035, 94044))
_PLACE = r'(?:^|, )(?P<city>[^,]+), [A-Z]{2} (?P<zip>[0-9]{5})(?:-[0-9]{4})?$'


def google_local(files: Mapping[str, RawFile], bad: BadRows, *, state: str = 'California', core: int = 0,
                 zip_codes: Sequence[str] = ()) -> Source:
    """Reads the reviews of businesses in `zip_codes`, of five digits each; () for the whole state.

    Which files those are is told by `state`, as 'New York' or 'other', and `core`: 0 or, for the publisher's
    10-core, 10.
    """
    del state, core  # `_words` has made the names of the files from them
    codes = pa.array([_zip_code(code) for code in zip_codes], pa.string())

    @functools.cache
    def businesses() -> Records:
        business = records.joined(jsonlines.stream(files[META], BUSINESSES, bad))
        records.filled(business, 'gmap_id')
        if len(codes):
            business.keep &= pc.is_in(pc.struct_field(_place(business), 'zip'), value_set=codes).to_numpy()
            if not business.keep.any():
                raise UserError(f'{files[META].label}: no address ends with one of the zip codes '
                                f'{", ".join(codes.to_pylist())}')
        return business

    def interactions() -> Iterator[pa.Table]:
        chosen = businesses()['gmap_id'].filter(pa.array(businesses().keep)).combine_chunks() if len(codes) else None
        for review in jsonlines.stream(files[REVIEW], REVIEWS, bad):
            item = records.filled(review, 'gmap_id')
            if chosen is not None:
                review.keep &= pc.is_in(item, value_set=chosen).to_numpy()  # the others are not bad
            yield review.events(
                user_id=records.filled(review, 'user_id'), item_id=item, rating=records.numbers(review, 'rating', 1, 5),
                timestamp=records.integers(review, 'time') // 1000, review=review['text'])

    def items() -> Iterator[pa.Table]:
        business = businesses()
        place, name = _place(business), records.unescaped(business['name'])
        details = {'address': records.unescaped(business['address']), 'city': pc.struct_field(place, 'city'),
                   'zip': pc.struct_field(place, 'zip'), 'price': business['price'],
                   'popularity': business['num_of_reviews'].cast(pa.string()), 'description': business['description']}
        yield business.table(
            tables.ITEMS, item_id=business['gmap_id'],
            title=pc.if_else(pc.equal(pc.utf8_trim_whitespace(name), ''), None, name),
            attributes=pa.array([words or [] for words in business['category'].to_pylist()], pa.list_(pa.string())),
            details=records.maps(details))

    return Source(name='google-local', file=files[REVIEW], interactions=interactions(), users=nothing, items=items,
                  rating_scale=(1.0, 5.0), domain=PLACES, licence=LICENCE, bad=bad, unmet_stay=not len(codes))


def _words(*, state: str, core: int, **rest: object) -> dict[str, str]:
    if core not in (0, 10):
        raise UserError(f'core={core}: should be 0, for all reviews, or 10, for the publisher\'s 10-core')
    return {'place': state.replace(' ', '_'), 'subset': f'_{core}' if core else ''}


def _zip_code(code: str | int) -> str:
    if isinstance(code, bool) or not re.fullmatch('[0-9]{5}', str(code)):
        raise UserError(f'zip_codes: {code!r} should be five digits; give a tuple of them, as ("94035", "94043")')
    return str(code)


def _place(business: Records) -> pa.ChunkedArray:
    """Returns struct[N]: city and zip of each address, null where it ends without them."""
    return pc.extract_regex(business['address'], _PLACE)


ENTRIES = {
    'google-local': Entry(
        google_local, LICENCE, CITATION, files=(REVIEW, META), words=_words,
        downloads=(Download(f'{URL}/{REVIEW}.gz'), Download(f'{URL}/{META}.gz'))),
}
