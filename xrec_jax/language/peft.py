"""Adapters as PEFT keeps them: `adapter_model.safetensors` and `adapter_config.json`.

  `load_adapter`   a directory of PEFT's → `LoraConfig` and our adapter
  `save_adapter`   and back, so that `peft.PeftModel.from_pretrained` reads it

PEFT has a pair for each module and layer, lora_A [r, in] and lora_B [out, r]; ours are stacked over
layers and turned, A [layers, in, r] and B [layers, r, out]. What an adapter changes is said by its
tensors; `target_modules` may be a list, a pattern or 'all-linear'.

Fused matrices. GPT-2 and ChatGLM keep q, k and v in one matrix (ChatGLM gate and up, too), for which PEFT
has one pair where we have one for each of the n parts. Both ways are exact:
  - reading: all parts get the same A, and each its own columns of B;
  - writing: where all parts still share A, the same backwards. Else [A_1 … A_n] of rank n·r, with the B's as
    blocks on a diagonal; a part without a pair has zeros. `rank_pattern` and `alpha_pattern` tell PEFT the rank,
    and the alpha that keeps the scale. Such a file is read back as the pairs that it was written from.
"""

import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from xrec_jax.errors import UserError
from xrec_jax.language import lora
from xrec_jax.language.checkpoint_files import open_file, read_json, replaced, write_json, write_stream
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.weights import Part, stored_tensors

SETTINGS, FILE, PICKLE = 'adapter_config.json', 'adapter_model.safetensors', 'adapter_model.bin'
KEY = re.compile(r'base_model\.model\.(?P<module>.+)\.lora_(?P<factor>[AB])\.weight')

# What PEFT writes and what changes nothing in a forward pass. A key that is not here has to be off.
HARMLESS = {
    'alpha_pattern', 'auto_mapping', 'base_model_name_or_path', 'bias', 'ensure_weight_tying', 'eva_config',
    'exclude_modules', 'fan_in_fan_out', 'inference_mode', 'init_lora_weights', 'lora_alpha', 'lora_dropout',
    'megatron_core', 'peft_type', 'peft_version', 'qalora_group_size', 'r', 'rank_pattern', 'revision',
    'target_modules', 'task_type', 'use_rslora'}
# Other ways of starting (PiSSA, OLoRA, CorDA, LoftQ, …) also change the base weights.
STARTS = (True, False, None, 'gaussian', 'orthogonal', 'eva')

Pairs = dict[tuple[str, ...], dict[int, tuple[np.ndarray, np.ndarray]]]  # path of a module → layer → A.T, B.T


def load_adapter(directory: str | os.PathLike, config: DecoderConfig) -> tuple[lora.LoraConfig, dict]:
    """The adapter of a PEFT directory, for a base model of shape `config`: float32, on the default device.

    Raises:
      UserError: a kind of adapter or an option that is not supported (DoRA, ranks or alphas by module,
        modules_to_save, …), or a tensor that is missing, unknown, or of a wrong shape; by name.
    """
    directory = pathlib.Path(directory)
    settings = _read_settings(directory / SETTINGS)
    if (directory / PICKLE).exists() and not (directory / FILE).exists():
        raise UserError(f'{directory} holds its adapter as a pickle ({PICKLE}), which runs code when it is read; '
                        f'adapters are read from {FILE}, never from pickles. Convert it where you trust it, in an '
                        'environment with peft: python -c "from peft import AutoPeftModelForCausalLM as M; '
                        "M.from_pretrained('OLD').save_pretrained('NEW')\"")
    stored, modules = open_file(directory / FILE), _modules(config)
    aliases = {alias: module for module, parts in modules.items() for part in parts
               for alias in _names(part)}
    found = {}
    for key, tensor in stored.items():
        match = KEY.fullmatch(key)
        module = match and aliases.get(match['module'])
        if not module:
            raise UserError(f'{tensor.file}: tensor {key} belongs to no matrix of this model that an adapter can be '
                            f'on ({", ".join(lora.TARGETS)}).')
        found.setdefault(module, {})[match['factor']] = tensor
    pairs: Pairs = {}
    for module, tensors in found.items():
        parts = modules[module]
        rank = _rank(directory / SETTINGS, settings, module, len(parts))
        factors = {}
        for factor, shape in ('A', (rank, parts[0].shape[0])), ('B', (_width(parts), rank)):
            if factor not in tensors:
                raise UserError(f'{directory / FILE}: tensor {_key(module, factor)} is missing.')
            if tensors[factor].shape != shape:
                raise UserError(f'{directory / FILE}: tensor {tensors[factor].name} has shape {tensors[factor].shape}; '
                                f'the model and {SETTINGS} ask for {shape}.')
            factors[factor] = tensors[factor].read().astype(np.float32)
        _split(factors['A'], factors['B'], parts, settings['r'], pairs, directory / FILE)
    return _stack(pairs, settings, config, directory / FILE)


def _read_settings(path: pathlib.Path) -> dict[str, Any]:
    """`adapter_config.json`, checked."""
    if not path.exists():
        raise UserError(f'{path} does not exist: an adapter directory holds {SETTINGS} and {FILE}.')
    settings = read_json(path)

    def refuse(key: str, why: str):
        raise UserError(f'{path}: {key}={json.dumps(settings[key])} is not supported, {why}.')

    if settings.get('peft_type') != 'LORA':
        raise UserError(f'{path}: peft_type={json.dumps(settings.get("peft_type"))} is not supported, only "LORA".')
    for key, value in settings.items():
        if key not in HARMLESS and value not in (None, False, {}, []):
            refuse(key, 'only adapters without it')
    if settings.get('bias', 'none') != 'none':
        refuse('bias', 'only "none"')
    if settings.get('init_lora_weights', True) not in STARTS:
        refuse('init_lora_weights', 'as it also changes the base weights: save the adapter converted to plain LoRA '
               '(path_initial_model_for_weight_conversion)')
    rank, alpha = settings.setdefault('r', 8), settings.setdefault('lora_alpha', 8)  # PEFT's defaults
    if not isinstance(rank, int) or rank < 1:
        refuse('r', 'it should be a whole number above 0')
    if not isinstance(alpha, int | float):
        refuse('lora_alpha', 'it should be a number')
    return settings


def _modules(config: DecoderConfig) -> dict[str, list[Part]]:
    """Names of the modules of the reference model that an adapter can be on → what of ours they hold."""
    return {_module(name): parts for name, parts in stored_tensors(config).items()
            if parts[0].path[-1] == 'kernel' and parts[0].path[-2] in lora.TARGETS}


def _module(tensor: str) -> str:
    return tensor.removesuffix('.weight')


def _names(part: Part) -> tuple[str, ...]:
    return tuple(map(_module, part.source.names(*part.place)))


def _key(module: str, factor: str) -> str:
    return f'base_model.model.{module}.lora_{factor}.weight'


def _width(parts: list[Part]) -> int:
    """Outputs of a module."""
    return sum(part.shape[1] for part in parts)


def _outputs(part: Part) -> slice:
    """Those of its module that are the part's."""
    return slice(part.source.start, part.source.start + part.shape[1])


def _fused_alpha(alpha: float, count: int, rslora: bool) -> float:
    """Alpha of `count` pairs written as one of rank `count`·r: the scale, alpha / r or alpha / √r, stays."""
    return alpha * (math.sqrt(count) if rslora else count)


def _rank(path: pathlib.Path, settings: Mapping[str, Any], module: str, count: int) -> int:
    """Rank of a module's pair in the file. UserError for patterns other than those that `save_adapter` writes."""

    def given(pattern: str):
        by_module = settings.get(pattern) or {}
        for key, value in by_module.items():
            if re.fullmatch(rf'(.*\.)?({key})', module):  # PEFT's rule
                return value
        return None

    rank, alpha = given('rank_pattern'), given('alpha_pattern')
    if rank is None and alpha is None:
        return settings['r']
    wanted = _fused_alpha(settings['lora_alpha'], count, settings.get('use_rslora', False))
    if count == 1 or rank != count * settings['r'] or alpha is None or not math.isclose(alpha, wanted):
        pattern, value = ('alpha_pattern', alpha) if rank is None else ('rank_pattern', rank)
        raise UserError(f'{path}: {pattern} gives {module} its own value, {value}; only adapters with one rank and one '
                        'alpha are supported.')
    return rank


def _split(a: np.ndarray, b: np.ndarray, parts: list[Part], rank: int, pairs: Pairs, file: pathlib.Path) -> None:
    """Adds a module's pair, A [r, in] and B [out, r], to those of its parts."""
    blocks = a.shape[0] != rank
    if blocks:
        outside = b.copy()
        for n, part in enumerate(parts):
            outside[_outputs(part), n * rank:(n + 1) * rank] = 0
        if outside.any():
            raise UserError(f'{file}: the pair of {_names(parts[0])[0]} has rank {a.shape[0]} and is not made of '
                            f'{len(parts)} pairs of rank {rank}; only adapters with one rank are supported.')
    for n, part in enumerate(parts):
        inner = slice(n * rank, (n + 1) * rank) if blocks else slice(None)
        pairs.setdefault(part.path[:-1], {})[part.place[0]] = a[inner].T, b[_outputs(part), inner].T


def _stack(pairs: Pairs, settings: Mapping[str, Any], config: DecoderConfig,
           file: pathlib.Path) -> tuple[lora.LoraConfig, dict]:
    """All pairs, stacked over layers."""
    parts = {part.path[:-1]: part for module in _modules(config).values() for part in module}
    adapter = {}
    for path, by_layer in pairs.items():
        if lost := sorted(set(range(config.num_layers)) - by_layer.keys()):
            module = _module(parts[path].source.names(lost[0])[0])
            raise UserError(f'{file}: tensor {_key(module, "A")} is missing; an adapter is on all layers or on none.')
        if all(not a.any() and not b.any() for a, b in by_layer.values()):
            continue  # a part of a fused matrix that had no pair when it was written
        for n, name in enumerate('ab'):
            adapter[*path, name] = jnp.asarray(np.stack([by_layer[layer][n] for layer in range(config.num_layers)]))
    if not adapter:
        raise UserError(f'{file}: there is no adapter in it, only zeros or nothing.')
    targets = {path[-2] for path in adapter}
    lora_config = lora.LoraConfig(
        rank=settings['r'], alpha=float(settings['lora_alpha']),
        targets=tuple(target for target in lora.TARGETS if target in targets),
        dropout=float(settings.get('lora_dropout') or 0.0), rslora=bool(settings.get('use_rslora', False)))
    return lora_config, flax.traverse_util.unflatten_dict(adapter)


def save_adapter(directory: str | os.PathLike, config: DecoderConfig, adapter: dict, lora_config: lora.LoraConfig,
                 base: str | None = None) -> None:
    """Writes an adapter as PEFT does, whole or not at all; every process of the mesh has to call this.

    Args:
      config: shape of the base model, whose family says what the matrices are called.
      base: directory or name of the base model, for `base_model_name_or_path`.
    """
    flat = {path: _on_host(leaf) for path, leaf in flax.traverse_util.flatten_dict(adapter).items()}
    if jax.process_index() > 0:
        return
    modules, factors, patterns, targets = _modules(config), {}, {}, []
    for module, parts in modules.items():
        held = [part for part in parts if (*part.path[:-1], 'a') in flat]
        if not held:
            continue
        targets.append(module)
        a, b, blocks = _join(parts, flat, lora_config.rank)
        factors |= {_key(module, 'A'): a, _key(module, 'B'): b}
        if blocks:
            patterns[module] = len(parts)
    written = {part.path[:-1] for module in targets for part in modules[module]}
    if lost := {path[:-1] for path in flat} - written:
        raise ValueError(f'a "{config.family}" model has no matrices for {lost}')
    # PEFT matches the last parts of names: q_proj, or attn.c_proj where mlp.c_proj is another.
    others = {_module(name) for name in stored_tensors(config)} - set(targets)
    suffixes = {module: _suffix(module, others) for module in targets}
    counts = {suffixes[module]: count for module, count in patterns.items()}
    fused = {key: _fused_alpha(lora_config.alpha, count, lora_config.rslora) for key, count in counts.items()}
    settings = {
        'alpha_pattern': {key: _whole(alpha) for key, alpha in fused.items()},
        'base_model_name_or_path': base,
        'bias': 'none',
        'fan_in_fan_out': not any(part.source.transposed for module in targets for part in modules[module]),
        'inference_mode': True,
        'init_lora_weights': True,
        'lora_alpha': _whole(lora_config.alpha),
        'lora_dropout': lora_config.dropout,
        'modules_to_save': None,
        'peft_type': 'LORA',
        'r': lora_config.rank,
        'rank_pattern': {key: count * lora_config.rank for key, count in counts.items()},
        'target_modules': sorted(set(suffixes.values())),
        'task_type': 'CAUSAL_LM',
        'use_dora': False,
        'use_rslora': lora_config.rslora,
    }
    factors = dict(sorted(factors.items()))
    with replaced(pathlib.Path(directory), SETTINGS, (FILE, PICKLE)) as folder:
        write_stream(folder / FILE, {key: (value.dtype, value.shape) for key, value in factors.items()},
                     factors.values())
        write_json(folder / SETTINGS, settings)


def _on_host(leaf: jax.Array) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        leaf = multihost_utils.process_allgather(leaf, tiled=True)
    return np.asarray(leaf, np.float32)


def _whole(number: float) -> float | int:
    """PEFT has whole alphas."""
    return int(number) if number == int(number) else number


def _join(parts: list[Part], flat: Mapping[tuple[str, ...], np.ndarray],
          rank: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """One pair of a module, A [r, in] and B [out, r], and whether it is n pairs in blocks: see above."""
    factors = [[flat.get((*part.path[:-1], name)) for part in parts] for name in 'ab']
    shared = all(a is not None and np.array_equal(a, factors[0][0]) for a in factors[0])  # in all layers
    layer, fan_in, width = parts[0].place[0], parts[0].shape[0], _width(parts)
    a = np.zeros((rank if shared else len(parts) * rank, fan_in), np.float32)
    b = np.zeros((width, a.shape[0]), np.float32)
    for n, (part, ours_a, ours_b) in enumerate(zip(parts, *factors)):
        inner = slice(None) if shared else slice(n * rank, (n + 1) * rank)
        if ours_a is not None:
            a[inner], b[_outputs(part), inner] = ours_a[layer].T, ours_b[layer].T
    return a, b, not shared


def _suffix(module: str, others: set[str]) -> str:
    """The shortest end of the name that none of the `others` has."""
    pieces = module.split('.')
    for count in range(1, len(pieces)):
        suffix = '.'.join(pieces[-count:])
        if not any(other.endswith(f'.{suffix}') for other in others):
            return suffix
    return module
