"""The commands of the documentation: they exist, take what they are given, and those that are quick run.

  every command    its module or script is there and has the flags; of `train` the config loads, and each override is a
                   key of it that takes the value. Nothing is trained
  the quick ones   `prepare` on the csv files of docs/your_data.md, the list of commands, the reward of
                   docs/your_parts.md; in tests/test_api.py the Python of docs/using.md on a finished run, and in
                   tests/test_plan.py the plan of docs/machines.md, whose figures are held against the page
"""

import ast
import pathlib
import re
import shlex
import subprocess
import sys

from absl import flags
from ml_collections.config_flags import config_flags
import numpy as np
import pytest

from xrec_jax import __main__ as listing
from xrec_jax import cli, explain, prepare
from xrec_jax.data import catalog, tables
from xrec_jax.phases import writing

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ('README.md', 'docs/*.md', 'launch/*.md', 'xrec_jax/data/README.md', 'xrec_jax/language/tiny/README.md')
# Flags that are defined by what a program calls, and by absl.
SHARED = {'cli.define_run_flags': 'xrec_jax/cli.py', 'watch.define_flags': 'xrec_jax/runs/watch.py',
          'sides.options': 'bench/sides.py'}
ABSL = {'help', 'helpfull', 'v'}


def blocks(page: pathlib.Path, language: str = '') -> list[str]:
    """The fenced blocks of a page, of one language."""
    return re.findall(rf'^```{language}\n(.*?)^```$', page.read_text(encoding='utf-8'), flags=re.M | re.S)


def commands() -> list[tuple[str, str]]:
    """(page, command) of every line of a fenced block, or `code` in a text, that starts one of our programs."""
    found = []
    for page in sorted(page for pattern in PAGES for page in ROOT.glob(pattern)):
        text = page.read_text(encoding='utf-8')
        lines = [line for block in blocks(page) for line in block.replace('\\\n', ' ').splitlines()]
        lines += re.findall(r'`((?:python|bash) [^`]+)`', re.sub(r'^```.*?^```$', '', text, flags=re.M | re.S))
        for line in lines:
            line = re.sub(r'\s#\s.*$', '', line).strip()
            line = re.sub(r'^(\w+=\S+ )+', '', line)
            if re.match(r'python (-m xrec_jax|bench/|docs/)|bash launch/', line):
                found.append((str(page.relative_to(ROOT)), re.sub(r'[\[\]…]|\s\.\.\.', ' ', line)))
    return list(dict.fromkeys(found))


def flags_of(path: pathlib.Path) -> set[str]:
    """Names of the flags that a program defines, by absl or argparse, read from its source."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, 'id', '')
        if called.startswith('DEFINE_') and node.args:
            names.add(node.args[0].value)
        elif called == 'add_argument' and isinstance(node.args[0].value, str):
            names |= {arg.value.lstrip('-') for arg in node.args if isinstance(arg, ast.Constant)}
        elif isinstance(node.func, ast.Attribute) and ast.unparse(node.func) in SHARED:
            names |= flags_of(ROOT / SHARED[ast.unparse(node.func)])
    return names


def program_of(words: list[str]) -> tuple[pathlib.Path, list[str]]:
    """The file that a command starts, and its arguments."""
    if words[:2] == ['python', '-m']:
        path = ROOT / pathlib.Path(*words[2].split('.'))
        return (path / '__main__.py' if path.is_dir() else path.with_suffix('.py')), words[3:]
    return ROOT / words[1], words[2:]


def words_of(command: str) -> list[str]:
    return shlex.split(command.replace("'", '"') if command.count("'") % 2 else command)


@pytest.mark.parametrize('page, command', commands(), ids=lambda text: text[:70])
def test_a_command_has_its_program_and_flags(page, command):
    path, arguments = program_of(words_of(command))
    assert path.is_file(), f'{page}: {path} is not there'
    if path.suffix == '.sh':
        return test_shell_options(path, arguments)
    known = flags_of(path) | ABSL
    for argument in arguments:
        if argument.startswith('--') and not argument.startswith('--config.'):
            name = argument[2:].split('=')[0]
            assert name in known or name.removeprefix('no') in known, f'{page}: {path.name} has no --{name}'


def test_shell_options(path=ROOT / 'launch/local.sh', arguments=('--dry_run',)):
    """Options before `--` stand in the script, or go on to `train`."""
    source = path.read_text(encoding='utf-8') + (ROOT / 'launch/README.md').read_text(encoding='utf-8')
    given = list(arguments)[:list(arguments).index('--')] if '--' in arguments else list(arguments)
    trains = flags_of(ROOT / 'xrec_jax/train.py')
    for argument in given:
        name = argument.split('=')[0]
        if name.startswith('--') and not name.startswith('--config.') and name[2:] not in trains:
            assert name in source, f'{path.name} has no {name}'


def trained() -> list[tuple[str, list[str]]]:
    """Arguments of every command that names a config, placeholders as they are."""
    found = []
    for page, command in commands():
        words = words_of(command)
        arguments = words[words.index('--') + 1:] if '--' in words else words[3 if words[1] == '-m' else 2:]
        own = [word for word in arguments if word.startswith(('--config', '--workdir'))]
        pairs, rest = [], iter(arguments)
        for word in rest:
            if word in ('--config', '--workdir'):
                pairs.append(f'{word}={next(rest)}')
            elif word.startswith(('--config.', '--config=', '--workdir=')):
                pairs.append(word)
        if own and any(pair.startswith('--config=configs/') for pair in pairs):
            found.append((page, pairs))
    return found


@pytest.mark.parametrize('page, arguments', trained(), ids=lambda one: ' '.join(one)[:70] if isinstance(one, list) else one)
def test_a_config_takes_its_overrides(page, arguments, monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, 'FLAGS', values)
    flags.DEFINE_string('workdir', None, '', flag_values=values)
    config_flags.DEFINE_config_file('config', None, '', flag_values=values)
    arguments = [re.sub(r'^--config=configs/', f'--config={ROOT}/configs/', one) for one in arguments]
    # A name that stands for one: any dataset has these options.
    arguments = [re.sub(r'(\.py):(NAME|FILE\.jsonl)$', r'\1' + (':ml-100k' if 'NAME' in one else ':f.jsonl'), one)
                 for one in arguments]
    argv = ['prog', *arguments]
    monkeypatch.setattr(sys, 'argv', argv)
    cli.parse_flags(argv)
    assert values.config.keys()


def test_every_program_tells_what_it_does_with_an_example_and_describes_each_flag():
    for name in listing.commands():
        path, _ = program_of(['python', '-m', name])
        text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
        assert f'python -m {name}' in text, f'{name} --help has no example'
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call) and getattr(node.func, 'attr', '').startswith('DEFINE_') and len(node.args) > 2:
                help_at = 3 if node.func.attr == 'DEFINE_enum' else 2
                assert not (isinstance(node.args[help_at], ast.Constant) and not node.args[help_at].value), (
                    f'{name}: --{node.args[0].value} is not described')


def test_the_list_of_commands_names_those_of_the_readme(capsys):
    assert listing.main([]) == 0
    text = capsys.readouterr().out
    for name in ('train', 'explain', 'serve', 'report', 'prepare', 'plan'):
        assert f'python -m xrec_jax.{name}\n' in text
    assert listing.main(['explan']) == 2 and 'Did you mean "explain"' in capsys.readouterr().err


def test_help_names_the_flags_of_other_modules_too(monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, 'FLAGS', values)
    explain.define_flags(values)
    config_flags.DEFINE_config_file('config', None, 'of a run', flag_values=values)
    assert '--workdir' not in values.main_module_help()
    cli.show_all_flags()
    for name in ('--config', '--workdir', '--[no]generate'):
        assert f'  {name}:' in values.main_module_help()


def test_your_own_data_are_read_as_the_page_says(tmp_path, capsys):
    page = ROOT / 'docs' / 'your_data.md'
    for name, text in zip(('interactions.csv', 'books.csv'), blocks(page, 'csv')):
        (tmp_path / name).write_text(text)
    command, = [one for where, one in commands() if where == 'docs/your_data.md' and 'xrec_jax.prepare' in one]
    words = words_of(command)[3:]
    given = [value for name, value in zip(words, words[1:]) if name == '--option']
    options = prepare.settings('option', given, catalog.entry('csv').options, 'dataset "csv"')
    dataset = catalog.load('csv', str(tmp_path), out=tmp_path / 'BOOKS', **options)
    assert (dataset.users.num_rows, dataset.items.num_rows, dataset.interactions.num_rows) == (3, 4, 9)
    assert dataset.domain.items == 'books' and dataset.items['title'].to_pylist()[0] == 'The Long Way'
    assert tables.times(dataset).min() == 1610236800  # 2021-01-10
    again = catalog.load('csv', str(tmp_path / 'BOOKS'))
    assert again.interactions.equals(dataset.interactions)


def test_your_own_reward_is_one(monkeypatch):
    from xrec_jax.phases import align_rewards
    monkeypatch.setattr(align_rewards, 'REWARDS', dict(align_rewards.REWARDS))
    monkeypatch.setattr(writing, 'encode', lambda task, texts: np.zeros((len(texts), 4)))
    block, = blocks(ROOT / 'docs' / 'your_parts.md', 'python')
    exec(compile(block, 'docs/your_parts.md', 'exec'), {})
    raw, columns = align_rewards.REWARDS['short'](None, None, None, np.arange(2), ['one two', 'a ' * 24])
    np.testing.assert_allclose(raw, [1, 0.5])
    assert columns.keys() == {'llm_score', 'vector'}


def test_links_lead_somewhere():
    for page in (page for pattern in PAGES for page in ROOT.glob(pattern)):
        for target in re.findall(r'\]\(([^)#:]+)\)', page.read_text(encoding='utf-8')):
            assert (page.parent / target).exists(), f'{page.name}: {target}'


def test_the_page_of_config_keys_is_current():
    result = subprocess.run([sys.executable, 'docs/make_config.py', '--check'], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, 'python docs/make_config.py writes it anew ' + result.stderr
