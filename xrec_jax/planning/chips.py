"""Accelerators by name: what one holds, how fast it reads it, multiplies and sends.

Published figures: peaks that no program quite reaches. Memory is in bytes as published, 1 GB = 10⁹
unless the source says GiB (NVIDIA's cards and TPU v5e report some 5 % more). `link` is what one chip
can send to the others of its slice or NVLink domain, in one direction, over all its links: half of
the "bidirectional" or "total" figure that vendors print. Between slices, and between nodes of GPUs, there is a far
slower network, which is not here: plan for one slice or node, or scale by `--reached_link`.

Sources, fetched from the vendors' pages:
  v4     cloud.google.com/tpu/docs/v4 (275 TFLOP/s, 32 GiB, 1,200 GB/s); six links of 45 GB/s each way:
         jax-ml.github.io/scaling-book/tpus
  v5e    cloud.google.com/tpu/docs/v5e (197 TFLOP/s, 16 GB, 819 GB/s, ICI 400 GB/s both ways)
  v5p    docs.cloud.google.com/tpu/docs/v5p-training (459 TFLOP/s, 95 GB, 2,765 GB/s, ICI 1,200 GB/s both ways)
  v6e    docs.cloud.google.com/tpu/docs/v6e (918 TFLOP/s, 32 GB, 1,600 GB/s, ICI 3,200 Gbit/s each way)
  a100   NVIDIA A100 datasheet, SXM: 312 TFLOP/s bf16 dense, 40 GB at 1,555 or 80 GB at 2,039 GB/s, NVLink 600 GB/s
  h100   NVIDIA H100 datasheet, SXM: 989 TFLOP/s bf16 dense, 80 GB, 3,350 GB/s, NVLink 900 GB/s
  h200   NVIDIA H200 datasheet, SXM: 989 TFLOP/s bf16 dense, 141 GB, 4,800 GB/s, NVLink 900 GB/s
"""

import dataclasses

from xrec_jax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator; bytes, bytes a second, bf16 FLOPs a second, bytes a second one way."""

    memory: float
    bandwidth: float
    flops: float
    link: float


CHIPS = {
    'v4': Chip(32 * 2**30, 1200e9, 275e12, 270e9),
    'v5e': Chip(16e9, 819e9, 197e12, 200e9),
    'v5p': Chip(95e9, 2765e9, 459e12, 600e9),
    'v6e': Chip(32e9, 1600e9, 918e12, 400e9),
    'a100-40gb': Chip(40e9, 1555e9, 312e12, 300e9),
    'a100-80gb': Chip(80e9, 2039e9, 312e12, 300e9),
    'h100': Chip(80e9, 3350e9, 989e12, 450e9),
    'h200': Chip(141e9, 4800e9, 989e12, 450e9),
}

# What JAX calls them (`device_kind`).
KINDS = {
    'TPU v4': 'v4', 'TPU v5 lite': 'v5e', 'TPU v5e': 'v5e', 'TPU v5': 'v5p', 'TPU v5p': 'v5p', 'TPU v6 lite': 'v6e',
    'TPU v6e': 'v6e', 'NVIDIA A100-SXM4-40GB': 'a100-40gb', 'NVIDIA A100-SXM4-80GB': 'a100-80gb',
    'NVIDIA H100 80GB HBM3': 'h100', 'NVIDIA H200': 'h200',
}


def of_device(kind: str) -> Chip | None:
    """The chip that JAX calls `kind`; None for one that is not in the table, as a CPU."""
    return CHIPS[KINDS[kind]] if kind in KINDS else None


def chip(name: str) -> Chip:
    """The chip called `name`; UserError names the nearest."""
    if name not in CHIPS:
        raise UserError(f'--chip={name}: no such chip.{nearest(name, CHIPS)}')
    return CHIPS[name]
