"""Hugging Face directories ⇄ parameter pytrees.

  `load_model`   config and base weights, read straight into each device's slice
  `locate`       where each of some parameters lies in a directory, for other kinds of models too
  `save_model`   base weights, with an adapter added in where one is given, and what belongs to them

Hugging Face keeps each layer's matrices apart, mostly as [out, in]; we keep [in, out], stacked over
layers. `families.tensors` says where each of ours lies. Files are checkpoint_files.py's matter, the
way from there to the devices filling.py's, adapters alone peft.py's.
"""

import dataclasses
import functools
import itertools
import math
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from xrec_jax.errors import UserError
from xrec_jax.language import families, lora
from xrec_jax.language.checkpoint_files import (CONFIG, INDEX, MODEL, Stored, open_tensors, read_config, replaced,
                                                write_json, write_stream)
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.decoder import abstract_params
from xrec_jax.language.families.source import Source
from xrec_jax.language.filling import Parameter, Path, fill
from xrec_jax.parallel import sharding

LOADABLE = ('float32', 'bfloat16', 'float16')
SHARDS = 'model-*-of-*.safetensors'
# What belongs to a model beside weights and shape. Python files are those of families whose code is not
# part of transformers (ChatGLM): copied, never run.
COMPANIONS = ('generation_config.json', 'tokenizer*', 'special_tokens_map.json', 'added_tokens.json', 'vocab.json',
              'merges.txt', 'chat_template*', 'configuration_*.py', 'modeling_*.py', 'tokenization_*.py', 'LICENSE*')


def load_model(directory: str | os.PathLike, mesh: Mesh | None = None, **overrides) -> tuple[DecoderConfig, dict]:
    """Config and base weights of a Hugging Face directory.

    Names and shapes of all tensors are checked by their headers before any weights are read; then
    each host reads what its devices need, in a few pieces of at most 16 MiB at once, and never holds a whole
    parameter beside them.

    Args:
      directory: holds `config.json` and safetensors, one file or several with an index, in float32,
        bfloat16 or float16.
      mesh: where `sharding.RULES` split the weights over; also the config's. None: the default device.
      **overrides: fields of `DecoderConfig`; `dtype` is also the dtype that the weights get.

    Raises:
      UserError: an architecture or option that is not supported, files that are missing, damaged or
        pickled, a tensor that is missing, of a wrong shape or unknown, by name.
    """
    config = DecoderConfig.from_hf(read_config(directory), **({'mesh': mesh} | overrides))
    boxed, shardings = abstract_params(config), {}
    if mesh is not None:
        sharding.check_heads(config.num_heads, config.num_kv_heads, mesh)
        placed = sharding.param_shardings(boxed, mesh, config.units)
        sharding.check_sharded(boxed, placed, config.units)
        shardings = flax.traverse_util.flatten_dict(placed)
    stored = locate(pathlib.Path(directory), _sources(config), config.family, families.unread)
    parameters = {path: Parameter(shape, source, stored[path], shardings.get(path))
                  for path, (shape, source) in _sources(config).items()}
    return config, flax.traverse_util.unflatten_dict(fill(parameters, config.dtype))


def _sources(config: DecoderConfig) -> dict[Path, tuple[tuple[int, ...], Source]]:
    """Path → shape and place of every base weight."""
    boxed = flax.traverse_util.flatten_dict(abstract_params(config))
    sources = families.tensors(config)
    return {path: (nn.unbox(box).shape, sources[path]) for path, box in boxed.items()}


def _places(shape: tuple[int, ...], source: Source) -> Iterator[tuple[int, ...]]:
    """Indices of the stacked axes: (), (layer,) or (layer, expert)."""
    return itertools.product(*map(range, shape[:source.stacked + source.per_expert]))


def locate(directory: pathlib.Path, sources: Mapping[Path, tuple[tuple[int, ...], Source]], family: str,
           unread: Callable[[str], bool]) -> dict[Path, dict[tuple[int, ...], Stored]]:
    """Path → place in the stacked axes → its tensor in the directory.

    Args:
      sources: path → shape and place of every parameter.
      family: what the error about an unknown tensor calls the model.
      unread: whether the directory may hold a tensor of that name which no parameter reads.

    Raises:
      UserError: a tensor that is missing, of a wrong shape or type, or unknown, by name.
    """
    tensors, used, located = open_tensors(directory), set(), {}
    for path, (shape, source) in sources.items():
        located[path] = {}
        for place in _places(shape, source):
            names = source.names(*place)
            name = next((name for name in names if name in tensors), None)
            if name is None:
                where = directory / (MODEL if (directory / MODEL).exists() else INDEX)
                raise UserError(f'{where}: tensor {" or ".join(names)} is missing, which config.json asks for.')
            stored, wanted = tensors[name], source.stored_shape(shape[len(place):])
            if stored.shape != wanted:
                raise UserError(f'{stored.file}: tensor {name} has shape {stored.shape}; config.json asks for '
                                f'{wanted}.')
            if stored.dtype.name not in LOADABLE:
                raise UserError(f'{stored.file}: tensor {name} is stored as {stored.dtype.name}; can be read: '
                                f'{", ".join(LOADABLE)}.')
            located[path][place] = stored
            used.add(name)
    if unknown := [stored for name, stored in tensors.items() if name not in used and not unread(name)]:
        names = ', '.join(stored.name for stored in unknown[:3]) + (', …' if len(unknown) > 3 else '')
        raise UserError(f'{unknown[0].file}: {len(unknown)} tensor(s) that a "{family}" model of this '
                        f'config.json does not have ({names}): does config.json belong to these weights?')
    return located


def save_model(directory: str | os.PathLike, config: DecoderConfig, params: dict, dtype=np.float32, *,
               adapter: dict | None = None, lora_config: lora.LoraConfig | None = None,
               source: str | os.PathLike | None = None, max_shard_size: int = 5 * 10**9) -> None:
    """Writes a model as Hugging Face does, tensor by tensor, whole or not at all.

    Interrupted, it leaves what was there before, or a directory without `config.json`, which does not load.

    Args:
      directory: gets `config.json` and `model.safetensors`, or several such files with an index.
      dtype: that of the written weights.
      adapter: is added into the weights, in float32, as `lora_config` (then needed) scales it.
      source: the directory that `params` came from: what belongs to it (tokenizer, chat template,
        `generation_config.json`) is copied along, and so is what its `config.json` says besides.
      max_shard_size: bytes of tensors in a file. One that is larger has a file of its own.
    """
    if (adapter is None) != (lora_config is None):
        raise ValueError('adapter and lora_config go together')
    directory, dtype = pathlib.Path(directory), np.dtype(dtype)
    tensors = stored_tensors(config)
    params, pairs = flax.traverse_util.flatten_dict(params), flax.traverse_util.flatten_dict(adapter or {})
    if integers := [leaf.dtype for leaf in params.values() if not jnp.issubdtype(leaf.dtype, jnp.floating)]:
        raise UserError(f'The base weights are {integers[0]}: save the model, and merge adapters, with the original '
                        'weights (language.quantize="none").')
    if lost := {path[:-1] for path in pairs} - {path[:-1] for path in params if path[-1] == 'kernel'}:
        raise ValueError(f'the adapter has pairs for {lost}, the weights have no kernel there')
    merged = functools.partial(_assemble, params=params, pairs=pairs, lora_config=lora_config, dtype=dtype)
    if jax.process_index() == 0:
        wanted = {name: (dtype, parts[0].stored_shape) for name, parts in tensors.items()}
        buffers = _rotary_buffers(source)
        wanted |= {name: (stored.dtype, stored.shape) for name, stored in buffers.items()}
        with replaced(directory, CONFIG, (MODEL, SHARDS, INDEX)) as folder:
            _write_tensors(folder, wanted, lambda name: buffers[name].read() if name in buffers
                           else merged(tensors[name]), max_shard_size)
            for pattern in COMPANIONS if source else ():
                for file in pathlib.Path(source).glob(pattern):
                    shutil.copyfile(file, folder / file.name)
            write_json(folder / CONFIG, _hf_config(config, dtype, source))
    else:  # hands over its slices
        for parts in tensors.values():
            merged(parts)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices('save_model')


def _rotary_buffers(source: str | os.PathLike | None) -> dict[str, Stored]:
    """Frequencies that ChatGLM's own code wants among the tensors."""
    tensors = open_tensors(source) if source else {}
    return {name: stored for name, stored in tensors.items() if name.endswith('.inv_freq')}


def _write_tensors(folder: pathlib.Path, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
                   value: Callable[[str], np.ndarray], limit: int) -> None:
    """Writes `tensors` (name → dtype, shape) in files of `limit` bytes, with an index where there are several."""
    sizes = {name: math.prod(shape) * dtype.itemsize for name, (dtype, shape) in tensors.items()}
    files = _files(sizes, limit)
    for file, names in files.items():
        write_stream(folder / file, {name: tensors[name] for name in names}, map(value, names))
    if len(files) > 1:
        weight_map = {name: file for file, names in files.items() for name in names}
        write_json(folder / INDEX, {'metadata': {'total_size': sum(sizes.values())}, 'weight_map': weight_map})


@dataclasses.dataclass(frozen=True)
class Part:
    """One matrix or vector of ours as part of a stored tensor."""

    path: Path
    place: tuple[int, ...]  # in the stacked axes
    shape: tuple[int, ...]  # without them
    source: Source

    @property
    def stored_shape(self) -> tuple[int, ...]:
        return self.source.stored_shape(self.shape)


def stored_tensors(config: DecoderConfig) -> dict[str, list[Part]]:
    """Stored name → what of ours it holds; layer by layer."""
    tensors = {}
    for path, (shape, source) in _sources(config).items():
        for place in _places(shape, source):
            part = Part(path, place, shape[len(place):], source)
            tensors.setdefault(source.names(*place)[0], []).append(part)
    return dict(sorted(tensors.items(), key=lambda item: item[1][0].place[:1]))


def _files(sizes: Mapping[str, int], limit: int) -> dict[str, list[str]]:
    """File → names of its tensors, in their order."""
    groups, room = [[]], limit
    for name, size in sizes.items():
        if groups[-1] and size > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= size
    if len(groups) == 1:
        return {MODEL: groups[0]}
    return {f'model-{n:05d}-of-{len(groups):05d}.safetensors': group for n, group in enumerate(groups, 1)}


def _assemble(parts: list[Part], params: Mapping[Path, jax.Array], pairs: Mapping[Path, jax.Array],
              lora_config: lora.LoraConfig | None, dtype: np.dtype) -> np.ndarray:
    """A stored tensor, in the host's memory."""
    stored = np.empty(parts[0].stored_shape, dtype)
    for part in parts:
        leaf = params[part.path]
        if leaf.shape[len(part.place):] != part.shape:
            raise ValueError(f'{"/".join(part.path)}: shape {leaf.shape} does not end in {part.shape}')
        pair = {name: pairs[*part.path[:-1], name] for name in ('a', 'b') if (*part.path[:-1], name) in pairs}
        pair = pair if part.path[-1] == 'kernel' else {}
        spread = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
        everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec()) if spread else None
        value = np.asarray(_matrix(everywhere, dtype, lora_config if pair else None)(leaf, pair, part.place))
        stored[part.source.stored_index(part.shape)] = value.T if part.source.transposed else value
    return stored


@functools.cache
def _matrix(everywhere: NamedSharding | None, dtype: np.dtype, lora_config: lora.LoraConfig | None):
    """(leaf, its LoRA pair or {}, place in the stacked axes) → one matrix in `dtype`, merged."""

    def matrix(leaf, pair, place):
        value, pair = leaf[place], {name: factor[place] for name, factor in pair.items()}
        if pair:
            value = lora.merge({'kernel': value.astype(jnp.float32)}, pair, lora_config)['kernel']
        return value.astype(dtype)

    return jax.jit(matrix, out_shardings=everywhere)


def _hf_config(config: DecoderConfig, dtype: np.dtype, source: str | os.PathLike | None) -> dict:
    """`config.json`: that of `source`, where there is one, with what differs in `config` and `dtype`."""
    ours = config.to_hf()
    if source is not None:
        original = read_config(source)
        same = DecoderConfig.from_hf(original).to_hf()
        ours = original | {key: value for key, value in ours.items() if value != same.get(key)}
    return ours | {'torch_dtype' if 'torch_dtype' in ours else 'dtype': dtype.name}
