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
BOOKS = Domain(item='book', items='books', consume='read', consumed='read')
PRODUCTS = Domain(item='product', items='products', consume='buy', consumed='bought')
PLACES = Domain(item='place', items='places', consume='visit', consumed='visited')
RESTAURANTS = Domain(item='restaurant', items='restaurants', consume='visit', consumed='visited')
HOTELS = Domain(item='hotel', items='hotels', consume='stay at', consumed='stayed at')
GAMES = Domain(item='game', items='games', consume='play', consumed='played')
NEWS = Domain(item='news article', items='news articles', consume='read', consumed='read')
