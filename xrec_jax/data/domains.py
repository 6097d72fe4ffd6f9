"""The nouns and verbs that prompts use for each family of datasets; the one table of them."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Domain:
    """Words for one kind of item: 'a user who watched these movies'."""

    item: str = 'movie'
    items: str = 'movies'
    consume: str = 'watch'
    consumed: str = 'watched'


MOVIES = Domain()
PRODUCTS = Domain(item='product', items='products', consume='buy', consumed='bought')
