"""Which utterance an example takes, and which examples a step holds: functions of the seed and of numbers alone."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from miipher2.data.lru_cache import LruCache
from miipher2.data.manifest import Manifest
from miipher2.rng import stream

# Examples after which each corpus of a mixture has had exactly its share; weights are rounded to this precision.
BLOCK = 10_000


class StepSampler(Sampler[list[tuple[int, int]]]):
    """Yields, for each step, the (step, slot) of one rank's share of the batch."""

    def __init__(self, start_step: int, stop_step: int, slots: range) -> None:
        self._steps = range(start_step, stop_step)
        self._slots = slots

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return ([(step, slot) for slot in self._slots] for step in self._steps)

    def __len__(self) -> int:
        return len(self._steps)


class UtteranceSampler:
    """Goes through a corpus once per epoch, in an order of its own.

    In a mixture, each block of 10,000 examples holds every corpus as often as its weight asks, in random order, and
    each corpus goes through epochs of its own: short ones for a small corpus of large weight.

    Args:
        weights: of each corpus, in any unit; None or a single one makes no mixture. A corpus without utterances here is
            ignored.

    Raises:
        ValueError: a weight is not positive, or too small to occur once in a block.
    """

    def __init__(self, manifest: Manifest, seed: int, weights: Mapping[str, float] | None = None) -> None:
        self._size, self._seed = len(manifest), seed
        self._rows: dict[str, Int[np.ndarray, "row"]] = {}
        self._counts: dict[str, int] = {}
        self._blocks = _newest_only()
        self._epochs: dict[str | None, LruCache[int, np.ndarray]] = {None: _newest_only()}
        if weights is not None and len(weights) > 1:
            if wrong := [name for name, weight in weights.items() if not weight > 0]:
                raise ValueError(f"corpus '{wrong[0]}' has the weight {weights[wrong[0]]}; should be greater than 0")
            rows = {name: manifest.positions(name) for name in sorted(weights)}
            self._rows = {name: positions for name, positions in rows.items() if len(positions)}
            self._counts = _block_counts({name: weights[name] for name in self._rows})
            self._epochs = {name: _newest_only() for name in self._rows}

    def candidates(self, example: int) -> Iterator[int]:
        """Yield the utterance of an example, numbered from the start of training, then its replacements.

        Replacements are the following utterances of the same corpus and epoch, so that they depend on no other example.
        """
        if not self._rows:
            yield from self._epoch(None, example, self._size)
            return
        block, position = divmod(example, BLOCK)
        names = list(self._rows)
        corpora = self._blocks.get(block, lambda: self._draw_block(block))
        corpus = int(corpora[position])
        name = names[corpus]
        before = block * self._counts[name] + int((corpora[:position] == corpus).sum())
        rows = self._rows[name]
        for index in self._epoch(name, before, len(rows)):
            yield int(rows[index])

    def _epoch(self, name: str | None, number: int, size: int) -> Iterator[int]:
        epoch, position = divmod(number, size)
        # A single corpus has no name in its stream, so that naming it changes nothing.
        parts: tuple[str | int, ...] = ("epoch", epoch) if name is None else ("epoch", name, epoch)
        order = self._epochs[name].get(
            epoch, lambda: stream(self._seed, *parts).permutation(size).astype(np.int32, copy=False)
        )
        return (int(order[(position + ahead) % size]) for ahead in range(size))

    def _draw_block(self, block: int) -> Int[np.ndarray, "example"]:
        """Return the corpus number of each example in a block."""
        corpora = np.repeat(np.arange(len(self._counts), dtype=np.int16), list(self._counts.values()))
        return stream(self._seed, "mixture", block).permutation(corpora)


def _newest_only() -> LruCache[int, np.ndarray]:
    return LruCache(0.0, lambda order: order.nbytes)


def _block_counts(weights: Mapping[str, float]) -> dict[str, int]:
    """Return how many examples of a block each corpus has, rounded such that they sum to the block.

    Raises:
        ValueError: a corpus has none.
    """
    total = sum(weights.values())
    exact = {name: weight / total * BLOCK for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in by_remainder[: BLOCK - sum(counts.values())]:
        counts[name] += 1
    if empty := [name for name, count in counts.items() if count == 0]:
        raise ValueError(
            f"corpus '{empty[0]}' has the weight {weights[empty[0]]} of {total}; should be at least 1 in {BLOCK}"
        )
    return counts
