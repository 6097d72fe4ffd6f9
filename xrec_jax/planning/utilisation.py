"""How much of a chip's peak a step reaches: FLOPs of the model over time (MFU).

Counted are the matrix products that the model itself needs, 2 P a token forward and 2 P backward, where P is the
parameters that a token is multiplied by (`roofline.parameters`): frozen matrices have no gradient of their own, so a
tuned token costs 4 P, not the 6 P of pre-training. Not counted are attention scores, padding, what `remat` computes a
second time, and the questions of a reward model. Figures elsewhere count otherwise; compare formulas first.
"""

import jax

from xrec_jax.language.config import DecoderConfig
from xrec_jax.language.lora import LoraConfig
from xrec_jax.planning import chips, memory, roofline


def write_flops(config: DecoderConfig, tokens: int) -> float:
    """Of writing texts, `tokens` with their prompts: 2 P each."""
    return 2 * _met(config) * tokens


def align_flops(config: DecoderConfig, tokens: int, epochs: int) -> float:
    """Of one iteration of PPO over `tokens` (prompts and responses): 2 P to write, 4 P to score them by policy and
    reference, 4 P an epoch of the update."""
    return (6 + 4 * epochs) * _met(config) * tokens


def tune_flops(config: DecoderConfig, tokens: int) -> float:
    """Of tuning on `tokens`: 4 P each."""
    return 4 * _met(config) * tokens


def metrics(flops: float, seconds: float) -> dict[str, float]:
    """'tflops_per_device', reached, and 'mfu', its share of the chip's bf16 peak where the chip is known."""
    reached = flops / seconds / jax.device_count()
    chip = chips.of_device(jax.devices()[0].device_kind)
    return {'tflops_per_device': reached / 1e12} | ({'mfu': reached / chip.flops} if chip else {})


def _met(config: DecoderConfig) -> float:
    mesh = memory.make_mesh({})
    return roofline.parameters(memory.Model(config, mesh, LoraConfig())).met
