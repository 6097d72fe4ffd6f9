"""A report as one page that needs nothing else: it opens from the disk, and no request leaves it.

Tables, figures (`figures`, `analyses`), and a browser of the explanations (`cards`, browser.js), whose texts are data in
the page. The page's policy lets its one script run and nothing be loaded, whatever stands in a text.
"""

import base64
import functools
import hashlib
import importlib.resources
from collections.abc import Sequence

import jinja2
import markupsafe

from xrec_jax.reporting import analyses, cards, figures, tables
from xrec_jax.reporting.collect import Group, named

FORMATS = ('html', 'markdown', 'latex')


def all_tables(groups: Sequence[Group]) -> list[tables.Table]:
    """The tables of a report: what differs first, then results, then what was run and how long it took."""
    differing = tables.config_table(groups)
    return [*([differing] if differing.rows else []), *tables.result_tables(groups), *tables.text_tables(groups),
            *analyses.all_tables(groups), tables.runs_table(groups), tables.seconds_table(groups)]


def all_figures(groups: Sequence[Group]) -> list[figures.Figure]:
    throughput = figures.throughput_figure(groups)
    return [*analyses.all_figures(groups), *figures.curve_figures(groups), *([throughput] if throughput else [])]


def explanations(groups: Sequence[Group], most: int = cards.MOST) -> list[dict]:
    """What the browser shows: of each run that has explanations, its share of at most so many cards."""
    runs = named(groups)
    found = [cards.of_run(run, name, most // len(runs)) for name, run in runs] if most else []
    return [one for one in found if one]


def render(groups: Sequence[Group], form: str = 'html', most_cards: int = cards.MOST) -> str:
    """The report as a page, or its tables alone in `form` 'markdown' or 'latex'."""
    if form != 'html':
        write = {'markdown': tables.markdown, 'latex': tables.latex}[form]
        return '\n'.join(map(write, all_tables(groups)))
    runs = sum(len(group.runs) for group in groups)
    script = _part('browser.js')
    browsed = explanations(groups, most_cards)
    return _environment().get_template('page.html.jinja').render(
        title=f'xrec_jax: {groups[0].runs[0].config.get("data.name", "report")}',
        subtitle=f'{runs} run{"s" if runs > 1 else ""} of {len(groups)} config{"s" if len(groups) > 1 else ""}',
        tables=all_tables(groups), figures=all_figures(groups),
        style=_part('page.css'), script=script, digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=markupsafe.Markup(cards.embedded(browsed)) if browsed else '')


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.PackageLoader('xrec_jax.reporting', '.'), autoescape=True,
                              undefined=jinja2.StrictUndefined, trim_blocks=True)


def _part(name: str) -> markupsafe.Markup:
    """A file of this package, to stand in the page as it is."""
    return markupsafe.Markup((importlib.resources.files('xrec_jax.reporting') / name).read_text(encoding='utf-8'))
