"""What bench/decode.py, tune.py, score.py and ppo.py share: two sides, each in a process of its own, in turns.

The peer (torch, transformers, peft) runs in an interpreter of its own, `--peer`, with the same weights and the same
tokens. Both processes stay and take turns, so that what else the machine does meets both; figures are medians.

Rooflines are measured, in the process that is compared with them and on its device: `bandwidth` by reading 256 MiB
(2 GiB on accelerators) as a matrix times a vector, `peak_flops` by products of 2048³ (8192³), the best of six.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
SHAPES = {
    'small': dict(vocab_size=4096, hidden_size=512, intermediate_size=1408, num_layers=6, num_heads=8, num_kv_heads=4,
                  head_dim=64, max_position_embeddings=1024),
    '15m': dict(vocab_size=32000, hidden_size=288, intermediate_size=768, num_layers=6, num_heads=6, num_kv_heads=6,
                head_dim=48, tie_word_embeddings=True, max_position_embeddings=2048),
    '8b': dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_layers=32, num_heads=32,
               num_kv_heads=8, head_dim=128, rope_theta=500000.0, max_position_embeddings=8192),
}
DTYPES = ('float32', 'bfloat16')
REMAT = {'none': False, 'projections': 'projections', 'all': True}  # of the config


# ------------------------------------------------------------------------------------------- ours


def random_model(shape: str, dtype: str, **fields):
    """Config and random weights of a shape, made in its dtype on the device."""
    import jax
    import jax.numpy as jnp
    from xrec_jax.language import decoder
    from xrec_jax.language.config import DecoderConfig
    config = DecoderConfig(**SHAPES[shape], dtype=jnp.dtype(dtype).type, **fields)
    make = lambda key: jax.tree.map(lambda x: x.astype(dtype), decoder.init_params(key, config))
    return config, jax.jit(make)(jax.random.key(0))


def sizes(config, params) -> tuple[int, int]:
    """Parameters of the projections, and V · D of the output matrix."""
    import jax
    projections = sum(leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params) if 'kernel' in str(path))
    return projections, config.vocab_size * config.hidden_size


def rooflines(dtype: str) -> dict[str, float]:
    """`peak_flops` a second, `bandwidth` in bytes a second."""
    import jax
    import jax.numpy as jnp
    small = jax.default_backend() == 'cpu'
    size, rows = (2048, 2**16) if small else (8192, 2**19)
    square = jnp.full((size, size), 0.5, dtype)
    flops = 2 * size**3 / min(timed(jax.jit(lambda x: x @ x), square))
    matrix = jnp.full((rows, 2**10 * (2 if dtype == 'float32' else 4) // 2), 0.5, dtype)
    vector = jnp.ones(matrix.shape[1], dtype)
    return {'peak_flops': flops, 'bandwidth': matrix.nbytes / min(timed(jax.jit(lambda x, y: x @ y), matrix, vector))}


def timed(function, *arguments, times: int = 6) -> list[float]:
    """Seconds of each call but a first one, which compiles."""
    import jax
    jax.block_until_ready(function(*arguments))
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        seconds.append(time.perf_counter() - start)
    return seconds


def device() -> dict:
    """Which, and the most bytes that were in use on it, where it says so."""
    import jax
    first = jax.devices()[0]
    return {'device': first.device_kind, 'device_peak_bytes': (first.memory_stats() or {}).get('peak_bytes_in_use')}


# ------------------------------------------------------------------------------------------ theirs


def versions() -> dict:
    import torch
    import transformers
    return {'versions': f'torch {torch.__version__}, transformers {transformers.__version__}',
            'threads': torch.get_num_threads()}


# ------------------------------------------------------------------------------------- processes


def serve(**verbs) -> None:
    """Answers the lines of standard input, a JSON line each, with the peak of this process's memory."""
    for line in sys.stdin:
        verb, *rest = json.loads(line)
        answer = verbs[verb](*rest) | {'peak_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}
        print('@' + json.dumps(answer), flush=True)


class Worker:
    """A process of `script` that serves."""

    def __init__(self, python: str, script: str, *arguments: str):
        self.process = subprocess.Popen([python, script, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment())

    def ask(self, *request) -> dict:
        self.process.stdin.write(json.dumps(request) + '\n')
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('@'):
                return json.loads(line[1:])
        raise SystemExit(f'the worker for {request} ended with status {self.process.wait()}')

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def environment() -> dict[str, str]:
    return os.environ | {'PYTHONPATH': str(ROOT), 'TRANSFORMERS_VERBOSITY': 'error', 'TOKENIZERS_PARALLELISM': 'false'}


@contextlib.contextmanager
def workers(script: str, args, *names: str) -> Iterator[dict[str, Worker]]:
    """'ours', and 'theirs' with `args.peer`, both with the options `names`, until the context is left.

    Theirs read random weights that are first written to a folder that goes with them.
    """
    common = [f'--{name}={getattr(args, name)}' for name in ('shape', 'dtype', *names)]
    with tempfile.TemporaryDirectory() as folder:
        if args.peer:  # written by another process: this one holds no device
            subprocess.run([sys.executable, script, '--worker', 'save', '--model', folder, '--shape', args.shape],
                           check=True, env=environment())
            common.append(f'--model={folder}')
        result = {'ours': Worker(sys.executable, script, '--worker', 'ours', *common)}
        if args.peer:
            result['theirs'] = Worker(args.peer, script, '--worker', 'theirs', *common)
        try:
            yield result
        finally:
            for worker in result.values():
                worker.close()


def options(doc: str, needs: str) -> argparse.ArgumentParser:
    """The options that all such benches have; `needs`: what the peer's Python must have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', help=f'a Python that has {needs}')
    parser.add_argument('--shape', choices=SHAPES, default='15m')
    parser.add_argument('--dtype', choices=DTYPES, default='float32')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--worker', choices=('ours', 'theirs', 'save'), help=argparse.SUPPRESS)
    parser.add_argument('--model', type=pathlib.Path, help=argparse.SUPPRESS)
    return parser


def run(parser: argparse.ArgumentParser, args, ours: Callable, theirs: Callable, lead: Callable) -> None:
    """What `args` asks this process to be: a worker, or the one that leads them."""
    if args.peer and args.shape != '15m':
        parser.error('the peer is measured in the shape 15m')
    if args.worker == 'save':
        save_material(args.model, args.shape)
    else:
        {'ours': ours, 'theirs': theirs, None: lead}[args.worker](args)


def save_material(directory: pathlib.Path, shape: str) -> None:
    """Random weights and a random adapter, as Hugging Face and PEFT keep them."""
    import jax
    from xrec_jax.language import lora, peft, weights
    config, params = random_model(shape, 'float32')
    lora_config = lora.LoraConfig(rank=8, alpha=16.0)
    adapter = lora.init_adapter(jax.random.key(1), params, lora_config)
    weights.save_model(directory, config, params)
    peft.save_adapter(directory / 'adapter', config, adapter, lora_config)


def take_turns(workers: dict[str, Worker], rounds: int, *request) -> dict[str, list[dict]]:
    """Each side's answers, in turns; one round more than asked goes first and is not among them."""
    answers = {side: [] for side in workers}
    for number in range(rounds + 1):
        for side, worker in workers.items():
            answer = worker.ask(*request)
            if number:
                answers[side].append(answer)
    return answers


def median(answers: list[dict], key: str = 'seconds') -> float:
    return statistics.median(answer[key] for answer in answers)


def show(**line) -> None:
    print(json.dumps(rounded(line)), flush=True)


def rounded(value):
    """Figures to five digits, in dicts and lists too."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return float(f'{value:.5g}') if isinstance(value, float) else value


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns by width, the first on the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    for row in (head, *rows):
        print('  '.join([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:]))]), flush=True)
