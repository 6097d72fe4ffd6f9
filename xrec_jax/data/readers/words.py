"""The words that simulated worlds are made of: attributes, and a grammar of titles.

MovieLens' genre words are among the attributes, so that the embedded model, which learns from
simulated worlds only, has met the words of the first real dataset.
"""

import numpy as np

GENRES = (
    'action adventure animation children\'s comedy crime documentary drama fantasy film-noir horror '
    'musical mystery romance sci-fi thriller war western'
).split()

ATTRIBUTES = tuple(GENRES + (
    'pirates robots dragons vampires ghosts spies heists trains sailing cooking chess racing boxing '
    'football painting jazz opera ballet courtrooms politics satire puzzles magic monsters aliens '
    'time-travel road-trips friendship family revenge betrayal survival mountains deserts islands '
    'jungles winter summer castles knights samurai detectives doctors teachers farmers dogs horses '
    'dinosaurs space history science religion poetry slapstick suspense nostalgia'
).split())

ADJECTIVES = (
    'Crimson Silent Broken Golden Hidden Last Lost Burning Frozen Secret Electric Velvet Hollow Wild '
    'Distant Sacred Bitter Gentle Iron Silver Paper Glass Midnight Savage Quiet Lonely Brave Blind '
    'Crooked Dark Deep Empty Endless Eternal Fallen Fatal Final First Forgotten Free Grand Great Green '
    'Happy Heavy High Holy Hungry Invisible Little Long Lucky Mad Naked New Old Perfect Pink Private '
    'Pure Red Royal Sharp Simple Sleepy Small Strange Sweet Tall Tender Thin True Twisted Ugly Wicked '
    'Young White Black Blue Big Dead Dangerous Desperate American French English Usual Infinite'
).split()

NOUNS = (
    'Harbor Garden River Mirror Tower Bridge Letter Empire Promise Shadow Winter Summer Morning Night '
    'Island Ocean Mountain Valley Forest Desert City Village Street House Room Window Door Key Crown '
    'Sword Song Dance Dream Memory Story Secret Stranger Friend Brother Sister Father Mother Daughter '
    'Son King Queen Prince Captain Soldier Doctor Hunter Angel Devil Ghost Monster Dragon Wolf Lion '
    'Tiger Bear Bird Fish Horse Dog Cat Rose Tree Stone Fire Water Wind Storm Rain Snow Star Moon Sun '
    'Sky Earth World War Peace Love Heart Soul Mind Body Hand Eye Face Blood Bone Game Party Wedding '
    'Murder Crime Money Gold Silver Train Ship Car Machine Engine Doll Clock Road Line Edge Line Man '
    'Woman Boy Girl Men People Life Death Time Day Year Hour Affair Redemption Menace Fiction Story '
    'Club Station Hotel Theater School Hospital Prison Castle Kingdom Legend Mission Connection'
).split()

NAMES = (
    'Adams Anna Boris Carla David Edith Frank George Hannah Irene James Karen Leon Maria Nina Oscar '
    'Paula Quentin Robert Sarah Thomas Ursula Victor Wanda Xavier Yvonne Zelda Jerry Harold Alice '
    'Emma Forrest Arthur Dolores Henry Rob Roy Sabrina Matilda Evita Antonia Ed Donnie Kim'
).split()

SYLLABLES = (
    'ba be bi bo bra ca ce chi co cor da del di do dra el en er fa fel fi fo gal gar ge gi go gra ha '
    'hel hi ho in is ja jo ka kel ki ko kra la lan le li lo lu ma mar me mi mo na nel ni no or os pa '
    'pe pi po pra qua ra re ri ro sa sel shi so sta ta tel ti to tra ul um va vel vi vo wa wen wi xa '
    'ya yo za zel zi zo'
).split()


def titles(rng: np.random.Generator, count: int, year_share: float = 0.25) -> list[str]:
    """Draws `count` different titles: 'The Crimson Harbor', 'Velkora', 'Nina and the Storm', …

    `year_share` of them carry a year as MovieLens prints it: 'Velkora (1995)'.
    """
    drawn: dict[str, None] = {}  # a set that keeps its order
    while len(drawn) < count:
        drawn.update(dict.fromkeys(_title(rng, year_share) for _ in range(count - len(drawn))))
    return list(drawn)


def _title(rng: np.random.Generator, year_share: float) -> str:
    pick = lambda words: words[int(rng.integers(len(words)))]
    invented = ''.join(pick(SYLLABLES) for _ in range(int(rng.integers(2, 5)))).capitalize()
    form = int(rng.integers(11))
    body = (
        lambda: f'{pick(ADJECTIVES)} {pick(NOUNS)}',
        lambda: f'The {pick(ADJECTIVES)} {pick(NOUNS)}',
        lambda: f'{pick(NOUNS)} of {pick(NOUNS)}',
        lambda: f'{pick(NAMES)} and the {pick(NOUNS)}',
        lambda: f'{invented} {pick(NOUNS)}',
        lambda: f'{pick(NAMES)} {invented}',
        lambda: f'{pick(ADJECTIVES)} {invented}',
        lambda: invented,
        lambda: f'{pick(NOUNS)}, The',
        lambda: f'{pick(ADJECTIVES)} {pick(NOUNS)} {int(rng.integers(2, 10))}',
        lambda: f'{invented}: The {pick(NOUNS)} of {pick(NAMES)}',
    )[form]()
    return f'{body} ({int(rng.integers(1930, 2025))})' if rng.random() < year_share else body
