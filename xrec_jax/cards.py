"""A readable card of a pair's explanations, for a terminal: history, target, the texts, what is known of them."""

from collections.abc import Sequence

import numpy as np
import rich.console
import rich.panel
import rich.table
import rich.text

from xrec_jax.api import Run
from xrec_jax.errors import UserError
from xrec_jax.phases import asked

WIDTH = 100
MOST = 12  # items of a history that are shown, the newest


def card(run: Run, user: str, item: str, rows: Sequence[dict], rank: int | None = None, title: str | None = None,
         score: float | None = None) -> rich.panel.Panel:
    """The card of a pair with its stored `rows`; `rank` and `score` of an item that is recommended.

    Where the data of the run are not at hand, the history is left out.
    """
    past, title, truth = _context(run, user, item, title)
    parts = rich.table.Table.grid(padding=(0, 2))
    parts.add_column(style='dim', justify='right')
    parts.add_column()
    for name, titles in past.items():
        if titles:
            parts.add_row(name, rich.text.Text('; '.join(titles)))
    for row in rows:
        parts.add_row(row['kind'], rich.text.Text(row['text'] or '(empty)', style='bold'))
        parts.add_row('', rich.text.Text(_facts(row), style='dim'))
    if truth:
        parts.add_row('in truth', rich.text.Text(truth))
    head = f'user {user} → {title} ({item})' if title else f'user {user} → item {item}'
    if rank is not None:
        head = f'{rank}. {head}, score {score:.3f}'
    return rich.panel.Panel(parts, title=rich.text.Text(head), title_align='left', width=WIDTH)


def _facts(row: dict) -> str:
    facts = [f'written by {row["phase"]}' if row['phase'] != asked.PHASE else 'written when it was asked for']
    if row['split'] and row['split'] != asked.SPLIT:
        facts.append(f'{row["split"]} split')
    if row['llm_score'] is not None:
        facts.append(f'the frozen model expects a like: {row["llm_score"]:.2f}')
    if row['in_form'] is False:
        facts.append('not in the form that was asked for')
    if row['truncated']:
        facts.append('cut off')
    return ', '.join(facts)


def _context(run: Run, user: str, item: str, title: str | None) -> tuple[dict[str, list[str]], str | None, str]:
    """Titles of the history by opinion, the target's title, and what the user thought of it, where that is known."""
    try:
        pair = run.rows([(user, item)])
    except UserError:
        return {}, title, ''
    examples, _ = asked.examples(run.task, *pair)
    titles = run.task.titles
    items, liked = (column[0] for column in examples.past.padded())
    seen = items >= 0
    past = {name: [titles[row] for row in items[seen & (liked == good)][-MOST:]]
            for name, good in (('liked', True), ('disliked', False))}
    truth = ''
    if not np.isnan(examples.rating[0]):
        truth = f'{"liked" if examples.label[0] > 0.5 else "disliked"}, rated {examples.rating[0]:g}'
    return past, titles[int(pair[1][0])], truth
