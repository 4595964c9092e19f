"""Restorer: a wave in, a wave out, of any length and rate, from published weights or an exported bundle."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Num

from miipher2.inference.batching import Networks, restore_streams
from miipher2.inference.bundle import load_bundle
from miipher2.inference.options import RestoreOptions
from miipher2.inference.streaming import AudioSource, Block, RecordingStream, StreamLayout, WindowGrid
from miipher2.inference.weights import Weights, load_published
from miipher2.models.device import choose_device
from miipher2.models.precision import choose_precision, set_tf32
from miipher2.models.pretrained import find_weights


class Restorer:
    """Restores waves of any sample rate on one device; the output has `sample_rate_hz`.

    The encoder's input is the recording at 16 kHz, continued at both ends by its mirror image. Statistics over time (of
    the wave, of HuBERT's GroupNorm, of w2v-BERT's bands) are those of the whole recording, from a first reading.
    Attention is within windows on a fixed grid, and vocoder chunks have the context that their samples depend on. So
    the result does not depend on `batch_size` or `chunk_seconds`, but for the rounding of float32; bf16 rounds more
    coarsely.

    Args:
        weights: see `from_published` and `from_bundle`.
        options: see `RestoreOptions`.
    """

    def __init__(self, weights: Weights, options: RestoreOptions | None = None) -> None:
        self.weights, self.options = weights, options or RestoreOptions()
        self.device = choose_device(self.options.device)
        is_auto_on_cpu = (self.options.precision, self.device.type) == ("auto", "cpu")  # every CPU restores alike
        precision = "fp32" if is_auto_on_cpu else choose_precision(self.options.precision, self.device)
        self.options = replace(self.options, precision=precision)  # what runs, as the journal records it
        self.encoder = weights.encoder.to(self.device).eval()
        self.normaliser = weights.normaliser.to(self.device).eval()
        self.vocoder = weights.vocoder.to(self.device).eval()
        self.sample_rate_hz = weights.sample_rate_hz
        self.networks = Networks(
            self.encoder,
            self.vocoder,
            self.device,
            self.options.precision,
            self.options.strength,
            self.options.chunk_frames,
        )
        generator = self.vocoder.generator
        self._layout = StreamLayout(
            WindowGrid(self.options.window_frames, self.options.overlap_frames),
            self.options.chunk_frames,
            generator.context_frames,
            generator.sample_rate_hz,
            generator.hop_samples,
        )
        self._front_end_on_cpu = copy.deepcopy(self.encoder.front_end).cpu()

    @classmethod
    def from_published(
        cls,
        adapter_dir: Path | str,
        vocoder_dir: Path | str,
        options: RestoreOptions | None = None,
        *,
        root: Path | str = ".",
        **overrides: Any,
    ) -> "Restorer":
        """Return a restorer with the weights that two stages published.

        Args:
            adapter_dir, vocoder_dir: folders, or `owner/name[@revision]` on the Hugging Face hub.
            root: where relative folders, the encoder's too, start.
            overrides: fields of `options`, such as `device="cuda"`.

        Raises:
            FileNotFoundError, EncoderUnavailableError, ValueError: see `load_published`.
        """
        root = Path(root)
        options = replace(options or RestoreOptions(), **overrides)
        adapter, vocoder = (find_weights(str(name), root) for name in (adapter_dir, vocoder_dir))
        return cls(load_published(adapter, vocoder, root), options)

    @classmethod
    def from_bundle(
        cls, folder: Path | str, options: RestoreOptions | None = None, *, root: Path | str = ".", **overrides: Any
    ) -> "Restorer":
        """Return a restorer with the weights of a bundle, which `miipher2 export` writes.

        Args:
            folder: or `owner/name[@revision]` on the Hugging Face hub.
            root: where the relative folder of an encoder that the bundle refers to starts.
            overrides: fields of `options`, such as `device="cuda"`.

        Raises:
            FileNotFoundError, EncoderUnavailableError, ValueError: see `load_bundle`.
        """
        bundle = find_weights(str(folder), Path())
        return cls(load_bundle(bundle, Path(root)), replace(options or RestoreOptions(), **overrides))

    def __call__(
        self, wave: Num[np.ndarray, "*channel time"], sample_rate_hz: int
    ) -> Float32[np.ndarray, "*channel restored_time"]:
        """Return the restored wave at `self.sample_rate_hz`, exactly `round(time * self.sample_rate_hz / rate)` long.

        Each channel is restored on its own; digital silence stays silent.

        Args:
            wave: values in [-1, 1], [time] or [channel time].
            sample_rate_hz: of the wave.

        Raises:
            ValueError: the wave is empty, is not of floating-point values, is far outside [-1, 1], or holds a value
                that is not finite; names its position.
        """
        check_wave(wave)
        stream = self.open(_WaveSource(np.atleast_2d(wave), sample_rate_hz))
        blocks = [block for _, block in self.restore_streams([stream]) if block is not None]
        if stream.failure is not None:
            raise stream.failure
        restored = np.concatenate([np.zeros((stream.source.channels, 0), np.float32), *blocks], axis=1)
        if self.options.level == "input":
            meters = stream.meters()
            for meter, channel in zip(meters, restored, strict=True):
                meter.add(channel)
            restored *= stream.gains(meters)
        return restored if wave.ndim == 2 else restored[0]

    def open(self, source: AudioSource) -> RecordingStream:
        """Read a recording once, for its statistics; may run in a thread of its own.

        Raises:
            AudioError: it cannot be read, or holds values that are not finite.
        """
        return RecordingStream(source, self._layout, self._front_end_on_cpu)

    def restore_streams(self, streams: Iterable[RecordingStream]) -> Iterator[tuple[RecordingStream, Block | None]]:
        """Yield the restored blocks of opened recordings, and None when one is done or has failed (`failure`)."""
        set_tf32(self.options.precision)
        torch.backends.cuda.enable_cudnn_sdp(False)  # it plans each length of windows anew; the other kernels do not
        return restore_streams(self.networks, streams, self.options.batch_size)

    def features(self, wave_16k: Float32[np.ndarray, "time"], adapted: bool = True) -> Float32[np.ndarray, "frame dim"]:
        """Return the features of a 16 kHz wave, in one window and without its mirror image.

        Args:
            adapted: through the adapters at the strength of the options, or as the frozen encoder gives them.
        """
        check_wave(wave_16k)
        with torch.inference_mode():
            waves = torch.from_numpy(wave_16k)[None].to(self.device)
            features = self.encoder(waves, adapted=adapted, strength=self.options.strength)
        return features[0].cpu().numpy()

    def normalised_features(
        self, wave_16k: Float32[np.ndarray, "time"], adapted: bool = True
    ) -> Float32[np.ndarray, "frame dim"]:
        """Return such features in units of each dimension's standard deviation over clean speech."""
        features = torch.from_numpy(self.features(wave_16k, adapted)).to(self.device)
        with torch.inference_mode():
            return self.normaliser(features[None])[0].cpu().numpy()

    def vocode(self, features: Float32[np.ndarray, "frame dim"]) -> Float32[np.ndarray, "time"]:
        """Return the vocoder's wave for features, as `features` returns them."""
        with torch.inference_mode():
            return self.vocoder(torch.from_numpy(features)[None].to(self.device))[0].float().cpu().numpy()


class _WaveSource:
    """A recording in memory."""

    def __init__(self, wave: Num[np.ndarray, "channel time"], sample_rate_hz: int) -> None:
        self.wave, self.sample_rate_hz = wave, sample_rate_hz
        self.channels, self.samples = wave.shape

    def blocks(self) -> Iterator[Block]:
        """Yield the wave in blocks of 5 seconds, as a file is read."""
        for start in range(0, self.samples, 5 * self.sample_rate_hz):
            yield np.ascontiguousarray(self.wave[:, start : start + 5 * self.sample_rate_hz], dtype=np.float32)


def check_wave(wave: np.ndarray) -> None:
    """Check that a wave can be restored.

    Raises:
        ValueError: it is empty, not of floating-point values, of a wrong shape, or not finite.
    """
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"the wave's values are {wave.dtype}; should be floating-point numbers in [-1, 1]")
    if wave.ndim not in (1, 2) or wave.size == 0:
        raise ValueError(f"the wave has the shape {wave.shape}; should be [time] or [channel time], and not empty")
    if not (finite := np.isfinite(wave)).all():
        position = np.unravel_index(int(np.argmin(finite)), wave.shape)
        channel = f" of channel {position[0]}" if wave.ndim == 2 else ""
        raise ValueError(f"the wave holds {wave[position]} at value {position[-1]}{channel}; should be finite")
