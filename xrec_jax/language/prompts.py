"""Prompts: jinja templates filled with items, domain words and reasons.

`templates/<system>/<name>.jinja` holds one prompt; `render('expctr/explain', …)` fills it. An item
is written as its title, with its attributes in brackets where a config asks for them: a language
model of a few million parameters knows no film by its title.
"""

import functools
from collections.abc import Sequence

import jinja2

from xrec_jax.errors import UserError, nearest

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


def item_text(title: str, attributes: Sequence[str], with_attributes: bool) -> str:
    """'Toy Story (1995) [animation, comedy]', or the title alone."""
    return f'{title} [{", ".join(attributes)}]' if with_attributes and len(attributes) else title
