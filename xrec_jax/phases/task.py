"""What a run works on: data, language model, encoder and mesh, made once from the config.

`Task` does not change while the phases run; what they learn is in `state.RunState`. Bad settings are
refused here, before any long work starts.
"""

import dataclasses
import functools
import importlib.resources
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from xrec_jax.data import catalog, filters, protocols, tables
from xrec_jax.errors import UserError
from xrec_jax.language import chat, decoder, flash, lora, prompts, quantize, tokenizers, weights
from xrec_jax.language.encoders import Encoder, load_encoder
from xrec_jax.parallel import distributed, mesh as meshes
from xrec_jax.recommenders import fields as predictor_fields
from xrec_jax.runs import files
from xrec_jax.runs.metrics_writer import MetricsWriter

ATTRIBUTES = ('judged', 'named', 'none')  # how prompts show them: `prompts.item_text`
DATASET_KEYS = ('name', 'data_dir', 'options', 'filters', 'on_bad_row', 'protocol')  # of config.data
KINDS = ('positive', 'negative')  # of RecPIE's explanations, keys of config.prompt
REMAT = {'none': False, 'projections': 'projections', 'all': True}  # `DecoderConfig.remat`; also False and True
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


@dataclasses.dataclass(frozen=True)
class Language:
    """A frozen base model with its tokenizer, and the shape of the adapters that go on it."""

    model: decoder.Decoder
    params: dict
    tokenizer: tokenizers.Tokenizer
    lora: lora.LoraConfig
    yes: tuple[int, ...]  # first tokens that spell "Yes", ExpCTR eq. 8
    no: tuple[int, ...]
    stop_ids: tuple[int, ...]  # tokens that end a response

    def variables(self, adapter: dict | None) -> dict:
        """For `model.apply`: the base model, or it with an adapter."""
        return {'params': self.params} | ({} if adapter is None else {'lora': adapter})


@dataclasses.dataclass(frozen=True, eq=False)  # by identity, so that methods can be cached
class Task:
    config: ml_collections.ConfigDict
    workdir: files.Path
    mesh: jax.sharding.Mesh
    metrics: MetricsWriter
    dataset: tables.Dataset | None  # None: a config without `data`, for runs that only tune
    examples: dict[str, protocols.Examples]  # by split
    language: Language | None  # None: a config without `language`, for runs of predictors alone

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def explains_examples(self) -> bool:
        """Whether one reason an example is asked for (ExpCTR), by `config.prompt.explain`."""
        return self.kinds == ('reason',)

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is written for each example: one reason (ExpCTR), or one for and one against (RecPIE); () for none."""
        if 'language' not in self.config:
            return ()
        prompt = self.config.get('prompt', ())
        return ('reason',) if 'explain' in prompt else KINDS if all(kind in prompt for kind in KINDS) else ()

    @property
    def soft_tokens(self) -> int:
        """Virtual tokens before each prompt, 0 in a run without soft prompts."""
        return self.config.soft_prompt.tokens if 'soft_prompt' in self.config else 0

    @functools.cached_property
    def encoder(self) -> Encoder:
        return load_encoder(self.config.encoder.model)

    @functools.cached_property
    def fields(self) -> predictor_fields.Fields:
        return predictor_fields.build_fields(self.dataset, tuple(self.config.fit.fields))

    @functools.cached_property
    def titles(self) -> list[str]:
        """By row of the items table; 'product B000123' where the source has no title."""
        items = self.dataset.items
        return [f'{self.dataset.domain.item} {item_id}' if title is None else title
                for title, item_id in zip(items['title'].to_pylist(), items['item_id'].to_pylist())]

    @functools.cached_property
    def item_texts(self) -> list[str]:
        """Title, with attributes unless `prompt.attributes` is 'none', by row of the items table."""
        return self._item_texts('')

    def _item_texts(self, opinion: str) -> list[str]:
        attributes = self.dataset.items['attributes'].to_pylist()
        if self.config.get('prompt', {}).get('attributes', 'named') == 'none':
            attributes = [()] * len(attributes)
        return [prompts.item_text(title, row, opinion) for title, row in zip(self.titles, attributes)]

    @functools.cache
    def explain_prompts(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The encoded prompts for a reason (ExpCTR section 4.1), padded on the left.

        Returns tokens int32 [N, P], mask bool [N, P]; P is the same for all splits.
        """
        return tokenizers.pad(self._fitted[split].ids, self.prompt_width, 'left')

    @functools.cached_property
    def _fitted(self) -> dict[str, chat.Fitted]:
        """The prompts of each split, with as much of their histories as the context holds beside a response."""
        return {split: self.fitted_prompts(examples) for split, examples in self.examples.items()}

    def fitted_prompts(self, examples: protocols.Examples) -> chat.Fitted:
        """The prompts for a reason of any examples, with as much of their histories as the context holds."""
        write = lambda rows, kept: chat.encode(self.language.tokenizer, self._prompts(examples, rows, kept))
        return chat.fit(write, (examples.history >= 0).sum(axis=1), self.prompt_limit)

    @property
    def prompt_limit(self) -> int:
        """Tokens that a prompt for a reason may have."""
        return self.language.model.config.max_position_embeddings - self.config.generate.max_length

    @functools.cached_property
    def shortened(self) -> dict[str, dict[str, int]]:
        """By split: how many prompts were too long for the context, and how many items their histories lost; {} in
        runs that write no explanations of examples."""
        if not self.explains_examples:
            return {}
        return {split: {'prompts': int((fitted.dropped > 0).sum()), 'items': int(fitted.dropped.sum())}
                for split, fitted in self._fitted.items()}

    @functools.cached_property
    def prompt_width(self) -> int:
        """Tokens of the longest prompt, rounded up to 32 where the context allows it."""
        longest = max(len(row) for fitted in self._fitted.values() for row in fitted.ids)
        return min(-(-longest // 32) * 32, self.prompt_limit)

    def prompt_texts(self, split: str) -> list[str]:
        """The prompts for a reason, one an example, as plain texts."""
        kept = self._fitted[split].kept
        return [prompt.text for prompt in self._prompts(self.examples[split], np.arange(len(kept)), kept)]

    @functools.cached_property
    def _past_texts(self) -> dict[bool, list[str]]:
        """By liked or not, and by row of the items table: an item as a history shows it."""
        judged = self.config.prompt.attributes == 'judged'
        return {good: self._item_texts(opinion if judged else '') for good, opinion in prompts.OPINIONS.items()}

    def _prompts(self, examples: protocols.Examples, rows: np.ndarray, kept: np.ndarray) -> list[prompts.Prompt]:
        """The prompts for a reason of some examples, each with its newest `kept` history items."""
        past, written = self._past_texts, []
        for item, history, liked, count in zip(
                examples.item[rows], examples.history[rows], examples.history_liked[rows], kept):
            seen = (history >= 0) & (np.arange(len(history)) >= len(history) - count)  # right-aligned
            written.append(prompts.render_roles(
                self.config.prompt.explain, domain=self.dataset.domain,
                liked=[past[True][row] for row in history[seen & liked]],
                disliked=[past[False][row] for row in history[seen & ~liked]],
                target=self.item_texts[item]))
        return written


def make_task(config: ml_collections.ConfigDict, workdir: files.Path) -> Task:
    """Reads, checks and places everything that the phases share."""
    if 'prompt' in config and config.prompt.get('attributes', 'none') not in ATTRIBUTES:
        raise UserError(f'prompt.attributes={config.prompt.attributes!r}: should be one of {", ".join(ATTRIBUTES)}.')
    if 'soft_prompt' in config and config.soft_prompt.tokens < 0:
        raise UserError(f'soft_prompt.tokens={config.soft_prompt.tokens}: should be at least 0.')
    mesh = meshes.make_mesh(config.mesh.to_dict())
    # Process 0 first: where nobody has fetched the files yet, the others find them.
    dataset = distributed.main_first(lambda: load_dataset(config.data)) if 'data' in config else None
    return Task(
        config=config, workdir=workdir, mesh=mesh, metrics=MetricsWriter(workdir), dataset=dataset,
        examples=make_examples(dataset, config) if dataset else {},
        language=load_language(config.language, mesh) if 'language' in config else None)


def load_dataset(data: ml_collections.ConfigDict) -> tables.Dataset:
    """The dataset `data.name`, read from `data.data_dir` or drawn, as `data.options` and `data.filters` say."""
    return catalog.load(data.name, data.data_dir or None, filters=filters.Filters(**data.filters.to_dict()),
                        on_bad_row=data.on_bad_row, **data.options.to_dict())


def make_examples(dataset: tables.Dataset, config: ml_collections.ConfigDict) -> dict[str, protocols.Examples]:
    """The examples of `data.protocol` by split, drawn by the run's seed."""
    return protocols.make(config.data.protocol, dataset, seed=config.seed, **protocol_options(config.data))


def protocol_options(data: ml_collections.ConfigDict) -> dict[str, Any]:
    """The options of `data.protocol`: what `data` holds beside `DATASET_KEYS`, over the protocol's defaults."""
    given = {key: value for key, value in data.to_dict().items() if key not in DATASET_KEYS}
    return protocols.options(data.protocol) | given


def model_directory(settings: ml_collections.ConfigDict) -> Any:
    """Where the model `settings.model` lies: the embedded one, or a Hugging Face directory."""
    return importlib.resources.files('xrec_jax.language') / 'tiny' if settings.model == 'tiny' else settings.model


def load_language(settings: ml_collections.ConfigDict, mesh: jax.sharding.Mesh) -> Language:
    """The model `settings.model` ('tiny', or a Hugging Face directory), put on the mesh."""
    remat = REMAT.get(settings.remat, settings.remat)
    if remat not in REMAT.values():
        raise UserError(f'language.remat={settings.remat!r}: should be one of none, projections, all.')
    if settings.dtype not in DTYPES:
        raise UserError(f'language.dtype="{settings.dtype}": should be one of {", ".join(DTYPES)}.')
    directory = model_directory(settings)
    config, params = weights.load_model(directory, mesh, dtype=DTYPES[settings.dtype], remat=remat,
                                        attention=settings.get('attention', 'auto'))
    flash.check(config)
    adapter = lora.LoraConfig(settings.lora_rank, settings.lora_alpha, tuple(settings.lora_targets),
                              settings.get('lora_dropout', 0.0), settings.get('lora_rslora', False))
    if (kind := settings.get('quantize', 'none')) != 'none':
        params = quantize.quantize(params, kind, lora.TARGETS, settings.get('quantize_head', False))
    tokenizer = tokenizers.load_tokenizer(directory)
    return Language(
        model=decoder.Decoder(config, adapter.scale, adapter.dropout),
        params=params,
        tokenizer=tokenizer, lora=adapter,
        yes=tuple(tokenizers.first_tokens(tokenizer, 'Yes')),
        no=tuple(tokenizers.first_tokens(tokenizer, 'No')),
        stop_ids=tokenizers.stop_ids(tokenizer, directory))
