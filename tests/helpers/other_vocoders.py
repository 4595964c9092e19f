"""Tiny vocoders as other projects' code saves them, and plain functions of their weights, without our modules."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from omegaconf import OmegaConf
from other_projects import DIM
from torch import Tensor
from torchaudio.models import Conformer

PERIODS = (2, 3, 5, 7, 11)
# Channels of the discriminators as in the source, but 2 in the place of 32: 64 instead of 1024.
PERIOD_WIDTHS = (1, 2, 8, 32, 64, 64)
SCALE_WIDTHS, SCALE_GROUPS = (1, 8, 8, 16, 32, 64, 64, 64), (1, 2, 2, 4, 8, 16, 1)
SCALE_KERNELS, SCALE_STRIDES = (15, 41, 41, 41, 41, 41, 5), (1, 2, 2, 4, 4, 1, 1)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape) / math.sqrt(max(1, math.prod(shape[1:])))


class SslVocoder:
    """A Lightning checkpoint of HiFi-GAN on features of an encoder.

    Args:
        norm: "old" or "new" names of weight norm, or "folded".
    """

    def __init__(
        self,
        rate_hz: int = 22_050,
        rates: tuple[int, ...] = (7, 7, 3, 3),
        *,
        channels: int = 16,
        kernels: tuple[int, ...] = (3, 5),
        dilations: tuple[int, ...] = (1, 3),
        dim: int = DIM,
        norm: str = "old",
        has_discriminators: bool = True,
        spectral_names: str = "old",
    ) -> None:
        torch.manual_seed(2)
        self.norm, self.spectral_names = norm, spectral_names
        self.rates, self.kernels, self.dilations = rates, kernels, dilations
        self.weights: dict[str, Tensor] = {}  # as they act
        self.state: dict[str, Tensor] = {}  # as they are saved
        self._add("generator.conv_pre", channels, dim, 7)
        for i, rate in enumerate(rates):
            kernel = 2 * rate + rate % 2
            self._add(f"generator.ups.{i}", channels, channels // 2, kernel, bias=channels // 2)
            channels //= 2
            for j, size in enumerate(kernels):
                for k in range(len(dilations)):
                    for kind in ("convs1", "convs2"):
                        self._add(f"generator.resblocks.{i * len(kernels) + j}.{kind}.{k}", channels, channels, size)
        self._add("generator.conv_post", 1, channels, 7)
        if has_discriminators:
            self._add_discriminators()
        self.state["preprocessor.mel_spec.spectrogram.window"] = torch.ones(8)
        generator = {
            "num_input_channels": dim,
            "upsample_rates": list(rates),
            "upsample_initial_channel": 2 ** len(rates),
            "upsample_kernel_sizes": [2 * rate + rate % 2 for rate in rates],
            "resblock_dilation_sizes": [list(dilations)] * len(kernels),
            "resblock_kernel_sizes": list(kernels),
            "resblock": "1",
        }
        generator["upsample_initial_channel"] = self.weights["generator.conv_pre.weight"].shape[0]
        model = {"pretrained_model_name_or_path": "facebook/hubert-base-ls960"}
        self.config: dict[str, Any] = {
            "sample_rate": rate_hz,
            "model": {"generator": generator, "loss": {"recons_coef": 45}},
            "data": {"target_feature": {"key": "hubert-base-2.pth", "samples_per_sec": 50, "bias": 0.0025, "layer": 2}},
            "preprocess": {"ssl_models": [[model, model, {"sr": 16_000, "key": "hubert-base-2.pth", "layer": 2}]]},
        }

    def save(self, path: Path) -> Path:
        """Write the checkpoint."""
        content = {
            "epoch": 3,
            "global_step": 137_108,
            "pytorch-lightning_version": "2.1.0",
            "state_dict": self.state,
            "optimizer_states": [{"state": {}, "param_groups": []}],
            "hparams_name": "kwargs",
            "hyper_parameters": {"cfg": OmegaConf.create(self.config)},
        }
        torch.save(content, path)
        return path

    def __call__(self, features: Tensor) -> Tensor:
        """Return the wave of features of one recording."""
        hidden = self._conv("generator.conv_pre", self._prenet(features)[None].mT, padding=3)
        for i, rate in enumerate(self.rates):
            name = f"generator.ups.{i}"
            weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
            padding = (weight.shape[2] - rate) // 2
            hidden = F.conv_transpose1d(F.leaky_relu(hidden, 0.1), weight, bias, stride=rate, padding=padding)
            total = torch.zeros_like(hidden)
            for j, kernel in enumerate(self.kernels):
                branch = hidden
                for k, dilation in enumerate(self.dilations):
                    block, side = f"generator.resblocks.{i * len(self.kernels) + j}", (kernel - 1) // 2
                    inner = F.leaky_relu(branch, 0.1)
                    inner = self._conv(f"{block}.convs1.{k}", inner, padding=side * dilation, dilation=dilation)
                    branch = branch + self._conv(f"{block}.convs2.{k}", F.leaky_relu(inner, 0.1), padding=side)
                total = total + branch
            hidden = total / len(self.kernels)
        return torch.tanh(self._conv("generator.conv_post", F.leaky_relu(hidden), padding=3))[0, 0]

    def _prenet(self, features: Tensor) -> Tensor:
        """Return what the first convolution takes: of the plain form the features themselves."""
        return features

    def judge(self, wave: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Return score and feature maps of each discriminator, for a wave of shape [1, time]."""
        outputs = []
        for index, period in enumerate(PERIODS):
            base = f"multi_period_discriminator.discriminators.{index}"
            missing = -wave.shape[1] % period
            folded = F.pad(wave[:, None], (0, missing), "reflect").view(1, 1, -1, period)
            maps = []
            for i, stride in enumerate((3, 3, 3, 3, 1)):
                weight, bias = self.weights[f"{base}.convs.{i}.weight"], self.weights[f"{base}.convs.{i}.bias"]
                folded = F.leaky_relu(F.conv2d(folded, weight, bias, (stride, 1), padding=(2, 0)), 0.1)
                maps.append(folded)
            weight, bias = self.weights[f"{base}.conv_post.weight"], self.weights[f"{base}.conv_post.bias"]
            maps.append(F.conv2d(folded, weight, bias, padding=(1, 0)))
            outputs.append((maps[-1].flatten(1), maps))
        hidden = wave[:, None]
        for index in range(3):
            base = f"multi_scale_discriminator.discriminators.{index}"
            hidden = F.avg_pool1d(hidden, 4, 2, padding=2) if index else hidden
            inner, maps = hidden, []
            for i, stride in enumerate(SCALE_STRIDES):
                kernel, groups = SCALE_KERNELS[i], SCALE_GROUPS[i]
                inner = self._conv(f"{base}.convs.{i}", inner, stride=stride, padding=kernel // 2, groups=groups)
                inner = F.leaky_relu(inner, 0.1)
                maps.append(inner)
            maps.append(self._conv(f"{base}.conv_post", inner, padding=1))
            outputs.append((maps[-1].flatten(1), maps))
        return outputs

    def _conv(self, name: str, hidden: Tensor, **settings: int) -> Tensor:
        return F.conv1d(hidden, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **settings)

    def _add(self, name: str, *shape: int, bias: int | None = None) -> None:
        """Draw a convolution, and save its weight under weight norm over its first dimension."""
        weight, direction = drawn(*shape), drawn(*shape)
        scale = weight.flatten(1).norm(dim=1).view(-1, *(1 for _ in shape[1:]))
        acting = direction * scale / direction.flatten(1).norm(dim=1).view(scale.shape)
        self.weights |= {f"{name}.weight": acting, f"{name}.bias": 0.1 * torch.randn(bias or shape[0])}
        self.state[f"{name}.bias"] = self.weights[f"{name}.bias"]
        new = ("parametrizations.weight.original0", "parametrizations.weight.original1")
        if self.norm == "folded":
            self.state[f"{name}.weight"] = acting
        else:
            for part, value in zip(
                ("weight_g", "weight_v") if self.norm == "old" else new, (scale, direction), strict=True
            ):
                self.state[f"{name}.{part}"] = value

    def _add_spectral(self, name: str, *shape: int) -> None:
        """Draw a convolution, and save its weight under spectral norm."""
        weight = drawn(*shape)
        rows = weight.flatten(1)
        left, right = F.normalize(torch.randn(rows.shape[0]), dim=0), F.normalize(torch.randn(rows.shape[1]), dim=0)
        acting = weight / (left @ rows @ right)
        self.weights |= {f"{name}.weight": acting, f"{name}.bias": 0.1 * torch.randn(shape[0])}
        self.state[f"{name}.bias"] = self.weights[f"{name}.bias"]
        older = self.spectral_names == "old"
        names = ("orig", "u", "v") if older else ("s.weight.original", "s.weight.0._u", "s.weight.0._v")
        for part, value in zip(names, (weight, left, right), strict=True):
            self.state[f"{name}.weight_{part}" if older else f"{name}.parametrization{part}"] = value

    def _add_discriminators(self) -> None:
        for index in range(len(PERIODS)):
            base = f"multi_period_discriminator.discriminators.{index}"
            for i in range(5):
                self._add(f"{base}.convs.{i}", PERIOD_WIDTHS[i + 1], PERIOD_WIDTHS[i], 5, 1)
            self._add(f"{base}.conv_post", 1, PERIOD_WIDTHS[-1], 3, 1)
        for index in range(3):
            base, add = f"multi_scale_discriminator.discriminators.{index}", self._add if index else self._add_spectral
            for i, kernel in enumerate(SCALE_KERNELS):
                add(f"{base}.convs.{i}", SCALE_WIDTHS[i + 1], SCALE_WIDTHS[i] // SCALE_GROUPS[i], kernel)
            add(f"{base}.conv_post", 1, SCALE_WIDTHS[-1], 3)


class OriginalVocoder(SslVocoder):
    """The original Miipher-2 code's form, with two conformers of torchaudio before HiFi-GAN."""

    def __init__(self, heads: int | None = None, **sizes: Any) -> None:
        channels, inner, kernel = 16, 20, 5
        super().__init__(dim=channels, **sizes)
        settings = {"ffn_dim": inner, "num_layers": 1, "depthwise_conv_kernel_size": kernel, "dropout": 0.1}
        self.conformers = [Conformer(24, heads or 8, **settings).eval() for _ in range(2)]
        for number, conformer in enumerate(self.conformers, 1):
            for name, tensor in conformer.state_dict().items():
                if name.endswith(("running_var", "sequential.3.weight")):
                    tensor.copy_(0.5 + torch.rand_like(tensor))
                elif tensor.is_floating_point():
                    tensor.add_(0.3 * torch.randn_like(tensor))
                self.state[f"generator.conformer{number}.{name}"] = tensor
        for side, shape in {"input": (24, DIM), "output": (channels, 24)}.items():
            name = f"generator.{side}_projection"
            self.state |= {f"{name}.weight": drawn(*shape), f"{name}.bias": 0.1 * torch.randn(shape[0])}
        settings = self.config["model"]["generator"]
        settings["num_input_channels"] = DIM
        if heads is not None:
            settings["conformer_num_heads"] = heads

    def _prenet(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = F.linear(features, *self._projection("input"))[None]
            for conformer in self.conformers:
                hidden, _ = conformer(hidden, torch.tensor([len(features)]))
            return F.linear(hidden[0], *self._projection("output"))

    def _projection(self, side: str) -> tuple[Tensor, Tensor]:
        return self.state[f"generator.{side}_projection.weight"], self.state[f"generator.{side}_projection.bias"]


class CharactrVocos:
    """A Vocos with the `config.yaml` that belongs beside it."""

    def __init__(self, rate_hz: int = 24_000, hop: int = 480, *, padding: str = "same", dim: int = DIM) -> None:
        torch.manual_seed(3)
        self.rate_hz, self.hop, self.padding, self.window_samples = rate_hz, hop, padding, 4 * hop
        channels, inner, self.blocks = 12, 20, 2
        self.state: dict[str, Tensor] = {"backbone.embed.weight": drawn(channels, dim, 7)}
        self.state |= {"backbone.embed.bias": 0.1 * torch.randn(channels)}
        self._add_norm("backbone.norm", channels)
        for block in range(self.blocks):
            base = f"backbone.convnext.{block}"
            self.state |= {f"{base}.dwconv.weight": drawn(channels, 1, 7), f"{base}.dwconv.bias": drawn(channels)}
            self._add_norm(f"{base}.norm", channels)
            self.state |= {f"{base}.pwconv1.weight": drawn(inner, channels), f"{base}.pwconv1.bias": drawn(inner)}
            self.state |= {f"{base}.pwconv2.weight": drawn(channels, inner), f"{base}.pwconv2.bias": drawn(channels)}
            self.state[f"{base}.gamma"] = torch.rand(channels)
        self._add_norm("backbone.final_layer_norm", channels)
        bins = self.window_samples + 2
        self.state |= {"head.out.weight": drawn(bins, channels), "head.out.bias": drawn(bins)}
        self.state["head.istft.window"] = torch.hann_window(self.window_samples)
        arguments = {"dim": channels, "n_fft": self.window_samples, "hop_length": hop, "padding": padding}
        self.config: dict[str, Any] = {
            "feature_extractor": {"class_path": "mine.HubertFeatures", "init_args": {"sample_rate": rate_hz}},
            "head": {"class_path": "vocos.heads.ISTFTHead", "init_args": arguments},
        }

    def save(self, folder: Path, *, is_training: bool = False) -> Path:
        """Write a release or, with discriminators, a checkpoint of a training, and the configuration of either."""
        config, content = self.config, dict[str, Any](self.state)
        if is_training:
            arguments = {"sample_rate": self.rate_hz, **self.config}
            config = {"model": {"class_path": "vocos.experiment.VocosExp", "init_args": arguments}}
            more = {"multiperioddisc.discriminators.0.convs.0.weight_g": torch.ones(1), "melspec_loss.x": torch.ones(1)}
            content = {
                "state_dict": {**self.state, **more},
                "global_step": 7,
                "hyper_parameters": {"sample_rate": self.rate_hz},
                "loops": {},
            }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        torch.save(content, folder / "vocos.bin")
        return folder / "vocos.bin"

    def __call__(self, features: Tensor) -> Tensor:
        """Return the wave of features of one recording."""
        hidden = F.conv1d(features.T[None], *self._pair("backbone.embed"), padding=3).transpose(1, 2)
        hidden = self._norm("backbone.norm", hidden)
        for block in range(self.blocks):
            base = f"backbone.convnext.{block}"
            inner = hidden.transpose(1, 2)
            inner = F.conv1d(inner, *self._pair(f"{base}.dwconv"), padding=3, groups=inner.shape[1]).transpose(1, 2)
            inner = F.gelu(F.linear(self._norm(f"{base}.norm", inner), *self._pair(f"{base}.pwconv1")))
            hidden = hidden + self.state[f"{base}.gamma"] * F.linear(inner, *self._pair(f"{base}.pwconv2"))
        hidden = F.linear(self._norm("backbone.final_layer_norm", hidden), *self._pair("head.out")).transpose(1, 2)
        magnitude, phase = hidden.chunk(2, dim=1)
        spectrum = torch.polar(magnitude.exp().clamp_max(100.0), phase)
        window, size, hop = torch.hann_window(self.window_samples), self.window_samples, self.hop
        if self.padding == "center":
            return torch.istft(spectrum, size, hop, size, window, center=True)[0]
        frames = torch.fft.irfft(spectrum, size, dim=1) * window[:, None]
        length = (spectrum.shape[2] - 1) * hop + size
        fold = {"output_size": (1, length), "kernel_size": (1, size), "stride": (1, hop)}
        wave = F.fold(frames, **fold)[0, 0, 0]
        weight = F.fold(window.square()[None, :, None].expand_as(frames), **fold)[0, 0, 0]
        side = (size - hop) // 2
        return (wave[side:-side] / weight[side:-side]).contiguous()

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def _norm(self, name: str, hidden: Tensor) -> Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:], *self._pair(name), eps=1e-6)

    def _add_norm(self, name: str, channels: int) -> None:
        self.state |= {f"{name}.weight": 1 + drawn(channels), f"{name}.bias": 0.1 * torch.randn(channels)}
