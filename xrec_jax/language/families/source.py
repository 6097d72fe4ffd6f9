"""Where the values of one parameter lie in a checkpoint."""

import dataclasses

Index = tuple[slice, ...]


@dataclasses.dataclass(frozen=True)
class Source:
    """The place of one matrix or vector; the same for every layer and expert but for the name.

    Our parameter is stacked, [layers, in, out] or [layers, experts, in, out]; each of its matrices
    is a stored tensor, or a range of one where a checkpoint fuses several (q, k and v; gate and up).
    Shapes and indices below are those of one such matrix or vector, without the stacked axes.
    """

    name: str  # of the stored tensor: a format string with {layer} and {expert} where they are stacked
    transposed: bool = False  # stored [out, in]
    axis: int = 0  # of the stored tensor, along which the range below lies
    start: int = 0  # first row (or column) of the stored tensor that is ours
    whole: int | None = None  # length of the stored tensor along `axis`; None: all of it is ours
    also: tuple[str, ...] = ()  # other names under which checkpoints keep it; `name` is the one written

    @property
    def stacked(self) -> bool:
        """Whether there is one for each layer."""
        return '{layer}' in self.name

    @property
    def per_expert(self) -> bool:
        return '{expert}' in self.name

    def names(self, layer: int | None = None, expert: int | None = None) -> tuple[str, ...]:
        """Names to look for, in this order."""
        return tuple(name.format(layer=layer, expert=expert) for name in (self.name, *self.also))

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the stored tensor, for our `shape`."""
        stored = list(shape[::-1] if self.transposed else shape)
        if self.whole is not None:
            stored[self.axis] = self.whole
        return tuple(stored)

    def stored_index(self, shape: tuple[int, ...], index: Index | None = None) -> Index:
        """Which part of the stored tensor holds `index` of ours (all of it by default); steps of 1.

        `stored[source.stored_index(shape, index)]`, turned over where `transposed`, is `ours[index]`;
        `stored[source.stored_index(shape)] = ours.T` writes it back.
        """
        index = index or (slice(None),) * len(shape)
        ranges = [part.indices(size)[:2] for part, size in zip(index, shape, strict=True)]
        if self.transposed:
            ranges.reverse()
        if self.whole is not None:
            ranges[self.axis] = tuple(bound + self.start for bound in ranges[self.axis])
        return tuple(slice(*bounds) for bounds in ranges)
