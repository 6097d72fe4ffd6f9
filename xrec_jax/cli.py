"""What every entry point does around its `main`: read flags, print errors for people, exit codes.

An entry point ends with `if __name__ == '__main__': cli.run(main)`, where `main(argv)` is absl's.
Exit codes: 0 done, or stopped by SIGTERM with all saved, 2 bad input (one `error: ...` on stderr, no traceback), 130
Ctrl-C; a traceback and 1 mean a bug of ours.
"""

import contextlib
import errno
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from xrec_jax.errors import UserError, nearest
from xrec_jax.parallel import distributed
from xrec_jax.runs import files, preemption, progress


def define_run_flags(example: str) -> None:
    """--config and --workdir, of the entry points that run a config.

    Called under `__main__`, not at import: flags are global, and entry points may be imported together.
    """
    config_flags.DEFINE_config_file('config', None, f'File with get_config, as {example}.')
    flags.DEFINE_string('workdir', None, 'Folder of the run; an existing one is gone on with.', required=True)
    flags.mark_flag_as_required('config')


def run(main: Callable[[list[str]], Any]) -> None:
    """Runs `main` under absl; does not return."""
    logging.set_verbosity(logging.WARNING)  # orbax tells every file it writes; -v=0 turns that on
    show_all_flags()
    try:
        app.run(main, flags_parser=parse_flags)
    except UserError as error:
        _leave(2, f'error: {error}')
    except preemption.Stopped as stopped:
        _leave(0, f'stopped as asked, {stopped}; all is saved, the same command goes on from there'
               if distributed.is_main() else '')
    except KeyboardInterrupt:
        _leave(130, 'interrupted; what was written is kept, the same command goes on from there')
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _leave(2, f'error: the disk is full ({error}); free some space and run the same command '
                  'again, it goes on from what was written')


def own_flags() -> list[flags.Flag]:
    """The flags that our modules define, not absl's."""
    return [flag for module, group in flags.FLAGS.flags_by_module_dict().items()
            for flag in group if not module.startswith('absl')]


def show_all_flags() -> None:
    """--help tells of the flags of the program's own module: these are all of ours, wherever they are defined."""
    for flag in own_flags():
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def join_processes() -> None:
    """Joins the other processes of the run, if there are any; all but the first are silent and write nothing.

    Before anything touches a device.
    """
    distributed.initialize()
    files.set_writer(distributed.is_main())
    progress.CONSOLE.quiet = not distributed.is_main()


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses all flags, config overrides included; UserError names the nearest valid name."""
    try:
        rest = flags.FLAGS(argv)
    except flags.UnrecognizedFlagError as error:
        if re.match(r'(no)?\w+\.', error.flagname):
            raise UserError(f'--{error.flagname}: no config to override; give --config=FILE and '
                            'then --config.KEY=VALUE') from error
        known = [flag.name for flag in own_flags()]
        raise UserError(f'unknown flag --{error.flagname}.{nearest(error.flagname, known)}') from error
    except flags.Error as error:
        if missing := re.search(r'Flag (--\w+) must have a value other than None', str(error)):
            raise UserError(f'{missing[1]} is required; --help tells more') from error
        # A ValueError inside a config file comes with its whole traceback: keep the last line.
        raise UserError(re.sub(r'Error whilst parsing.*\n(?=\S)', '', str(error).strip(), flags=re.S)
                        ) from error
    except (AttributeError, KeyError, TypeError) as error:
        raise _unknown_key(argv, error) from error
    if rest[1:]:
        raise UserError(f'unexpected argument "{rest[1]}"; options are --NAME=VALUE')
    for name in flags.FLAGS:
        if config_flags.is_config_flag(flags.FLAGS[name]):
            _check_loaded(flags.FLAGS[name])
    return rest


def _check_loaded(flag: flags.Flag) -> None:
    """ml_collections keeps the error of a config file that does not load until first use."""
    try:
        getattr(flag.value, 'keys', None)
    except OSError as error:
        missing = re.search(r"No such file or directory: '(.+)'", str(error))
        if not missing:
            raise UserError(f'--{flag.name}: cannot read the config file ({error.__cause__})') from error
        path = pathlib.Path(missing[1])
        there = [file.stem for file in path.parent.glob('*.py') if file.stem != '__init__']
        raise UserError(f'--{flag.name}: there is no file {missing[1]}.{nearest(path.stem, there) if there else ""}'
                        ) from error


def _unknown_key(argv: Sequence[str], error: Exception) -> Exception:
    """Returns the UserError for the first override of a key that its config has not, else `error`."""
    for name in list(flags.FLAGS):
        flag = flags.FLAGS[name]
        if '.' in name or not config_flags.is_config_flag(flag):
            continue
        path = re.search(rf'(?m)^--?{name}(?:=|\n)(.+)$', '\n'.join(argv))
        config = flag.parser.parse(path[1]) if path else flag.value
        known = list(_keys(config))
        for key in re.findall(rf'(?m)^--?{name}\.([^=\n]+)', '\n'.join(argv)):
            if key not in known:
                leaf = key.rsplit('.', 1)[-1]  # the right name in the wrong group comes first
                same = [k for k in known if k.rsplit('.', 1)[-1] == leaf]
                hint = f' Did you mean "{same[0]}"?' if same else nearest(key, known)
                return UserError(f'unknown config key "{key}".{hint}')
    return error


def _keys(config: ConfigDict, prefix: str = '') -> Iterator[str]:
    """Yields every dotted key, groups included."""
    for key, value in config.items():
        yield prefix + key
        if isinstance(value, ConfigDict):
            yield from _keys(value, f'{prefix}{key}.')


def _leave(code: int, message: str) -> None:
    with contextlib.suppress(OSError):  # where stdout is what is full
        sys.stdout.flush()
    if message:
        print(message, file=sys.stderr)
    sys.exit(code)
