"""A tiny training checkpoint of Sidon, and plain functions of its weights, without our modules."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from omegaconf import OmegaConf
from other_vocoders import drawn
from torch import Tensor

DIM, LAYERS, RANK = 16, 2, 4
SIZES = {"hidden_size": DIM, "num_attention_heads": 2, "intermediate_size": 24, "conv_depthwise_kernel_size": 7}


def save_w2v_bert(folder: Path) -> None:
    """Save the encoder that Sidon starts from, with one layer more than it uses."""
    torch.manual_seed(0)
    config = transformers.Wav2Vec2BertConfig(**SIZES, num_hidden_layers=LAYERS + 1, feature_projection_input_dim=160)
    transformers.Wav2Vec2BertModel(config).save_pretrained(folder)


class Sidon:
    """A Lightning checkpoint with the encoder under LoRA and the decoder."""

    def __init__(self, encoder: Path, factors: tuple[int, ...] = (8, 5, 4, 3, 2), channels: int = 32) -> None:
        torch.manual_seed(5)
        self.factors, self.encoder = factors, encoder
        self.student = transformers.Wav2Vec2BertModel.from_pretrained(encoder, num_hidden_layers=LAYERS).eval()
        self.lora: dict[str, Tensor] = {}
        self.state: dict[str, Tensor] = {}
        for name, tensor in self.student.state_dict().items():
            module, _, part = name.rpartition(".")
            if not module.endswith("output_dense"):
                self.state[f"student_ssl_model.{name}"] = tensor + 0.1 * torch.randn_like(tensor)
                continue
            self.state[f"student_ssl_model.{module}.base_layer.{part}"] = tensor + 0.1 * torch.randn_like(tensor)
            if part == "weight":
                self.lora |= {f"{module}.lora_A.default.weight": drawn(RANK, tensor.shape[1])}
                self.lora |= {f"{module}.lora_B.default.weight": drawn(tensor.shape[0], RANK)}
        plain = {name.removeprefix("student_ssl_model."): tensor for name, tensor in self.state.items()}
        self.student.load_state_dict({name.replace(".base_layer", ""): tensor for name, tensor in plain.items()})
        self.state |= {f"student_ssl_model.{name}": tensor for name, tensor in self.lora.items()}
        self.state["teacher_ssl_model.masked_spec_embed"] = torch.ones(DIM)
        self.weights: dict[str, Tensor] = {}
        self._add_decoder(channels)
        self.state |= {f"decoder.{name}": tensor for name, tensor in self.decoder_state.items()}
        self.state["discriminator.discriminator.discriminators.0.x"] = torch.ones(1)
        self.config: dict[str, Any] = {"ssl_model_name": str(encoder), "sample_rate": 50 * math.prod(factors)}

    def save(self, path: Path) -> Path:
        """Write the checkpoint."""
        cfg = OmegaConf.create(self.config)
        content = {"state_dict": self.state, "global_step": 9, "epoch": 1, "hyper_parameters": {"cfg": cfg}}
        torch.save(content, path)
        return path

    def features(self, frames: Tensor) -> Tensor:
        """Return the features of input frames, with LoRA beside the layers that it changes."""

        def add(module: str) -> Any:
            down, up = (self.lora[f"{module}.lora_{part}.default.weight"] for part in "AB")
            return lambda _, inputs, output: output + 16 / RANK * F.linear(F.linear(inputs[0], down), up)

        names = [name for name, _ in self.student.named_modules() if name.endswith("output_dense")]
        hooks = [self.student.get_submodule(name).register_forward_hook(add(name)) for name in names]
        with torch.no_grad():
            hidden = self.student(input_features=frames).last_hidden_state
        for hook in hooks:
            hook.remove()
        return hidden

    def decode(self, features: Tensor) -> Tensor:
        """Return the wave of features of one recording, as short as the source's."""
        hidden = self._conv("model.0", features.T[None], padding=3)
        for number, factor in enumerate(self.factors):
            base = f"model.{number + 1}.block"
            weight, bias = self.weights[f"{base}.1.weight"], self.weights[f"{base}.1.bias"]
            padding = math.ceil(factor / 2)
            hidden = F.conv_transpose1d(self._snake(f"{base}.0", hidden), weight, bias, stride=factor, padding=padding)
            for unit, dilation in enumerate((1, 3, 9)):
                inner = f"{base}.{unit + 2}.block"
                branch = self._snake(f"{inner}.0", hidden)
                branch = self._conv(f"{inner}.1", branch, padding=3 * dilation, dilation=dilation)
                hidden = hidden + self._conv(f"{inner}.3", self._snake(f"{inner}.2", branch))
        last = len(self.factors) + 1
        hidden = self._conv(f"model.{last + 1}", self._snake(f"model.{last}", hidden), padding=3)
        return torch.tanh(hidden)[0, 0]

    def _snake(self, name: str, hidden: Tensor) -> Tensor:
        alpha = self.weights[f"{name}.alpha"]
        return hidden + torch.sin(alpha * hidden) ** 2 / (alpha + 1e-9)

    def _conv(self, name: str, hidden: Tensor, **settings: int) -> Tensor:
        return F.conv1d(hidden, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **settings)

    def _add_decoder(self, channels: int) -> None:
        self.decoder_state: dict[str, Tensor] = {}
        self._add("model.0", channels, DIM, 7)
        for number, factor in enumerate(self.factors):
            base = f"model.{number + 1}.block"
            self._add_alpha(f"{base}.0", channels)
            self._add(f"{base}.1", channels, channels // 2, 2 * factor, bias=channels // 2)
            channels //= 2
            for unit in range(2, 5):
                self._add_alpha(f"{base}.{unit}.block.0", channels)
                self._add(f"{base}.{unit}.block.1", channels, channels, 7)
                self._add_alpha(f"{base}.{unit}.block.2", channels)
                self._add(f"{base}.{unit}.block.3", channels, channels, 1)
        last = len(self.factors) + 1
        self._add_alpha(f"model.{last}", channels)
        self._add(f"model.{last + 1}", 1, channels, 7)

    def _add(self, name: str, *shape: int, bias: int | None = None) -> None:
        weight, direction = drawn(*shape), drawn(*shape)
        scale = 0.5 * weight.flatten(1).norm(dim=1).view(-1, 1, 1)
        acting = direction * scale / direction.flatten(1).norm(dim=1).view(-1, 1, 1)
        self.weights |= {f"{name}.weight": acting, f"{name}.bias": 0.1 * torch.randn(bias or shape[0])}
        self.decoder_state |= {f"{name}.weight_g": scale, f"{name}.weight_v": direction}
        self.decoder_state[f"{name}.bias"] = self.weights[f"{name}.bias"]

    def _add_alpha(self, name: str, channels: int) -> None:
        self.weights[f"{name}.alpha"] = 0.5 + torch.rand(1, channels, 1)
        self.decoder_state[f"{name}.alpha"] = self.weights[f"{name}.alpha"]
