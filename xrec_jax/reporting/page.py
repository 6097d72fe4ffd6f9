"""A report as one page that needs nothing else: no network, no script; it opens from the disk."""

from collections.abc import Sequence

import jinja2

from xrec_jax.reporting import figures, tables
from xrec_jax.reporting.collect import Group

FORMATS = ('html', 'markdown', 'latex')


def all_tables(groups: Sequence[Group]) -> list[tables.Table]:
    """The tables of a report: what differs first, then results, then what was run and how long it took."""
    differing = tables.config_table(groups)
    return [*([differing] if differing.rows else []), *tables.result_tables(groups), *tables.text_tables(groups),
            tables.runs_table(groups), tables.seconds_table(groups)]


def render(groups: Sequence[Group], form: str = 'html') -> str:
    """The report in one of `FORMATS`; Markdown and LaTeX are the tables alone."""
    if form != 'html':
        write = {'markdown': tables.markdown, 'latex': tables.latex}[form]
        return '\n'.join(map(write, all_tables(groups)))
    throughput = figures.throughput_figure(groups)
    drawn = figures.curve_figures(groups) + ([throughput] if throughput else [])
    runs = sum(len(group.runs) for group in groups)
    environment = jinja2.Environment(loader=jinja2.PackageLoader('xrec_jax.reporting', '.'), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template('page.html.jinja').render(
        title=f'xrec_jax: {groups[0].runs[0].config.get("data.name", "report")}',
        subtitle=f'{runs} run{"s" if runs > 1 else ""} of {len(groups)} config{"s" if len(groups) > 1 else ""}',
        tables=all_tables(groups), figures=drawn, one_seed=all(len(group.runs) == 1 for group in groups))
