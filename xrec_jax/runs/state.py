"""What a run has learned so far: the value that phases take and return."""

import dataclasses
from typing import Any

from flax import linen as nn
import ml_collections

from xrec_jax.runs import files


@dataclasses.dataclass(frozen=True, eq=False)  # by identity, so that what is made of one can be cached
class Fitted:
    """A trained predictor; of several seeds, `params` are stacked along a leading axis."""

    model: nn.Module
    params: Any
    settings: ml_collections.ConfigDict  # of its `fit`
    seeds: int = 1


@dataclasses.dataclass(frozen=True)
class RunState:
    """Grows from phase to phase; a resumed run rebuilds it from what the phases have on disk."""

    adapters: dict[str, dict] = dataclasses.field(default_factory=dict)  # by name: 'policy' writes, 'judge' compares
    reference: dict | None = None  # adapter that `align` measures its KL from, where one was tuned; None: the base model
    value_head: dict | None = None
    predictors: dict[str, Fitted] = dataclasses.field(default_factory=dict)  # by name
    soft_prompt: dict | None = None  # 'projection' and 'consumers' (`language.soft_prompt`), as `align` left them; or None
    profiles: files.Path | None = None  # of items, that the language model wrote
    explanations: dict[str, files.Path] = dataclasses.field(default_factory=dict)  # by phase, oldest first

    @property
    def adapter(self) -> dict | None:
        """Of the policy; None: the base model."""
        return self.adapters.get('policy')

    def replace(self, **changes) -> 'RunState':
        return dataclasses.replace(self, **changes)
