"""Loading a checkpoint: time beside the disk's own, and memory beside the weights.

    python bench/load.py [--peer /path/to/python-with-transformers] [--layers 3] [--folder /tmp] [--only load]

Writes random bfloat16 weights of LLaMA-3.1-8B's widths and vocabulary, but of few layers (3: 3.4 GB), in four
files with an index, and removes them again. Each line of JSON is a case in a process of its own; imports and
the start of the backend are not timed. `cold`: the files' pages have been dropped from memory first; `warm`: they
have just been read.

  read          every byte of the files, in order, into one buffer of 16 MiB: what the disk can do
  hold          the same by as many threads as loading has, into memory of its own: what disk and memory can do
  load          `weights.load_model` in bfloat16 on one CPU device; compilation included
  load-again    the same, after a first load in the same process: its memory is not fresh from a virtual machine's
                host, which may hand it out no faster than a disk reads
  feed          what the host of accelerators does: pieces are read ahead, as they lie in the files, and here dropped
  load-float32  as `load`, cast on the way
  load-mesh     the same on eight fake devices, fsdp=4 and tensor=2
  load-process  each of two processes loads its half of the model (fsdp=2), at the same time
  transformers  `AutoModelForCausalLM.from_pretrained` in bfloat16, in the interpreter that --peer names

  seconds        the slowest process; cpu_seconds, those of its threads together
  gb_per_s       bytes of the files by seconds
  share_of_read, share_of_hold  seconds of `read` and of `hold`, as cold or warm, by seconds: 1 is as fast
  beside         GB of the largest resident set beside what there was before and the weights that the process
                 holds (on CPU devices these are the host's memory, too): what loading itself needs
  ratio          seconds of `transformers` by ours
"""

import argparse
import collections
import concurrent.futures
import gc
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

SHAPE = dict(vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_heads=32, num_kv_heads=8, head_dim=128)
MESHES = {'load': None, 'load-again': None, 'load-float32': None, 'load-mesh': {'fsdp': 4, 'tensor': 2},
          'load-process': {'fsdp': 2}}
BOUNDS = [(case, state) for case in ('read', 'hold') for state in ('cold', 'warm')]
CASES = [('load', 'cold'), ('load', 'warm'), ('load-again', 'cold'), ('feed', 'cold'), ('feed', 'warm'),
         ('load-float32', 'warm'), ('load-mesh', 'warm'), ('load-process', 'warm')]
PEER = [('transformers', 'cold'), ('transformers', 'warm')]


# ------------------------------------------------------------------------------------ in a process of its own


def write_checkpoint(folder: pathlib.Path, layers: int) -> None:
    from xrec_jax.language import checkpoint_files, weights
    from xrec_jax.language.config import DecoderConfig
    config = DecoderConfig(**SHAPE, num_layers=layers, rope_theta=5e5)
    dtype = checkpoint_files.DTYPES['BF16']
    numbers = (0.02 * np.random.default_rng(0).standard_normal(2**22)).astype(dtype)
    wanted = {name: (dtype, parts[0].stored_shape) for name, parts in weights.stored_tensors(config).items()}
    with checkpoint_files.replaced(folder, 'config.json', ()) as partial:
        weights._write_tensors(partial, wanted, lambda name: np.resize(numbers, wanted[name][1]), 10**9)
        checkpoint_files.write_json(partial / 'config.json', config.to_hf() | {'dtype': 'bfloat16'})


def read(folder: pathlib.Path) -> dict:
    buffer = memoryview(bytearray(2**24))
    start, cpu = time.perf_counter(), time.process_time()
    for path in sorted(folder.glob('*.safetensors')):
        with open(path, 'rb', buffering=0) as file:
            while file.readinto(buffer):
                pass
    return {'seconds': time.perf_counter() - start, 'cpu_seconds': time.process_time() - cpu}


def forget(folder: pathlib.Path) -> None:
    """Drops the files' pages from memory."""
    for path in sorted(folder.glob('*.safetensors')):
        with open(path, 'rb') as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def hold(folder: pathlib.Path) -> dict:
    from xrec_jax.language import filling
    files = {path: path.stat().st_size for path in sorted(folder.glob('*.safetensors'))}
    ranges = [(path, start) for path, size in files.items() for start in range(0, size, 2**24)]

    def run() -> int:
        room = {path: memoryview(np.empty(size, np.uint8)) for path, size in files.items()}

        def fill(path: pathlib.Path, start: int) -> None:
            with open(path, 'rb', buffering=0) as file:
                file.seek(start)
                file.readinto(room[path][start:start + 2**24])

        with concurrent.futures.ThreadPoolExecutor(filling.READERS) as pool:
            collections.deque(pool.map(fill, *zip(*ranges)), maxlen=0)
        return sum(files.values())

    return measured(run)


def feed(folder: pathlib.Path) -> dict:
    from xrec_jax.language import checkpoint_files, filling, weights
    from xrec_jax.language.config import DecoderConfig

    def run() -> int:
        config = DecoderConfig.from_hf(checkpoint_files.read_config(folder))
        sources = weights._sources(config)
        stored = weights.locate(folder, sources, config.family, lambda _: False)
        parameters = {path: filling.Parameter(shape, source, stored[path], None)
                      for path, (shape, source) in sources.items()}
        read = lambda piece: dict(filling._read(parameters[piece.path], piece, checkpoint_files.Stored.read))
        collections.deque(filling._read_ahead(read, filling.pieces_in_order(parameters, filling.PIECE)), maxlen=0)
        return 0

    return measured(run)


def load(case: str, folder: pathlib.Path, number: int, address: str) -> dict:
    if case == 'load-mesh':
        os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'
    os.environ['JAX_PLATFORMS'] = 'cpu'
    import jax
    import jax.numpy as jnp
    if case == 'load-process':
        jax.distributed.initialize(address, 2, number)
    from xrec_jax.language import weights
    from xrec_jax.parallel import mesh as meshes
    mesh = meshes.make_mesh(MESHES[case]) if MESHES[case] else None
    jax.block_until_ready(jnp.zeros(3))
    dtype = jnp.float32 if case == 'load-float32' else jnp.bfloat16

    def run() -> int:
        _, params = weights.load_model(folder, mesh, dtype=dtype)
        jax.block_until_ready(params)
        return sum(shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards)

    if case == 'load-again':
        run()
        gc.collect()
        forget(folder)
    return measured(run)


def load_peer(folder: pathlib.Path) -> dict:
    import torch
    import transformers
    transformers.utils.logging.disable_progress_bar()

    def run() -> int:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        # Its weights may be views of mapped files: touched, so that they are read.
        return sum(value.nbytes for value in model.parameters() if value.sum().isfinite())

    return measured(run)


def measured(run) -> dict:
    """Seconds of `run`, which returns the bytes of weights that it made, and what memory it needed beside them."""
    before = resident('VmRSS')
    pathlib.Path('/proc/self/clear_refs').write_text('5')  # the largest so far is forgotten
    start, cpu = time.perf_counter(), time.process_time()
    size = run()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {'seconds': seconds, 'cpu_seconds': cpu, 'weights': size / 1e9,
            'beside': resident('VmHWM') - before - size / 1e9}


def resident(key: str) -> float:
    (line,) = (line for line in open('/proc/self/status') if line.startswith(key))
    return int(line.split()[1]) * 1024 / 1e9


# ------------------------------------------------------------------------------------ the whole


def run_case(case: str, state: str, folder: pathlib.Path, python: str) -> dict:
    forget(folder) if state == 'cold' else read(folder)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        address = f'127.0.0.1:{free.getsockname()[1]}'
    workers = [subprocess.Popen(
        [python if case == 'transformers' else sys.executable, __file__, '--worker', case, '--folder', str(folder),
         '--number', str(number), '--address', address], stdout=subprocess.PIPE, text=True)
        for number in range(2 if case == 'load-process' else 1)]
    outputs = [worker.communicate()[0] for worker in workers]
    if any(worker.returncode for worker in workers):
        raise SystemExit(f'{case}, {state}: failed')
    results = [json.loads(output.splitlines()[-1]) for output in outputs]
    return {key: round(max(result[key] for result in results), 3) for key in results[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--peer', default='')
    parser.add_argument('--layers', type=int, default=3)
    parser.add_argument('--folder', type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()))
    parser.add_argument('--only', default='', help='cases, as load,transformers; read and hold are always run')
    parser.add_argument('--worker', help=argparse.SUPPRESS)
    parser.add_argument('--number', type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument('--address', default='', help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.worker:
        work = {'read': lambda: read(flags.folder), 'hold': lambda: hold(flags.folder),
                'feed': lambda: feed(flags.folder), 'transformers': lambda: load_peer(flags.folder)}
        print(json.dumps(work.get(
            flags.worker, lambda: load(flags.worker, flags.folder, flags.number, flags.address))()))
        return
    folder = pathlib.Path(tempfile.mkdtemp(prefix='load-', dir=flags.folder))
    try:
        write_checkpoint(folder, flags.layers)
        size = sum(path.stat().st_size for path in folder.glob('*.safetensors')) / 1e9
        seconds = {}
        only = flags.only.split(',') if flags.only else [case for case, _ in PEER + CASES]
        for case, state in BOUNDS + (PEER if flags.peer else []) + CASES:
            if case not in only and (case, state) not in BOUNDS:
                continue
            result = run_case(case, state, folder, flags.peer)
            seconds[case, state] = result['seconds']
            line = {'bench': 'load', 'case': case, 'files': state, 'gb': round(size, 3)} | result
            line['gb_per_s'] = round(size / result['seconds'], 3)
            for name, other in ('share_of_read', 'read'), ('share_of_hold', 'hold'), ('ratio', 'transformers'):
                if case not in ('read', 'hold', other) and (other, state) in seconds:
                    line[name] = round(seconds[other, state] / result['seconds'], 2)
            print(json.dumps(line), flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == '__main__':
    main()
