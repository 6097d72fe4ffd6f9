"""Figures of a report as SVG text that follows the page's colours, each with its numbers as CSV."""

import csv
import dataclasses
import html
import io
import re
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure
import numpy as np

from xrec_jax.analysis.output import COLOURS
from xrec_jax.reporting.collect import BY_PHASE, Group, by_phase

INK = '#010203'  # what is drawn in it takes the page's colour of text
# Of `align`: metric → axis title.
CURVES = {'reward': 'mean reward', 'kl_response': 'KL, nats a text', 'response_length': 'tokens a text',
          'entropy': 'entropy, nats a token'}
WIDTH = 12.8  # inches, of all figures: the page scales them alike
STYLE = {'svg.fonttype': 'none', 'font.family': 'sans-serif', 'font.size': 10, 'text.color': INK, 'axes.labelcolor': INK,
         'axes.edgecolor': INK, 'xtick.color': INK, 'ytick.color': INK, 'axes.titlecolor': INK, 'axes.spines.top': False,
         'axes.spines.right': False, 'legend.frameon': False, 'svg.hashsalt': 'xrec_jax'}


@dataclasses.dataclass(frozen=True)
class Figure:
    title: str
    svg: str
    csv: str
    note: str = ''  # what a reader should know of it

    @property
    def file(self) -> str:
        """The title as the name of a file, without an ending."""
        return slug(self.title)


def curve_figures(groups: Sequence[Group]) -> list[Figure]:
    """Reward, KL, length and entropy by iteration (ExpCTR figure 3), a figure for each phase `align`."""
    phases = dict.fromkeys(row['phase'] for group in groups for run in group.runs for row in run.metrics
                           if '-align-' in row['phase'])
    return [one for phase in phases if (one := _curves(groups, phase))]


def _curves(groups: Sequence[Group], phase: str) -> Figure | None:
    """A panel a metric, a line a group: mean over seeds, the band one standard deviation."""
    rows = []
    for group in groups:
        for metric in CURVES:
            by_step: dict[int, list[float]] = {}
            for run in group.runs:
                for row in run.metrics:
                    if row['phase'] == phase and metric in row:
                        by_step.setdefault(row['step'], []).append(row[metric])
            rows += [{'run': group.name, 'phase': phase, 'metric': metric, 'step': step, 'mean': float(np.mean(values)),
                      'std': float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, 'runs': len(values)}
                     for step, values in sorted(by_step.items())]
    metrics = list(dict.fromkeys(row['metric'] for row in rows))
    if not metrics:
        return None
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 2.8), layout='constrained')
        for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics):
            for number, group in enumerate(groups):
                points = [row for row in rows if row['run'] == group.name and row['metric'] == metric]
                if not points:
                    continue
                at, mean, std = (np.array([row[key] for row in points]) for key in ('step', 'mean', 'std'))
                colour = COLOURS[number % len(COLOURS)]
                axes.plot(at, mean, color=colour, label=group.name, linewidth=1.8)
                axes.fill_between(at, mean - std, mean + std, color=colour, alpha=0.25, linewidth=0)
            axes.set(title=CURVES[metric], xlabel='iteration')
            axes.xaxis.get_major_locator().set_params(integer=True)
        if len(groups) > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=3)
        several = any(len(group.runs) > 1 for group in groups)
        return Figure(f'{phase} by iteration', svg(figure, f'Reward, KL, length and entropy of {phase}'), csv_text(rows),
                      'Lines are means over seeds, bands one standard deviation.' if several else '')


def throughput_figure(groups: Sequence[Group]) -> Figure | None:
    """Tokens a second and memory of each phase that tells them, a panel each: the mean over runs."""
    rows = [{'run': group.name, **row} for group in groups for row in by_phase(group.runs)]
    panels = {name: title for name, title in BY_PHASE.items() if any(name in row for row in rows)}
    if not panels:
        return None
    rows = [row for row in rows if any(name in row for name in panels)]
    phases, count = list(dict.fromkeys(row['phase'] for row in rows)), len(groups)
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 0.9 + 0.3 * len(phases) * count), layout='constrained')
        for axes, (name, title) in zip(figure.subplots(1, len(panels), squeeze=False, sharey=True)[0], panels.items()):
            for number, group in enumerate(groups):
                mine = [row for row in rows if row['run'] == group.name and name in row]
                places = [phases.index(row['phase']) + (number - (count - 1) / 2) * 0.8 / count for row in mine]
                axes.barh(places, [np.mean(row[name]) for row in mine], 0.8 / count, color=COLOURS[number % len(COLOURS)],
                          label=group.name)
            axes.set(yticks=range(len(phases)), yticklabels=phases, xlabel=title)
        axes.invert_yaxis()
        if count > 1:
            figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=3)
        table = [{'run': row['run'], 'phase': row['phase'],
                  **{name: float(np.mean(row[name])) for name in BY_PHASE if name in row}, 'runs': len(row['seconds'])}
                 for row in rows]
        return Figure('Throughput and memory by phase', svg(figure, 'Tokens a second and memory by phase'), csv_text(table),
                      'Memory is the most that a process has held from its start to the end of the phase.'
                      if len(panels) > 1 or 'tokens_per_second' not in panels else '')


def svg(figure: matplotlib.figure.Figure, label: str) -> str:
    """The figure as an `<svg>` element without a background, its text and axes in the colour of the page's text.

    label: what it shows, for those who cannot see it; also the beginning of all its ids, which a page has once.
    """
    text = io.StringIO()
    figure.savefig(text, format='svg', transparent=True, metadata={'Date': None})
    drawn = text.getvalue()
    drawn = re.sub(r'<metadata>.*?</metadata>', '', drawn[drawn.index('<svg'):], flags=re.S).replace(INK, 'currentColor')
    head, rest = drawn.split('>', 1)
    width = figure.get_figwidth() / WIDTH * 73  # rem: letters of all figures are of one size
    head = re.sub(r' (width|height)="[^"]*"', '', head)  # the page decides
    prefix = slug(label)
    rest = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}-', rest)
    told = f'role="img" aria-label="{html.escape(label)}" style="max-width: {width:.1f}rem"'
    return head.replace('<svg', f'<svg {told}', 1) + '>' + rest


def slug(text: str) -> str:
    return re.sub(r'[^a-z0-9]+', '-', text.lower()).strip('-')


def csv_text(rows: Sequence[Mapping]) -> str:
    """One line a row; a row without a column leaves it empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
