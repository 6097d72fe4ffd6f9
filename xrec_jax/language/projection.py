"""A matrix of the decoder, with an optional LoRA pair beside it."""

from typing import Any

import flax.linen as nn


class Projection(nn.Module):
    """y = x W (+ b) (+ x A B · scale where the `lora` collection holds A and B for this matrix)."""

    features: int
    axes: tuple[str, str]  # logical names of (input, output)
    dtype: Any
    use_bias: bool = False
    lora_scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), self.axes)
        kernel = self.param('kernel', init, (x.shape[-1], self.features))
        y = x @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param('bias', nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:]),
                              (self.features,))
            y = y + bias.astype(self.dtype)
        if self.has_variable('lora', 'a'):
            a, b = self.get_variable('lora', 'a'), self.get_variable('lora', 'b')
            y = y + (x @ a.astype(self.dtype)) @ b.astype(self.dtype) * self.lora_scale
        return y
