"""Pre-training of the mini encoder: masked prediction of acoustic units, and regression of the log-mel itself."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn
from torchaudio.functional import create_dct

from miipher2.config.schema import MaskedPredictionConfig, OptimConfig
from miipher2.models.encoder.encoder import layer_outputs
from miipher2.models.encoder.logmel_frontend import LogMelFrontEnd, log_mel_front_end
from miipher2.models.encoder.mini import build_mini_encoder
from miipher2.recipes.components import check_names, make_optimizer, named, under
from miipher2.rng import stream
from miipher2.training.optimizer import NetworkOptimizer
from miipher2.training.recipe import Batch, Metrics

CEPSTRA = 13  # as many as HuBERT clusters in its first round


class MaskedPredictionRecipe:
    """Trains a small w2v-BERT 2.0 from scratch: it hears degraded speech, and predicts the clean.

    Args:
        model: as `build_mini_encoder` returns it.
        loss: `units` and `mel` weigh the two losses; `masked_share` of the frames is masked, in spans of `span_frames`.
        seed: of the masks and of the clustering.
        precision: as `choose_precision` returns it; `bf16` is autocast.

    Source: units and masks of Hsu et al. 2021, HuBERT (arXiv:2106.07447), on MFCC; degraded input of Chen et al. 2022,
    WavLM (arXiv:2110.13900); the regression, from every layer, is ours: vocoder and adapters need what units leave out.
    """

    metric_names = ("ssl/loss", "ssl/units", "ssl/mel", "ssl/grad_norm", "valid/loss", "valid/units", "valid/mel")

    def __init__(
        self,
        model: Any,
        units: int,
        optim: OptimConfig,
        *,
        loss: dict[str, float],
        seed: int,
        precision: str,
        device: torch.device,
    ) -> None:
        assert precision != "auto"
        self.bf16 = precision == "bf16"
        self.model, self.device, self.loss, self.seed = model.to(device), device, loss, seed
        self.upstream_digests: dict[str, str] = {}
        self.front_end: LogMelFrontEnd = log_mel_front_end(model.config).to(device)
        dim, stacked = model.config.hidden_size, self.front_end.mels * 2
        self.mel_heads = nn.ModuleList(nn.Linear(dim, stacked) for _ in model.encoder.layers)
        self.heads = nn.ModuleDict({"units": nn.Linear(dim, units), "mel": self.mel_heads}).to(device)
        self.centres = torch.zeros(units, CEPSTRA, device=device)
        self.dct = create_dct(CEPSTRA, self.front_end.mels, "ortho").to(device)
        trained = [*_prefixed("model", model), *_prefixed("heads", self.heads)]
        self.optimizer: NetworkOptimizer = make_optimizer("ssl", trained, optim)

    @classmethod
    def from_config(cls, config: MaskedPredictionConfig, device: torch.device, root: Path) -> "MaskedPredictionRecipe":
        """Build the recipe that a stage's configuration describes."""
        numbers = asdict(config.model)
        units = numbers.pop("units")
        model = build_mini_encoder(
            **numbers, mean=[0.0] * config.model.mels, std=[1.0] * config.model.mels, mirror=True
        )
        zero_residual_branches(model.encoder)
        return cls(
            model,
            units,
            config.optim,
            loss=asdict(config.loss),
            seed=config.seed,
            precision=config.precision,
            device=device,
        )

    def initialise(self, batches: Iterable[Batch]) -> None:
        """Fit the log-mel statistics of clean speech, and cluster its cepstra into units."""
        parts = []
        for batch in batches:
            mel = self.front_end.log_mel(batch["clean"].to(self.device))
            parts += [each[: 2 * frames] for each, frames in zip(mel, batch["valid_frames"].tolist(), strict=True)]
        mels = torch.cat(parts)
        self.front_end.mean.copy_(mels.mean(0))
        self.front_end.std.copy_(mels.std(0))
        cepstra = self._cepstra(((mels - self.front_end.mean) / self.front_end.std)[None])[0]
        # A seed of its own, so that the global generators are left alone.
        rng = np.random.default_rng(int(stream(self.seed, "units").integers(2**32)))
        centres, _ = kmeans2(cepstra.cpu().numpy(), len(self.centres), iter=20, minit="++", rng=rng)
        self.centres.copy_(torch.from_numpy(centres))

    def update(self, batch: Batch, step: int) -> Metrics:
        """Make one update of encoder and heads."""
        losses = self._losses(batch, stream(self.seed, "mask", step))
        norm = self.optimizer.minimize(losses["loss"], step)
        return {"ssl/grad_norm": norm, **{f"ssl/{name}": value.detach() for name, value in losses.items()}}

    @torch.no_grad()
    def validate(self, batch: Batch) -> Metrics:
        """Return the losses under masks that are the same every time."""
        losses = self._losses(batch, stream(self.seed, "valid mask"))
        return {f"valid/{name}": value for name, value in losses.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return encoder, heads, log-mel statistics, units and the optimizer."""
        return {
            "model": {
                **named("model.", self.model),
                **named("heads.", self.heads),
                "centres": self.centres,
                "mean": self.front_end.mean,
                "std": self.front_end.std,
            },
            "optimizers": {"ssl": self.optimizer.optimizer_state()},
            "schedules": {"ssl": self.optimizer.schedule_state()},
            "ema": {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load such a state, strictly."""
        model = state["model"]
        check_names(model, self.state_dict()["model"])
        self.model.load_state_dict(under("model.", model))
        self.heads.load_state_dict(under("heads.", model))
        for tensor, name in ((self.centres, "centres"), (self.front_end.mean, "mean"), (self.front_end.std, "std")):
            tensor.copy_(model[name])
        self.optimizer.load(state["optimizers"]["ssl"], state["schedules"]["ssl"])

    def export(self) -> dict[str, dict[str, Tensor]]:
        """Return the encoder's weights, without the heads."""
        return {"final": dict(self.model.state_dict())}

    def write_encoder(self, folder: Path) -> None:
        """Write the encoder as `load_encoder` reads it; in float16, half the size."""
        front_end = {"mean": self.front_end.mean.tolist(), "std": self.front_end.std.tolist()}
        self.model.config.miipher2_front_end.update(front_end)
        half = type(self.model)(self.model.config)
        half.load_state_dict(self.model.state_dict())
        half.half().save_pretrained(folder)

    def _losses(self, batch: Batch, rng: np.random.Generator) -> dict[str, Float[Tensor, ""]]:
        clean = self._standardised(batch["clean"].to(self.device))
        target = clean.reshape(len(clean), -1, self.front_end.mels * 2)
        valid = (torch.arange(target.shape[1]) < batch["valid_frames"][:, None]).to(self.device)
        units = self._units(clean)
        masked = draw_mask(rng, target.shape[:2], self.loss["masked_share"], int(self.loss["span_frames"]))
        masked = masked.to(self.device) & valid
        visible = self.front_end(batch["degraded"].to(self.device)).masked_fill(masked[..., None], 0)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            hidden, _ = self.model.feature_projection(visible)
            numbers = range(1, len(self.mel_heads) + 1)
            outputs = layer_outputs(self.model.encoder, numbers, hidden, None if bool(valid.all()) else valid)
        layers = [output.float() for output in outputs]
        loss_units = F.cross_entropy(self.heads["units"](layers[-1][masked]), units[masked])
        errors = [(head(layer) - target).abs().mean(-1) for head, layer in zip(self.mel_heads, layers, strict=True)]
        error = torch.stack(errors).mean(0)
        total = self.loss["units"] * loss_units + self.loss["mel"] * (error[valid].mean() + error[masked].mean())
        return {"loss": total, "units": loss_units, "mel": errors[-1][valid].mean()}

    def _standardised(self, waves: Float[Tensor, "batch time"]) -> Float[Tensor, "batch half_frame mel"]:
        return (self.front_end.log_mel(waves) - self.front_end.mean) / self.front_end.std

    def _cepstra(self, mel: Float[Tensor, "batch half_frame mel"]) -> Float[Tensor, "batch frame cepstrum"]:
        frames = mel.reshape(len(mel), -1, 2, mel.shape[-1]).mean(2)
        return frames @ self.dct

    def _units(self, mel: Float[Tensor, "batch half_frame mel"]) -> Int[Tensor, "batch frame"]:
        return torch.cdist(self._cepstra(mel), self.centres[None]).argmin(-1)


@torch.no_grad()
def zero_residual_branches(encoder: Any) -> None:
    """Make each layer of an untrained conformer pass its input on, so that it starts from what the front end knows.

    Drawn branches outweigh it, the convolution's above all, and deep layers would have to learn the log-mel anew.

    Source: the zero-initialised residual blocks of Goyal et al. 2017 (arXiv:1706.02677), section 5.1.
    """
    for layer in encoder.layers:
        attention, convolution = layer.self_attn.linear_out, layer.conv_module.pointwise_conv2
        for last in (layer.ffn1.output_dense, attention, convolution, layer.ffn2.output_dense):
            for parameter in last.parameters():
                parameter.zero_()


def draw_mask(
    rng: np.random.Generator, shape: tuple[int, ...], masked_share: float, span_frames: int
) -> Bool[Tensor, "batch frame"]:
    """Return which frames are masked: spans at random places, about as many as make up `masked_share`."""
    batch, frames = shape
    # Spans overlap: with n of them a frame stays uncovered with probability (1 - span / frames) ** n.
    spans = max(1, round(math.log(1 - masked_share) / math.log(1 - min(0.99, span_frames / frames))))
    starts = rng.integers(0, frames, size=(batch, spans))
    mask = np.zeros((batch, frames), dtype=bool)
    for row, begins in enumerate(starts):
        for begin in begins:
            mask[row, begin : begin + span_frames] = True
    return torch.from_numpy(mask)


def _prefixed(prefix: str, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(f"{prefix}.{name}", parameter) for name, parameter in module.named_parameters()]
