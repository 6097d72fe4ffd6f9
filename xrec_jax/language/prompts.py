"""Prompts: jinja templates filled with items, domain words and reasons.

`templates/<system>/<name>.jinja` holds one prompt; `render('expctr/explain', …)` fills it. An item
is written as its title, and with its attributes where a config asks for them: a language model of a
few million parameters knows no film by its title. In a history each attribute can carry what the
user thought of the item ("war disliked"), so that such a model need not look up the list's heading.
"""

import functools
from collections.abc import Sequence

import jinja2

from xrec_jax.errors import UserError, nearest

OPINIONS = {True: 'liked', False: 'disliked'}

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader('xrec_jax.language', 'templates'),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=False,
)


@functools.cache
def _template(name: str) -> jinja2.Template:
    try:
        return _ENVIRONMENT.get_template(f'{name}.jinja')
    except jinja2.TemplateNotFound:
        known = [path.removesuffix('.jinja') for path in _ENVIRONMENT.list_templates()]
        raise UserError(f'There is no prompt template "{name}".{nearest(name, known)}') from None


def render(name: str, **variables) -> str:
    """Fills the template `name` ('expctr/explain'); a variable that it needs and lacks is an error."""
    return _template(name).render(**variables)


def item_text(title: str, attributes: Sequence[str], opinion: str = '') -> str:
    """'Toy Story (1995) - animation, comedy'; with opinion 'liked', '… - animation liked, comedy liked'.

    A dash, not brackets: behind a bracket the first attribute would be another token than elsewhere.
    """
    shown = ', '.join(f'{attribute} {opinion}'.rstrip() for attribute in attributes)
    return f'{title} - {shown}' if shown else title
