"""Names the commands: `python -m xrec_jax`.

    python -m xrec_jax            # each command with what it does
    python -m xrec_jax.train --help
"""

import ast
import pathlib
import sys

from xrec_jax.errors import nearest

FOLDER = pathlib.Path(__file__).parent


def commands() -> dict[str, str]:
    """Module → the first sentence of its docstring, for every module that can be run; none is imported."""
    found = {}
    for path in [*sorted(FOLDER.glob('*.py')), *sorted((FOLDER / 'analysis').glob('*.py'))]:
        text = path.read_text(encoding='utf-8')
        if "\nif __name__ == '__main__':" in text and path.stem != '__main__':
            name = '.'.join(('xrec_jax', *path.relative_to(FOLDER).with_suffix('').parts))
            found[name] = ast.get_docstring(ast.parse(text)).split('\n\n')[0].replace('\n', ' ')
    return found


def main(argv: list[str]) -> int:
    known = commands()
    if argv and argv[0] not in ('-h', '--help', '-help'):
        short = {name.removeprefix('xrec_jax.'): name for name in known}
        hint = nearest(argv[0], short)
        print(f'error: commands are modules: python -m xrec_jax.COMMAND.{hint}', file=sys.stderr)
        return 2
    for name, what in known.items():
        print(f'python -m {name}\n    {what}')
    print('\nEach has --help, with examples.')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
