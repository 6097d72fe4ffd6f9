"""Figures of a report as SVG text that follows the page's colours, each with its numbers as CSV."""

import csv
import dataclasses
import io
import re
from collections.abc import Sequence

import matplotlib
import matplotlib.figure
import numpy as np

from xrec_jax.reporting.collect import Group

INK = '#010203'  # what is drawn in it takes the page's colour of text
# Legible on white and on near-black alike: contrast of at least 3 with both.
COLOURS = ('#3b7dd8', '#d9722e', '#2f9e58', '#c2508f', '#8a6fd1', '#8c7a1f')
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
        return Figure(f'{phase} by iteration', svg(figure, f'Reward, KL, length and entropy of {phase}'), _csv(rows))


def throughput_figure(groups: Sequence[Group]) -> Figure | None:
    """Tokens a second of each phase that writes: the median step of each run."""
    rows = []
    for group in groups:
        for phase in dict.fromkeys(row['phase'] for run in group.runs for row in run.metrics if 'tokens_per_second' in row):
            rates = [float(np.median(rate)) for run in group.runs if (rate := [
                row['tokens_per_second'] for row in run.metrics if row['phase'] == phase and 'tokens_per_second' in row])]
            rows.append({'run': group.name, 'phase': phase, 'tokens_per_second': float(np.mean(rates)), 'runs': len(rates)})
    if not rows:
        return None
    phases, count = list(dict.fromkeys(row['phase'] for row in rows)), len(groups)
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 0.8 + 0.3 * len(phases) * count), layout='constrained')
        axes = figure.subplots()
        for number, group in enumerate(groups):
            mine = [row for row in rows if row['run'] == group.name]
            places = [phases.index(row['phase']) + (number - (count - 1) / 2) * 0.8 / count for row in mine]
            axes.barh(places, [row['tokens_per_second'] for row in mine], 0.8 / count, color=COLOURS[number % len(COLOURS)],
                      label=group.name)
        axes.set(yticks=range(len(phases)), yticklabels=phases, xlabel='tokens a second')
        axes.invert_yaxis()
        if count > 1:
            axes.legend()
        return Figure('Throughput by phase', svg(figure, 'Tokens a second by phase'), _csv(rows))


def svg(figure: matplotlib.figure.Figure, label: str) -> str:
    """The figure as an `<svg>` element without a background, its text and axes in the colour of the page's text.

    label: what it shows, for those who cannot see it; also the beginning of all its ids, which a page has once.
    """
    text = io.StringIO()
    figure.savefig(text, format='svg', transparent=True, metadata={'Date': None})
    drawn = text.getvalue()
    drawn = re.sub(r'<metadata>.*?</metadata>', '', drawn[drawn.index('<svg'):], flags=re.S).replace(INK, 'currentColor')
    head, rest = drawn.split('>', 1)
    head = re.sub(r' (width|height)="[^"]*"', '', head)  # the page decides
    prefix = re.sub(r'[^a-z0-9]+', '-', label.lower())
    rest = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{prefix}-', rest)
    return head.replace('<svg', f'<svg role="img" aria-label="{label}"', 1) + '>' + rest


def _csv(rows: Sequence[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
