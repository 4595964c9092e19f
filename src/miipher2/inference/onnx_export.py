"""The networks as two ONNX graphs with a dynamic time axis: encoder.onnx and vocoder.onnx, in float32.

`encoder.onnx` takes waves at 16 kHz, whole frames long, to cleaned features, with the statistics of the wave that it is
given; `vocoder.onnx` takes features to waves. Windows, chunks and the mirror image at the ends are the caller's.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from miipher2.inference.front_end import BAND_EPSILON, WAVE_EPSILON
from miipher2.inference.weights import Weights
from miipher2.models.encoder.adapter import AdaptedBlock
from miipher2.models.encoder.conv_frontend import WaveFrontEnd
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.logmel_frontend import HOP_SAMPLES, LogMelFrontEnd
from miipher2.models.vocoder.harmonic_vocos import HarmonicVocos
from miipher2.models.vocoder.vocos import Vocos

OPSET = 18


class AdaptedEncoder(nn.Module):
    """The encoder as one function of a wave, its adapters always heard."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        super().__init__()
        front_end = encoder.front_end
        self.front_end = ConvolvedWave(front_end) if isinstance(front_end, WaveFrontEnd) else MultipliedMel(front_end)
        own = copy.deepcopy(encoder)  # whose adapters are heard for good
        self.encoder = own
        for block in own.modules():
            if isinstance(block, AdaptedBlock):
                block.is_active = True

    def forward(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch frame dim"]:
        """Return cleaned features."""
        projected = self.encoder.projection(self.front_end(waves))
        return self.encoder.run_layers(projected[0] if isinstance(projected, tuple) else projected)


class ConvolvedWave(nn.Module):
    """A wave's front end, without the lengths that a trace would hold fast."""

    def __init__(self, front_end: WaveFrontEnd) -> None:
        super().__init__()
        self.front_end: Any = front_end

    def forward(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of waves that are whole frames long."""
        if self.front_end.normalise:
            centred = waves - waves.mean(1, keepdim=True)
            waves = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + WAVE_EPSILON)
        hidden = F.pad(waves, self.front_end.padding)[:, None]
        for layer in self.front_end.conv_layers:
            hidden = layer(hidden)
        return hidden.transpose(1, 2)


class MultipliedMel(nn.Module):
    """Log-mel whose spectrum is a product with a matrix, since the exporter writes no FFT.

    All that `LogMelFrontEnd.log_mel` does to a frame before it takes the power is linear: what it makes of each single
    value is a row of the matrix. In float64: onnxruntime sums a band over time one by one, and its mean drifts by 3e-5.
    """

    matrix: Tensor

    def __init__(self, front_end: LogMelFrontEnd) -> None:
        super().__init__()
        self.front_end = front_end
        window = front_end.window.double().cpu()
        frames = torch.eye(len(window), dtype=torch.float64) * 2**15
        frames = frames - frames.mean(-1, keepdim=True)
        previous = torch.cat([frames[:, :1], frames[:, :-1]], -1)
        spectrum = torch.fft.rfft((frames - 0.97 * previous) * window, n=512)
        self.register_buffer("matrix", torch.cat([spectrum.real, spectrum.imag], -1), persistent=False)
        self.to(front_end.window.device)

    def forward(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of waves that are whole frames long."""
        front_end, width, half = self.front_end, len(self.matrix), HOP_SAMPLES // 2
        part, side = half // 2, (width - half) // 2
        # Frames of 400 values every 160 are five parts of 80, of which each second one begins a frame.
        parts = F.pad(waves, (side, side)).reshape(waves.shape[0], -1, part)
        halves = waves.shape[1] // half
        frames = torch.cat([parts[:, first:][:, ::2][:, :halves] for first in range(width // part)], -1)
        real, imaginary = (frames.double() @ self.matrix).chunk(2, -1)
        power = (real.square() + imaginary.square()) @ front_end.filters.double()
        mel = power.clamp_min(torch.finfo(torch.float32).eps).log()
        if front_end.normalise == "fixed":
            mel = (mel - front_end.mean) / front_end.std
        else:
            mel = (mel - mel.mean(1, keepdim=True)) * torch.rsqrt(mel.var(1, keepdim=True) + BAND_EPSILON)
        stacked = mel.float().reshape(waves.shape[0], -1, front_end.mels * 2)
        return torch.cat([stacked, -stacked], -1) if front_end.mirror else stacked


class MultipliedVocos(nn.Module):
    """A vocoder whose inverse Fourier transform is a product with a matrix."""

    matrix: Tensor

    def __init__(self, normaliser: nn.Module, generator: Vocos) -> None:
        super().__init__()
        self.normaliser, self.generator = normaliser, generator
        bins = torch.eye(generator.window_samples // 2 + 1, dtype=torch.float64)
        parts = torch.cat([torch.complex(bins, 0 * bins), torch.complex(0 * bins, bins)])
        matrix = torch.fft.irfft(parts, n=generator.window_samples).float()
        self.register_buffer("matrix", matrix.to(generator.window.device), persistent=False)

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves."""
        spectrum = torch.cat(self.generator.spectrum(self.normaliser(features)), -1)
        return self.generator.overlap_add(spectrum @ self.matrix)


def check_graphs(weights: Weights) -> None:
    """Check that the networks can be written as graphs.

    Raises:
        ValueError: the vocoder must know where a chunk lies in its recording, which a graph of features alone cannot.
    """
    if isinstance(weights.vocoder.generator, HarmonicVocos):
        raise ValueError("--onnx: a harmonic_vocos goes on from chunk to chunk; should be a hifigan or vocos")


def export_graphs(weights: Weights, folder: Path) -> None:
    """Write both graphs.

    Raises:
        ValueError: as `check_graphs`.
    """
    check_graphs(weights)
    encoder = AdaptedEncoder(weights.encoder).eval()
    vocoder: nn.Module = weights.vocoder
    if isinstance(weights.vocoder.generator, Vocos):
        vocoder = MultipliedVocos(weights.vocoder.normaliser, weights.vocoder.generator)
    # A second of example; fewer frames than a window, so that none of its sizes passes for a constant.
    waves = 0.1 * torch.randn(2, 50 * HOP_SAMPLES, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = encoder(waves)
        torch.onnx.export(
            encoder,
            (waves.clone(),),
            folder / "encoder.onnx",
            input_names=["waves"],
            output_names=["features"],
            dynamic_axes={"waves": {0: "batch", 1: "time"}, "features": {0: "batch", 1: "frame"}},
            opset_version=OPSET,
            dynamo=False,
        )
        torch.onnx.export(
            vocoder.eval(),
            (features,),
            folder / "vocoder.onnx",
            input_names=["features"],
            output_names=["waves"],
            dynamic_axes={"features": {0: "batch", 1: "frame"}, "waves": {0: "batch", 1: "time"}},
            opset_version=OPSET,
            dynamo=False,
        )
