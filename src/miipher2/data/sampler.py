"""The order of utterances: which one an example hears, a function of the seed and the example's number alone."""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Int

from miipher2.data.lru_cache import LruCache
from miipher2.data.manifest import Manifest
from miipher2.rng import stream

# SpeechDataset after which every corpus of a mixture has had its share exactly; weights are kept to this precision.
BLOCK = 10_000


class Order:
    """Every epoch of a corpus goes through its utterances once, in an order of its own.

    In a mixture, each block of 10,000 examples takes every corpus as often as its weight says, in a drawn order; the
    corpus then goes on in its own epochs, short ones for a small corpus of great weight.
    """

    def __init__(self, manifest: Manifest, seed: int, weights: Mapping[str, float] | None = None) -> None:
        """Look up which utterances belong to which corpus.

        Args:
            weights: of each corpus, in any unit; None, or one alone, makes no mixture. A corpus without utterances here
                is passed over.

        Raises:
            ValueError: a weight is not positive, or too small to come once in a block.
        """
        self._utterances, self._seed = len(manifest), seed
        self._members: dict[str, Int[np.ndarray, "row"]] = {}
        self._counts: dict[str, int] = {}
        self._blocks: LruCache[int, np.ndarray] = LruCache(0.0, lambda block: block.nbytes)
        self._epochs: dict[str | None, LruCache[int, np.ndarray]] = {None: LruCache(0.0, lambda order: order.nbytes)}
        if weights is not None and len(weights) > 1:
            if wrong := [name for name, weight in weights.items() if not weight > 0]:
                raise ValueError(f"corpus '{wrong[0]}' has the weight {weights[wrong[0]]}; it should be above 0")
            members = {name: manifest.positions(name) for name in sorted(weights)}
            self._members = {name: rows for name, rows in members.items() if len(rows)}
            self._counts = _shares({name: weights[name] for name in self._members})
            self._epochs = {name: LruCache(0.0, lambda order: order.nbytes) for name in self._members}

    def candidates(self, number: int) -> Iterator[int]:
        """Yield the utterance of the example with this number in the whole of training, then what could replace it.

        A replacement is the next of the same corpus in the same epoch, so that it depends on no other example.
        """
        if not self._members:
            yield from self._epoch(None, number, self._utterances)
            return
        block, place = divmod(number, BLOCK)
        names = list(self._members)
        schedule = self._blocks.get(block, lambda: self._schedule(block))
        corpus = int(schedule[place])
        name = names[corpus]
        before = block * self._counts[name] + int((schedule[:place] == corpus).sum())
        rows = self._members[name]
        for index in self._epoch(name, before, len(rows)):
            yield int(rows[index])

    def _epoch(self, name: str | None, number: int, size: int) -> Iterator[int]:
        epoch, place = divmod(number, size)
        # A corpus alone draws as it would without a name.
        parts: tuple[str | int, ...] = ("epoch", epoch) if name is None else ("epoch", name, epoch)
        order = self._epochs[name].get(
            epoch, lambda: stream(self._seed, *parts).permutation(size).astype(np.int32, copy=False)
        )
        return (int(order[(place + ahead) % size]) for ahead in range(size))

    def _schedule(self, block: int) -> Int[np.ndarray, "example"]:
        """Return the number of the corpus of each example in a block."""
        corpora = np.repeat(np.arange(len(self._counts), dtype=np.int16), list(self._counts.values()))
        return stream(self._seed, "mixture", block).permutation(corpora)


def _shares(weights: Mapping[str, float]) -> dict[str, int]:
    """Return how many examples of a block each corpus has: rounded, and as many in sum as the block has.

    Raises:
        ValueError: one has none.
    """
    total = sum(weights.values())
    exact = {name: weight / total * BLOCK for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    largest = sorted(exact, key=lambda name: (counts[name] - exact[name], name))
    for name in largest[: BLOCK - sum(counts.values())]:
        counts[name] += 1
    if empty := [name for name, count in counts.items() if count == 0]:
        raise ValueError(f"corpus '{empty[0]}' has the weight {weights[empty[0]]} of {total}; less than 1 in {BLOCK}")
    return counts
