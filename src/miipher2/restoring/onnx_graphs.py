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

from miipher2.models.adapter import WithAdapter
from miipher2.models.front_end import HOP_SAMPLES
from miipher2.models.ssl import SpeechEncoder
from miipher2.models.wave_front_end import WaveFrontEnd
from miipher2.restoring.front_end import WAVE_EPSILON
from miipher2.restoring.weights import Weights

OPSET = 18


class AdaptedEncoder(nn.Module):
    """The encoder as one function of a wave, its adapters always heard.

    Raises:
        ValueError: its front end is log-mel: ONNX graphs of it would need an FFT that the exporter does not write.
    """

    def __init__(self, encoder: SpeechEncoder) -> None:
        super().__init__()
        if not isinstance(encoder.front_end, WaveFrontEnd):
            raise ValueError("the encoder hears log-mel; only encoders that hear a wave (HuBERT, WavLM) become ONNX")
        self.front_end: Any = encoder.front_end
        own = copy.deepcopy(encoder)  # whose adapters are heard for good
        self.projection, self.layers = own.projection, own.encoder
        for block in own.modules():
            if isinstance(block, WithAdapter):
                block.active = True

    def forward(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch frame dim"]:
        """Return cleaned features."""
        if self.front_end.normalise:  # as the front end, without the lengths that a trace would hold fast
            centred = waves - waves.mean(1, keepdim=True)
            waves = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + WAVE_EPSILON)
        hidden = F.pad(waves, self.front_end.padding)[:, None]
        for layer in self.front_end.conv_layers:
            hidden = layer(hidden)
        projected = self.projection(hidden.transpose(1, 2))
        hidden = projected[0] if isinstance(projected, tuple) else projected
        return self.layers(hidden).last_hidden_state


def export_graphs(weights: Weights, folder: Path) -> None:
    """Write both graphs.

    Raises:
        ValueError: as `AdaptedEncoder`.
    """
    encoder = AdaptedEncoder(weights.encoder).eval()
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
            weights.vocoder.eval(),
            (features,),
            folder / "vocoder.onnx",
            input_names=["features"],
            output_names=["waves"],
            dynamic_axes={"features": {0: "batch", 1: "frame"}, "waves": {0: "batch", 1: "time"}},
            opset_version=OPSET,
            dynamo=False,
        )
