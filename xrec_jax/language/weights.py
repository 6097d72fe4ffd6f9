"""Hugging Face directories ⇄ parameter pytrees.

`read_tensors` and `write_tensors` know safetensors files; `load_model` and `save_model` know the
names and layouts of LLaMA checkpoints: Hugging Face stores [out, in] matrices layer by layer, we
keep [in, out] matrices stacked over layers.
"""

import json
import os
import pathlib

import flax.traverse_util
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors needs)
import numpy as np
import safetensors
import safetensors.numpy

from xrec_jax.errors import UserError
from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.decoder import abstract_params

INDEX = 'model.safetensors.index.json'


def read_config(directory: str | os.PathLike) -> dict:
    """The `config.json` of a model directory."""
    path = pathlib.Path(directory) / 'config.json'
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f'{path} does not exist: a model directory holds config.json, *.safetensors and '
                        'tokenizer files.') from None
    except json.JSONDecodeError as error:
        raise UserError(f'{path}, line {error.lineno}: not valid JSON ({error.msg}).') from None


def read_tensors(directory: str | os.PathLike) -> dict[str, np.ndarray]:
    """All tensors of a directory's safetensors file, or of the files that its index names."""
    directory = pathlib.Path(directory)
    if (directory / INDEX).exists():
        try:
            weight_map = json.loads((directory / INDEX).read_text())['weight_map']
        except (json.JSONDecodeError, KeyError):
            raise UserError(f'{directory / INDEX} is damaged or has no "weight_map"; fetch it again.') from None
        files = sorted({directory / name for name in weight_map.values()})
    else:
        files = [directory / 'model.safetensors']
    tensors = {}
    for file in files:
        if not file.exists():
            raise UserError(f'{file} does not exist; weights are read from safetensors, never from pickles.')
        try:
            tensors |= safetensors.numpy.load_file(file)
        except safetensors.SafetensorError as error:
            raise UserError(f'{file} is truncated or not a safetensors file ({error}); fetch it again.') from None
    return tensors


def write_tensors(tensors: dict[str, np.ndarray], file: pathlib.Path) -> None:
    """Writes one safetensors file, whole or not at all."""
    partial = file.with_name(file.name + '.partial')
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    safetensors.numpy.save_file(tensors, partial, metadata={'format': 'pt'})
    os.replace(partial, file)


def load_model(directory: str | os.PathLike, **overrides) -> tuple[DecoderConfig, dict]:
    """Config and base weights of a Hugging Face LLaMA directory.

    Args:
      directory: holds `config.json` and safetensors.
      **overrides: fields of `DecoderConfig`; `dtype` is also the dtype that the weights get.

    Raises:
      UserError: an unsupported architecture, a missing tensor, or one of a wrong shape, by name.
    """
    config = DecoderConfig.from_hf(read_config(directory), **overrides)
    tensors = read_tensors(directory)

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name not in tensors:
            raise UserError(f'{directory}: tensor {name} is missing.')
        flip = len(shape) == 2 and not name.endswith('embed_tokens.weight')
        stored = shape[::-1] if flip else shape
        if tensors[name].shape != stored:
            raise UserError(f'{directory}: tensor {name} has shape {tensors[name].shape}; config.json asks for '
                            f'{stored}.')
        return tensors[name].T if flip else tensors[name]

    params = {}
    for path, shape in _shapes(config).items():
        if path[0] == 'layers':
            value = np.stack([tensor(_hf_name(path, layer), shape[1:]) for layer in range(config.num_layers)])
        else:
            value = tensor(_hf_name(path), shape)
        params[path] = jnp.asarray(value, config.dtype)
    return config, flax.traverse_util.unflatten_dict(params)


def save_model(directory: str | os.PathLike, config: DecoderConfig, params: dict, dtype=np.float32) -> None:
    """Writes `config.json` and `model.safetensors` as Hugging Face does (tokenizer files apart)."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for path, value in flax.traverse_util.flatten_dict(params).items():
        value = np.asarray(value).astype(dtype)
        if path[0] == 'layers':
            for layer in range(config.num_layers):
                tensors[_hf_name(path, layer)] = value[layer].T
        else:
            tensors[_hf_name(path)] = value if path[-1] == 'embed_tokens' else value.T
    write_tensors(tensors, directory / 'model.safetensors')
    hf = config.to_hf() | {'dtype': np.dtype(dtype).name}
    (directory / 'config.json').write_text(json.dumps(hf, indent=2) + '\n')


def _shapes(config: DecoderConfig) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path → shape of every base weight."""
    boxed = flax.traverse_util.flatten_dict(abstract_params(config))
    return {path: box.unbox().shape for path, box in boxed.items()}


def _hf_name(path: tuple[str, ...], layer: int | None = None) -> str:
    """('layers', 'mlp', 'up_proj', 'kernel'), 3 → 'model.layers.3.mlp.up_proj.weight'."""
    if path == ('lm_head',):
        return 'lm_head.weight'
    if path == ('embed_tokens',):
        return 'model.embed_tokens.weight'
    leaf = 'bias' if path[-1] == 'bias' else 'weight'
    middle = list(path[:-1])
    if layer is not None:
        middle.insert(1, str(layer))
    return '.'.join(['model', *middle, leaf])
