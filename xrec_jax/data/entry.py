"""What is known of a dataset before it is read: each reader describes its own."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from xrec_jax.data import tables
from xrec_jax.data.fetch import Download
from xrec_jax.data.ingest import Source


@dataclasses.dataclass(frozen=True)
class Entry:
    """One dataset; `reader(files, bad, **options)` gets the files that were found, by the names here.

    A name of a file may hold {OPTION} of the reader, as 'reviews_{category}.json', or {WORD}, and wildcards.
    """

    reader: Callable[..., Source] | None  # None: there are no files, `draw(world(**options))` gives the dataset
    licence: str  # one line
    citation: str
    files: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()  # files that the reader can do without
    downloads: tuple[Download, ...] = ()  # what to fetch where files are missing; {OPTION} and {WORD} here too
    words: Callable[..., dict[str, str]] = lambda **options: {}  # WORDs of those names, as they follow from options
    place: str = ''  # where there are no files: the option that names the data; data_dir may name it too
    by_hand: str = ''  # how a person gets the files, where no program may
    world: Callable[..., Any] | None = None
    draw: Callable[[Any], tables.Dataset] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the reader, its keyword-only arguments, with their defaults."""
        parameters = inspect.signature(self.reader or self.world).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
