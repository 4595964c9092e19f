"""The networks as two ONNX graphs with a dynamic time axis: encoder.onnx and vocoder.onnx, in float32.

`encoder.onnx` turns waves at 16 kHz, whole frames long, into cleaned features, with the statistics of the wave that it
is given; `vocoder.onnx` turns features into waves. Windows, chunks and the mirror image at the ends are left to the
caller.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from miipher2.config.schema_data import FRAMES_PER_SECOND, HOP_SAMPLES
from miipher2.inference.weights import Weights
from miipher2.models.encoder.adapter import AdaptedBlock
from miipher2.models.encoder.conv_frontend import WaveFrontEnd
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.logmel_frontend import EPSILON, LogMelFrontEnd, Scales
from miipher2.models.vocoder.harmonic_vocos import HarmonicVocos
from miipher2.models.vocoder.vocos import Vocos

OPSET = 18


class AdaptedEncoder(nn.Module):
    """The encoder as one function of a wave, with its adapters as trained."""

    def __init__(self, encoder: SpeechEncoder) -> None:
        super().__init__()
        front_end = encoder.front_end
        self.front_end = TracedWave(front_end) if isinstance(front_end, WaveFrontEnd) else TracedLogMel(front_end)
        self.encoder = copy.deepcopy(encoder)
        for block in self.encoder.modules():
            if isinstance(block, AdaptedBlock):
                block.strength = 1.0

    def forward(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch frame dim"]:
        """Return cleaned features."""
        return self.encoder.run_layers(self.encoder.project(self.front_end(waves)))


class TracedWave(nn.Module):
    """The convolutional front end without sizes that a trace would turn into constants."""

    def __init__(self, front_end: WaveFrontEnd) -> None:
        super().__init__()
        self.front_end: Any = front_end

    def forward(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of waves that are whole frames long."""
        if self.front_end.normalise:
            centred = waves - waves.mean(1, keepdim=True)
            waves = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + EPSILON)
        hidden = F.pad(waves, self.front_end.padding)[:, None]
        for layer in self.front_end.conv_layers:
            hidden = layer(hidden)
        return hidden.transpose(1, 2)


class TracedLogMel(nn.Module):
    """The log-mel front end with its spectrum as a matrix product, since the exporter writes no FFT.

    In float64: onnxruntime sums a band over time one by one, and its mean drifts by 3e-5.
    """

    matrix: Tensor

    def __init__(self, front_end: LogMelFrontEnd) -> None:
        super().__init__()
        self.front_end = front_end
        window = front_end.window
        spectrum = front_end.spectrum(torch.eye(len(window), dtype=torch.float64, device=window.device) * 2**15)
        self.register_buffer("matrix", torch.cat([spectrum.real, spectrum.imag], -1), persistent=False)

    def forward(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch frame dim"]:
        """Return the frames of waves that are whole frames long."""
        front_end, width, half = self.front_end, len(self.matrix), HOP_SAMPLES // 2
        part = half // 2
        # Frames of 400 values every 160 are five parts of 80, of which every second one begins a frame.
        parts = F.pad(waves, front_end.padding).reshape(waves.shape[0], -1, part)
        halves = waves.shape[1] // half
        frames = torch.cat([parts[:, first:][:, ::2][:, :halves] for first in range(width // part)], -1)
        real, imaginary = (frames.double() @ self.matrix).chunk(2, -1)
        power = (real.square() + imaginary.square()) @ front_end.filters.double()
        mel = power.clamp_min(torch.finfo(torch.float32).eps).log()
        return front_end.stack(mel, Scales(mel.mean(1), torch.rsqrt(mel.var(1) + EPSILON))).float()


class TracedVocos(nn.Module):
    """A Vocos with its inverse Fourier transform as a matrix product."""

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


def check_exportable(weights: Weights) -> None:
    """Check that the networks can be written as graphs.

    Raises:
        ValueError: the vocoder depends on where a chunk lies in its recording, which is not in the features.
    """
    if isinstance(weights.vocoder.generator, HarmonicVocos):
        raise ValueError("--onnx: the vocoder is a harmonic_vocos, which keeps a phase; should be any other kind")


def export_graphs(weights: Weights, folder: Path) -> None:
    """Write both graphs.

    Raises:
        ValueError: see `check_exportable`.
    """
    check_exportable(weights)
    encoder = AdaptedEncoder(weights.encoder).eval()
    vocoder: nn.Module = weights.vocoder
    if isinstance(weights.vocoder.generator, Vocos):
        vocoder = TracedVocos(weights.vocoder.normaliser, weights.vocoder.generator)
    # One second, fewer frames than a window, so that no size of the example passes for a constant.
    waves = 0.1 * torch.randn(2, FRAMES_PER_SECOND * HOP_SAMPLES, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        features = encoder(waves)
        _export(encoder, waves.clone(), folder / "encoder.onnx", ("waves", "time"), ("features", "frame"))
        _export(vocoder.eval(), features, folder / "vocoder.onnx", ("features", "frame"), ("waves", "time"))


def _export(network: nn.Module, example: Tensor, path: Path, source: tuple[str, str], result: tuple[str, str]) -> None:
    """Write one graph; `source` and `result` are a name and its dynamic axis 1."""
    torch.onnx.export(
        network,
        (example,),
        path,
        input_names=[source[0]],
        output_names=[result[0]],
        dynamic_axes={name: {0: "batch", 1: axis} for name, axis in (source, result)},
        opset_version=OPSET,
        dynamo=False,
    )
