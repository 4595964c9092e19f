"""From a 16 kHz wave to what an encoder's layers are fed, 50 frames a second, without anything learnt: log-mel."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank, window_function

SAMPLE_RATE_HZ = 16_000
HOP_SAMPLES = 320


class LogMelFrontEnd(nn.Module):
    """Kaldi's log-mel as w2v-BERT 2.0 hears it, two frames of 10 ms stacked to one of 20 ms.

    Args:
        mels: bands from 20 Hz to 8 kHz.
        normalise: "utterance" (each band to mean 0 and variance 1 over the valid part, as facebook/w2v-bert-2.0), or
            "fixed" (by `mean` and `std`, so that a frame does not depend on the rest of the file).
        mean, std: for "fixed": one number, or one for each band, in natural log of power at 16-bit scale.
        mirror: feed [m, -m]: the LayerNorm that follows would erase a level common to all bands.

    Raises:
        ValueError: `normalise` is neither, `mean` and `std` do not go with it, or have another number of bands.
    """

    mean: Tensor
    std: Tensor
    window: Tensor
    filters: Tensor

    def __init__(
        self,
        mels: int,
        normalise: str = "utterance",
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        if normalise not in ("utterance", "fixed"):
            raise ValueError(f"normalise={normalise!r}: should be 'utterance' or 'fixed'")
        if (normalise == "fixed") != (mean is not None) or (normalise == "fixed") != (std is not None):
            raise ValueError(
                f"normalise={normalise!r} with mean={mean}, std={std}: both go with 'fixed', and only there"
            )
        self.mels, self.normalise, self.mirror = mels, normalise, mirror
        if normalise == "fixed":
            # Buffers of the state: they are part of what the encoder is, and of its digest.
            self.register_buffer("mean", _bands("mean", mean, mels))
            self.register_buffer("std", _bands("std", std, mels))
        window = torch.from_numpy(window_function(400, "povey", periodic=False)).float()
        filters = mel_filter_bank(
            num_frequency_bins=257,
            num_mel_filters=mels,
            min_frequency=20,
            max_frequency=SAMPLE_RATE_HZ // 2,
            sampling_rate=SAMPLE_RATE_HZ,
            norm=None,
            mel_scale="kaldi",
            triangularize_in_mel_space=True,
        )
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)

    @property
    def dim(self) -> int:
        """Return the size of a frame."""
        return self.mels * 2 * (2 if self.mirror else 1)

    def forward(
        self, waves: Float[Tensor, "batch time"], valid_frames: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of waves that are whole frames long and zero after their valid part."""
        mel = self.log_mel(waves)
        if self.normalise == "fixed":
            mel = (mel - self.mean) / self.std
        else:
            mel = _normalise_bands(mel, None if valid_frames is None else valid_frames * 2)
        stacked = mel.reshape(len(mel), -1, self.mels * 2)
        return torch.cat([stacked, -stacked], -1) if self.mirror else stacked

    def log_mel(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch half_frame mel"]:
        """Return the log-mel itself, 100 frames a second, before it is standardised.

        Source: transformers' SeamlessM4TFeatureExtractor (Kaldi's fbank on 16-bit values).
        """
        with torch.autocast(waves.device.type, enabled=False):
            # 400 values every 160: 120 more on each side make 1 s exactly 100 frames.
            frames = F.pad(waves.float() * 2**15, (120, 120)).unfold(-1, 400, 160)
            frames = frames - frames.mean(-1, keepdim=True)
            previous = torch.cat([frames[..., :1], frames[..., :-1]], -1)
            spectrum = torch.fft.rfft((frames - 0.97 * previous) * self.window, n=512)
            power = spectrum.real.square() + spectrum.imag.square()
            return (power @ self.filters).clamp_min(torch.finfo(torch.float32).eps).log()


def log_mel_front_end(config: Any) -> LogMelFrontEnd:
    """Return the front end of a w2v-BERT 2.0 config: as its attribute `miipher2_front_end` says, or Meta's.

    Raises:
        ValueError: its frames are of another size than the model's input.
    """
    settings = getattr(config, "miipher2_front_end", None)
    front_end = LogMelFrontEnd(**settings) if settings else LogMelFrontEnd(config.feature_projection_input_dim // 2)
    if front_end.dim != config.feature_projection_input_dim:
        raise ValueError(
            f"miipher2_front_end={settings} makes frames of {front_end.dim} values; "
            f"should be feature_projection_input_dim={config.feature_projection_input_dim}"
        )
    return front_end


def _bands(name: str, value: float | Sequence[float] | None, mels: int) -> Float[Tensor, " mel"]:
    """Return one number for each band."""
    given = torch.as_tensor(value, dtype=torch.float32)
    if given.ndim and given.shape != (mels,):
        raise ValueError(f"{name} has {tuple(given.shape)} values; should be one, or one for each of {mels} bands")
    if name == "std" and not bool((given > 0).all()):
        raise ValueError(f"std={value}: should be greater than 0")
    return given.expand(mels).clone()


def _normalise_bands(
    mel: Float[Tensor, "batch half_frame mel"], lengths: Int[Tensor, " batch"] | None
) -> Float[Tensor, "batch half_frame mel"]:
    """Return bands of mean 0 and unbiased variance 1 over each row's first `lengths` frames, zero after them."""
    if lengths is None:
        lengths = torch.full((len(mel),), mel.shape[1], device=mel.device)
    valid = (torch.arange(mel.shape[1], device=mel.device) < lengths[:, None])[..., None]
    count = lengths[:, None, None]
    centred = (mel - mel.masked_fill(~valid, 0).sum(1, keepdim=True) / count).masked_fill(~valid, 0)
    variance = centred.square().sum(1, keepdim=True) / (count - 1)
    return centred * torch.rsqrt(variance + 1e-7)
