"""Restorer: a wave in, a wave out, of any length and rate, from published weights or an exported bundle."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Num

from miipher2.inference.batching import Networks, restore_all
from miipher2.inference.bundle import load_bundle
from miipher2.inference.front_end import PieceFrontEnd
from miipher2.inference.hearing import Block, Source
from miipher2.inference.published import load_published
from miipher2.inference.streaming import Passage, Plan
from miipher2.inference.weights import Weights
from miipher2.inference.windows import FRAMES_PER_SECOND, Grid

PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True)
class Options:
    """What a restoration depends on beside the recording and the weights.

    Args:
        precision: "fp32" or "bf16".
        window_seconds: how much the encoder attends to at once; a shorter recording is attended to as a whole.
        overlap_seconds: how much of it two neighbours share, and fade over in its middle.

    Raises:
        ValueError: there is no such precision, or the overlap does not fit the window.
    """

    precision: str = "fp32"
    window_seconds: float = 20.0
    overlap_seconds: float = 3.0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r}; should be one of {', '.join(PRECISIONS)}")
        self.grid()

    def grid(self) -> Grid:
        """Return the windows in frames."""
        return Grid(round(self.window_seconds * FRAMES_PER_SECOND), round(self.overlap_seconds * FRAMES_PER_SECOND))

    def describe(self) -> dict[str, str | float]:
        """Return them as plain values."""
        return asdict(self)


class Restorer:
    """Restores waves of any sample rate, on one device; `sample_rate_hz` is the rate of what comes out.

    The encoder hears the recording at 16 kHz, continued at both ends by its mirror image. Statistics over time (of the
    wave, of HuBERT's GroupNorm, of w2v-BERT's bands) are those of the whole of it, from a first reading. It attends
    within windows on a fixed grid, `Options`. The vocoder's chunks bring their halo. So the result depends on neither
    `batch_size` nor `chunk_seconds`, but for the rounding of float32; with bf16 rounding is coarser.

    Args:
        weights: see `from_published` and `from_bundle`.
        device: "cpu", "cuda", "cuda:1".
        options: what the result depends on.
        batch_size: how many windows, of any recordings and channels, are made at once.
        chunk_seconds: how much the vocoder makes at once: bounds memory.
    """

    def __init__(
        self,
        weights: Weights,
        *,
        device: torch.device | str = "cpu",
        options: Options | None = None,
        batch_size: int = 1,
        chunk_seconds: float = 10.0,
    ) -> None:
        if batch_size < 1 or chunk_seconds < 1 / FRAMES_PER_SECOND:
            raise ValueError(
                f"batch_size {batch_size}, chunk_seconds {chunk_seconds}; should be 1 and a frame at least"
            )
        self.device, self.weights, self.batch_size = torch.device(device), weights, batch_size
        self.options = options or Options()
        self.encoder = weights.encoder.to(self.device).eval()
        self.normaliser = weights.normaliser.to(self.device).eval()
        self.vocoder = weights.vocoder.to(self.device).eval()
        self.sample_rate_hz = weights.sample_rate_hz
        chunk_frames = round(chunk_seconds * FRAMES_PER_SECOND)
        generator = self.vocoder.generator
        front_end = PieceFrontEnd(self.encoder, chunk_frames)
        longest_chunk = chunk_frames + 2 * generator.context_frames
        self._networks = Networks(
            self.encoder, front_end, self.vocoder, self.device, self.options.precision, longest_chunk
        )
        self._plan = Plan(
            self.options.grid(),
            self.sample_rate_hz,
            generator.hop_samples,
            generator.context_frames,
            chunk_frames,
            self._networks.follow,
        )

    @classmethod
    def from_published(
        cls,
        adapter_dir: Path | str,
        vocoder_dir: Path | str,
        *,
        root: Path | str = ".",
        device: torch.device | str = "cpu",
        options: Options | None = None,
        batch_size: int = 1,
        chunk_seconds: float = 10.0,
    ) -> "Restorer":
        """Return a restorer with the weights that two stages published; all folders are taken from `root`.

        Raises:
            FileNotFoundError, EncoderUnavailableError, ValueError: as `load_published`.
        """
        root = Path(root)
        weights = load_published(root / adapter_dir, root / vocoder_dir, root)
        return cls(weights, device=device, options=options, batch_size=batch_size, chunk_seconds=chunk_seconds)

    @classmethod
    def from_bundle(
        cls,
        folder: Path | str,
        *,
        root: Path | str = ".",
        device: torch.device | str = "cpu",
        options: Options | None = None,
        batch_size: int = 1,
        chunk_seconds: float = 10.0,
    ) -> "Restorer":
        """Return a restorer with what `miipher2 export` wrote; an encoder that it refers to is taken from `root`.

        Raises:
            FileNotFoundError, EncoderUnavailableError, ValueError: as `load_bundle`.
        """
        weights = load_bundle(Path(folder), Path(root))
        return cls(weights, device=device, options=options, batch_size=batch_size, chunk_seconds=chunk_seconds)

    def __call__(
        self, wave: Num[np.ndarray, "*channel time"], sample_rate_hz: int
    ) -> Float32[np.ndarray, "*channel restored_time"]:
        """Return the restored wave at `self.sample_rate_hz`, exactly `round(time * self.sample_rate_hz / rate)` long.

        Channels are restored each on its own; one that is digital silence stays so.

        Args:
            wave: values in [-1, 1], [time] or [channel time].
            sample_rate_hz: the wave's.

        Raises:
            ValueError: the wave is empty, is not made of floating-point values, is far outside [-1, 1], or holds a
                value that is not finite; names its position.
        """
        check_wave(wave)
        passage = self.open(_Wave(np.atleast_2d(wave), sample_rate_hz))
        blocks = [block for _, block in self.restore_all([passage]) if block is not None]
        if passage.failure is not None:
            raise passage.failure
        restored = np.concatenate([np.zeros((passage.source.channels, 0), np.float32), *blocks], axis=1)
        return restored if wave.ndim == 2 else restored[0]

    def open(self, source: Source) -> Passage:
        """Read a recording once, for its statistics; may run in a thread of its own.

        Raises:
            AudioError: it cannot be read, or holds values that are not finite.
        """
        return Passage(source, self._plan, self._networks.front_end)

    def restore_all(self, passages: Iterable[Passage]) -> Iterator[tuple[Passage, Block | None]]:
        """Yield the restored blocks of opened recordings, and None where one is done or has failed (`failure`)."""
        return restore_all(self._networks, passages, self.batch_size)

    def features(self, wave_16k: Float32[np.ndarray, "time"], adapted: bool = True) -> Float32[np.ndarray, "frame dim"]:
        """Return the features of a 16 kHz wave, in one window and without its mirror image.

        Args:
            adapted: cleaned by the adapters, or as the frozen encoder gives them.
        """
        check_wave(wave_16k)
        with torch.inference_mode():
            features = self.encoder(torch.from_numpy(wave_16k)[None].to(self.device), adapted=adapted)
        return features[0].cpu().numpy()

    def normalised_features(
        self, wave_16k: Float32[np.ndarray, "time"], adapted: bool = True
    ) -> Float32[np.ndarray, "frame dim"]:
        """Return such features in units of the deviation that each dimension has over clean speech."""
        features = torch.from_numpy(self.features(wave_16k, adapted)).to(self.device)
        with torch.inference_mode():
            return self.normaliser(features[None])[0].cpu().numpy()

    def vocode(self, features: Float32[np.ndarray, "frame dim"]) -> Float32[np.ndarray, "time"]:
        """Return the wave that the vocoder makes of features, as `features` returns them."""
        with torch.inference_mode():
            return self.vocoder(torch.from_numpy(features)[None].to(self.device))[0].float().cpu().numpy()


class _Wave:
    """A recording that is in memory."""

    def __init__(self, wave: Num[np.ndarray, "channel time"], sample_rate_hz: int) -> None:
        self.wave, self.sample_rate_hz = wave, sample_rate_hz
        self.channels, self.samples = wave.shape

    def blocks(self) -> Iterator[Block]:
        """Yield it in blocks of 5 seconds, as a file is read."""
        for start in range(0, self.samples, 5 * self.sample_rate_hz):
            yield np.ascontiguousarray(self.wave[:, start : start + 5 * self.sample_rate_hz], dtype=np.float32)


def check_wave(wave: np.ndarray) -> None:
    """Check that a wave can be restored.

    Raises:
        ValueError: it cannot; says why.
    """
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"the wave's values are {wave.dtype}; should be floating-point numbers in [-1, 1]")
    if wave.ndim not in (1, 2) or wave.size == 0:
        raise ValueError(f"the wave has the shape {wave.shape}; should be [time] or [channel time], with audio in it")
    if not (finite := np.isfinite(wave)).all():
        place = np.unravel_index(int(np.argmin(finite)), wave.shape)
        channel = f" of channel {place[0]}" if wave.ndim == 2 else ""
        raise ValueError(f"the wave holds {wave[place]} at value {place[-1]}{channel}; should be finite")
