"""Prompts: jinja templates filled with items, domain words and reasons.

`templates/<system>/<name>.jinja` holds one prompt; `render('expctr/explain', …)` fills it. An item
is written as its title, and with its attributes where a config asks for them: a language model of a
few million parameters knows no film by its title. In a history each attribute can carry what the
user thought of the item ("war disliked"), so that such a model need not look up the list's heading.

A template may say which part of it is whose in a chat: `{% block system %}` for the system, `{% block user %}`
for the user (as in `expctr/explain.jinja`); without blocks all of it is the user's. As plain text it is the whole
either way.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jinja2

from xrec_jax.errors import UserError, nearest

OPINIONS = {True: 'liked', False: 'disliked'}


class Prompt(NamedTuple):
    """One prompt, for models of either kind: `chat.encode` takes what its tokenizer asks for."""

    text: str  # the whole, as plain text
    user: str  # in a chat: what the user says
    system: str = ''  # in a chat: what the system says; '': nothing


@dataclasses.dataclass(frozen=True)
class Shown:
    """An item as the templates of `recpie/` show it."""

    title: str
    attributes: Sequence[str]
    profile: str  # as a language model wrote it, or title and attributes
    liked: bool = True  # of the past: what the user thought of it

    @property
    def plain(self) -> str:
        """'Toy Story (1995) - animation, comedy', of a profile as `tiny` writes it: that, or with opinions behind."""
        title, dash, attributes = self.profile.rstrip('.').rpartition(' - ')
        if not dash:
            return self.profile
        return item_text(title, [name.removesuffix(f' {OPINIONS[True]}') for name in attributes.split(', ')])

    @property
    def judged(self) -> str:
        """'Toy Story (1995) - animation liked, comedy liked': the same, with what the user thought of the item."""
        return self._with(OPINIONS[self.liked])

    @property
    def seen(self) -> str:
        """'Toy Story (1995) - animation seen, comedy seen': the same, and what the user thought of it is not said."""
        return self._with('seen')

    def _with(self, opinion: str) -> str:
        title, dash, attributes = self.plain.rpartition(' - ')
        return item_text(title, attributes.split(', '), opinion) if dash else self.profile


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


def render_roles(name: str, **variables) -> Prompt:
    """Fills the template `name`, as a whole and by role."""
    template, text = _template(name), render(name, **variables)
    if 'user' not in template.blocks:
        return Prompt(text=text, user=text)
    context = template.new_context(variables)
    part = lambda role: ''.join(template.blocks[role](context)) if role in template.blocks else ''
    return Prompt(text=text, user=part('user'), system=part('system'))


def item_text(title: str, attributes: Sequence[str], opinion: str = '') -> str:
    """'Toy Story (1995) - animation, comedy'; with opinion 'liked', '… - animation liked, comedy liked'.

    A dash, not brackets: behind a bracket the first attribute would be another token than elsewhere.
    """
    shown = ', '.join(f'{attribute} {opinion}'.rstrip() for attribute in attributes)
    return f'{title} - {shown}' if shown else title
