"""The figures and tables of the papers' analyses, of whatever the runs of a report hold for them.

  `sensitivity_figures`  test metrics along a number that runs differ in (ExpCTR figure 4: β, δ)
  `attention_figures`    attention on positive and negative reasons (RecPIE figure 6)
  `uncertainty_figures`  gain against uncertainty (RecPIE figure 4)
  `pairs_tables`, `pairs_figures`     win ratio and ranking order with intervals (LLMXRec table 2), and conditions against
                                      a reference (its figures 3 and 4)
  `length_table`, `length_figures`    words of explanations for men and women (LLMXRec table 4)

What is computed and drawn is in `xrec_jax.analysis`; here it is found in workdirs and given the page's looks.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from xrec_jax.analysis import attention, length, uncertainty, win_ratio
from xrec_jax.analysis.output import COLOURS, GREY
from xrec_jax.metrics import judging, pairwise
from xrec_jax.phases import explained, predictions
from xrec_jax.phases.scorers import SUMMARY, labels
from xrec_jax.reporting import tables
from xrec_jax.reporting.collect import Group, Run, named, sweeps
from xrec_jax.reporting.figures import STYLE, WIDTH, Figure, csv_text, svg
from xrec_jax.runs import files

PARAMETERS = {'align.kl_coef': 'KL penalty β', 'align.reward_clip': 'reward bound δ'}  # key → as the paper has it
SHOWN = {'click': ('auc', 'log_loss'), 'rating': ('rmse', 'mae'), 'ranking': ('ndcg@10', 'recall@10')}
WIDE = 8.0  # where the largest value is so many times the smallest, the axis is logarithmic
POINTS = 1500  # of a scatter that are drawn
PERMUTATIONS = 2000
LABELLED = {'validation': 'labelled pairs, validation', 'held_out': 'labelled pairs, held out'}  # key → row's title
RANKED = ('win_ratio', 'ranking_order', 'strength')


def all_figures(groups: Sequence[Group]) -> list[Figure]:
    """Those that the runs hold something for."""
    return [*sensitivity_figures(groups), *pairs_figures(groups), *attention_figures(groups), *uncertainty_figures(groups),
            *length_figures(groups)]


def all_tables(groups: Sequence[Group]) -> list[tables.Table]:
    return [*pairs_tables(groups), *length_table(groups)]


# ----------------------------------------------------------------------------------- sensitivity


def sensitivity_figures(groups: Sequence[Group]) -> list[Figure]:
    """A figure for each numeric key in which runs differ while all else is alike: a panel a metric, a line a scorer."""
    found = []
    for key, lines in sweeps(groups).items():
        title = PARAMETERS.get(key, key)
        for kind in SUMMARY:
            rows = [row for told, line in lines for row in _along(kind, line, told)]
            if rows:
                found.append(_sensitivity(title, kind, rows))
    return found


def _along(kind: str, line: Sequence[tuple[float, Group]], told: str) -> Iterator[dict[str, Any]]:
    """Rows 'line', 'value', metric's 'mean', 'std' and 'runs' of every scorer along one number."""
    for value, group in line:
        for scorer in dict.fromkeys(name for run in group.runs for name in run.summary.get(SUMMARY[kind], {})):
            for metric, values in tables.values_of(group, SUMMARY[kind], scorer).items():
                if metric in SHOWN[kind]:
                    yield {'line': f'{scorer}, {told}' if told else scorer, 'value': value, 'metric': metric,
                           'mean': float(np.mean(values)), 'std': float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
                           'runs': len(values)}


def _sensitivity(title: str, kind: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    at = sorted({row['value'] for row in rows})
    lines, titles = list(dict.fromkeys(row['line'] for row in rows)), labels(kind, (10,))
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(WIDTH, 3.4), layout='constrained')
        for axes, metric in zip(figure.subplots(1, 2), SHOWN[kind]):
            for number, line in enumerate(lines):
                points = [row for row in rows if row['line'] == line and row['metric'] == metric]
                axes.errorbar([row['value'] for row in points], [row['mean'] for row in points],
                              [row['std'] for row in points], marker='o', capsize=3, color=COLOURS[number % len(COLOURS)],
                              linestyle=('-', '--', ':')[number // len(COLOURS) % 3], label=line)
            axes.set(xlabel=title, ylabel=f'{titles[metric]}, test split')
            if at[0] > 0 and at[-1] >= WIDE * at[0]:
                axes.set_xscale('log')
            axes.set_xticks(at, [f'{value:g}' for value in at])
            axes.minorticks_off()
        figure.legend(*axes.get_legend_handles_labels(), loc='outside lower center', ncols=4)
        return Figure(f'Sensitivity to {title}: {kind}', svg(figure, f'Test metrics along {title}, {kind}'), csv_text(rows),
                      'Means over seeds; bars are one standard deviation.')


# ---------------------------------------------------------------------------- attention, uncertainty


def attention_figures(groups: Sequence[Group]) -> list[Figure]:
    """A figure for each group whose runs have kept attention values, its seeds put together."""
    found = []
    for group in groups:
        workdirs = [run.workdir for run in group.runs if (run.workdir / 'attention.parquet').exists()]
        if not workdirs:
            continue
        measured = attention.analyse(attention.read(workdirs, 'test'))
        if not any(one['examples'] for one in measured.values()):
            continue
        told = '; '.join(f'{name} ratings: {one["pos"]:.3f} on positive and {one["neg"]:.3f} on negative reasons, '
                         f'p = {one["p"]:.2g} over {one["users"]:,} users'
                         for name, one in measured.items() if one['examples'])
        found.append(_drawn(f'Attention on reasons: {group.name}', lambda: attention.draw(measured), (WIDTH, 3.4),
                            attention.histogram_rows(measured), f'Test split. {told}.'))
    return found


def uncertainty_figures(groups: Sequence[Group]) -> list[Figure]:
    """A figure for each group of runs in which three scorers at least predict, its seeds put together: what the scorer
    that `judge.after` names last gains over the best of the others on validation."""
    found = []
    for group in groups:
        table = _predicted(group.runs)
        after = [name for name in group.runs[0].config.get('judge.after.scorers') or ()
                 if table is not None and name in table.column_names]
        models = [] if table is None else [name for name in table.column_names
                                           if name not in (*predictions.EXAMPLE, 'target', *tables.BOUNDS)]
        if not after or len(models) < 3:
            continue
        measured = uncertainty.analyse(table, after[-1], without=tables.BOUNDS)
        line, step = measured['line'], -(-measured['count'] // POINTS)
        shown = measured | {'x': measured['x'][::step], 'y': measured['y'][::step]}
        told = (f'{measured["count"]:,} test examples; models: {", ".join(measured["models"])}. Slope {line["slope"]:.3f} '
                f'(95 % over users {line["low"]:.3f} to {line["high"]:.3f}), p = {line["p"]:.2g}.')
        found.append(_drawn(f'Gain against uncertainty: {group.name}', lambda: uncertainty.draw(shown), (8.0, 4.0),
                            [*measured['deciles'], {'baseline': measured['baseline'], **line}], told))
    return found


def _predicted(runs: Sequence[Run]) -> pa.Table | None:
    """The predictions of several runs one after the other, a user of each being one of its own."""
    parts = []
    for number, run in enumerate(runs):
        if (run.workdir / predictions.FILE).exists():
            table = files.read_table(run.workdir / predictions.FILE)
            users = pa.array([f'{number}/{user}' for user in table['user_id'].to_pylist()], pa.string())
            parts.append(table.set_column(table.column_names.index('user_id'), 'user_id', users))
    return pa.concat_tables(parts) if parts and all(part.schema == parts[0].schema for part in parts) else None


# ------------------------------------------------------------------------------------------ pairs


def pairs_tables(groups: Sequence[Group]) -> list[tables.Table]:
    """Generators with intervals over instructions, how the judge does on labelled pairs, conditions against a reference."""
    interval = lambda one: f'{one["value"]:.3f} [{one["low"]:.3f}, {one["high"]:.3f}]'
    generators, judges, conditions = [], [], []
    for name, run in named(groups):
        for judge, told in _judgements(run):
            for recommender, report in told.get('generators', {}).items():
                ranked = sorted(_compared(report).items(), key=lambda one: -one[1]['win_ratio']['value'])
                best = {'win_ratio': max, 'ranking_order': min, 'strength': max}
                tops = {metric: pick(one[metric]['value'] for _, one in ranked) for metric, pick in best.items()}
                generators += [(name, judge, recommender, generator, *(
                    tables.Cell(interval(one[metric]), one[metric]['value'] == tops[metric]) for metric in RANKED),
                    str(one['comparisons'])) for generator, one in ranked]
                judges.append((name, judge, f'{recommender}, {report["judged"]:,} instructions', '–', interval(
                    report['share_of_second']), interval(report['flips'])))
            judges += [(name, judge, title, f'{told[part]["accuracy"]:.3f}', f'{told[part]["share_of_second"]:.3f}',
                        f'{told[part]["flips"]:.3f}')
                       for part, title in LABELLED.items() if part in told]
            conditions += [(name, judge, row['condition'], f'{row["win_ratio"]:.3f} [{row["low"]:.3f}, {row["high"]:.3f}]',
                            f'{row["wins"]} / {row["ties"]} / {row["losses"]}', f'{row["p"]:.2g}')
                           for row in told.get('conditions', ())]
    made = []
    if generators:
        made.append(tables.Table.of('Explanations compared in pairs, 95 % intervals over instructions', (
            'run', 'judge', 'recommender', 'explanations', *(pairwise.LABELS[metric] for metric in RANKED), 'comparisons'),
            generators))
    if conditions:
        made.append(tables.Table.of('Conditions against the reference, 95 % intervals over instructions', (
            'run', 'judge', 'condition', 'win ratio', 'wins / ties / losses', 'p'), conditions))
    if judges:
        made.append(tables.Table.of('The judge', ('run', 'judge', 'pairs', *(
            judging.LABELS[name] for name in ('accuracy', 'share_of_second', 'flips'))), judges))
    return made


def _compared(report: dict) -> dict[str, dict]:
    """Figures of the generators that were compared with any other."""
    return {name: one for name, one in report['generators'].items() if one['comparisons']}


def pairs_figures(groups: Sequence[Group]) -> list[Figure]:
    """Win ratios with their intervals: of the generators, a panel a recommender; of conditions against a reference."""
    found = []
    for name, run in named(groups):
        for judge, told in _judgements(run):
            title = f'{judge}, {name}' if len(groups) > 1 else judge
            if told.get('generators'):
                rows = [{'recommender': recommender, 'explanations': generator, **one['win_ratio']}
                        for recommender, report in told['generators'].items()
                        for generator, one in _compared(report).items()]
                found.append(_drawn(f'Win ratio: {title}', lambda: _win_ratios(rows), None, rows,
                                    'Both orders; bars are 95 % intervals over instructions.'))
            if told.get('conditions'):
                setting = lambda key: run.config.get(f'{judge}.{key}', run.config.get(f'judge.{key}', ''))
                found.append(_drawn(
                    f'Win ratio by condition: {title}', lambda: win_ratio.draw(
                        told['conditions'], str(setting('reference')), str(setting('condition'))),
                    (8.0, 3.6), told['conditions'], 'Both orders; bars are 95 % intervals over instructions.'))
    return found


def _judgements(run: Run) -> list[tuple[str, Mapping[str, Any]]]:
    """(name of the phase `judge`, its figures) of those that compared pairs."""
    return [(name, told) for name, told in run.summary.items() if isinstance(told, dict) and 'temperature' in told]


def _win_ratios(rows: Sequence[Mapping[str, Any]]) -> matplotlib.figure.Figure:
    recommenders, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ('recommender', 'explanations'))
    figure = matplotlib.figure.Figure(figsize=(WIDTH, 1.2 + 0.32 * len(names)), layout='constrained')
    for axes, recommender in zip(figure.subplots(1, len(recommenders), squeeze=False, sharey=True)[0], recommenders):
        of = [row for row in rows if row['recommender'] == recommender]
        ratio = np.array([row['value'] for row in of])
        error = np.abs(np.array([[row['low'], row['high']] for row in of]).T - ratio)
        axes.axvline(0.5, color=GREY, linestyle=':')
        places = [names.index(row['explanations']) for row in of]
        axes.errorbar(ratio, places, xerr=error, fmt='o', capsize=3, color=COLOURS[0])
        axes.set(title=recommender, xlabel=pairwise.LABELS['win_ratio'], xlim=(-0.02, 1.02), yticks=range(len(names)),
                 yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    return figure


# ----------------------------------------------------------------------------------------- length


def length_table(groups: Sequence[Group]) -> list[tables.Table]:
    """Words of each phase's explanations for men and women; [] where nothing tells who is which."""
    rows = [(group.name, row['generator'], f'{row["men"]:.2f}', f'{row["women"]:.2f}', f'{row["difference"]:+.2f}',
             f'{row["p"]:.2g}', f'{row["d"]:.2f}', str(row['users'])) for group in groups for row in _lengths(group)]
    return [tables.Table.of('Words of an explanation, by gender', (
        'run', 'explanations', 'men', 'women', 'difference', 'p', "Cohen's d", 'users'), rows)] if rows else []


def length_figures(groups: Sequence[Group]) -> list[Figure]:
    return [_drawn(f'Words of an explanation, by gender: {group.name}', lambda: length.draw(rows), (WIDTH, 3.6), rows,
                   'p of a permutation test over users.') for group in groups if (rows := _lengths(group))]


def _lengths(group: Group) -> list[dict[str, Any]]:
    """Rows as `length.run` has them, of a group's runs together: a user's mean over texts and runs, for each phase."""
    counted: dict[str, dict[str, list[int]]] = {}
    genders: dict[str, str | None] = {}
    for run in group.runs:
        for path in sorted((run.workdir / 'explanations').glob('*-explain-*.parquet')):
            about = explained.path_of(run.workdir, path.stem)
            if not about.exists():
                continue
            users = files.read_table(about, columns=['user_id', 'profile'])
            genders |= {user: dict(profile or ()).get('gender')
                        for user, profile in zip(users['user_id'].to_pylist(), users['profile'].to_pylist())}
            table = files.read_table(path, columns=['user_id', 'text'])
            table = table.filter(pc.not_equal(table['text'], ''))
            of_phase = counted.setdefault(path.stem, {})
            for user, words in zip(table['user_id'].to_pylist(), length.words(table['text'].to_pylist()).tolist()):
                of_phase.setdefault(user, []).append(words)
    users = [user for user, gender in genders.items() if gender in ('male', 'female')]
    of = [genders[user] for user in users]
    lengths = {phase: np.array([np.mean(words[user]) if user in words else np.nan for user in users])
               for phase, words in counted.items()}
    there = {phase: [gender for gender, value in zip(of, values) if np.isfinite(value)]
             for phase, values in lengths.items()}
    lengths = {phase: values for phase, values in lengths.items()
               if min(there[phase].count('male'), there[phase].count('female')) > 1}  # a test needs two of each
    return [{'generator': phase, 'men': figures['first'], 'women': figures['second'], 'difference': figures['difference'],
             'p': figures['p'], 'd': figures['cohens_d'], 'users': figures['count_first'] + figures['count_second']}
            for phase, figures in length.by_gender(lengths, of, PERMUTATIONS).items()]


def _drawn(title: str, draw, size: tuple[float, float] | None, rows: Sequence[Mapping[str, Any]], note: str) -> Figure:
    """What an analysis draws, in the page's style, of `size` inches."""
    with matplotlib.rc_context(STYLE):
        figure = draw()
        if size:
            figure.set_size_inches(*size)
        return Figure(title, svg(figure, title), csv_text(rows), note)
