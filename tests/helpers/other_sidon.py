"""A tiny training checkpoint of Sidon, and plain functions of its weights, without our modules."""

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from omegaconf import OmegaConf
from other_vocoders import drawn
from torch import Tensor, nn

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


class LoraLinear(nn.Module):
    """A linear layer with LoRA beside it, as peft computes it."""

    def __init__(self, base: nn.Linear, down: Tensor, up: Tensor) -> None:
        super().__init__()
        self.base, self.down, self.up = base, nn.Parameter(down), nn.Parameter(up)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.base(hidden) + F.linear(F.linear(hidden, self.down), self.up) * (16 / RANK)


class JoinedLinear(nn.Module):
    """One of three linear layers that freezing for a GPU joins into one."""

    def __init__(self, weight: Tensor, bias: Tensor, place: int) -> None:
        super().__init__()
        self.weight, self.bias, self.place = nn.Parameter(weight), nn.Parameter(bias), place

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight, self.bias)[..., self.place * DIM : (self.place + 1) * DIM]


class DecoderModule(nn.Module):
    """The decoder as a module, with the activation that the source's library has."""

    def __init__(self, source: Sidon) -> None:
        super().__init__()
        self.factors = source.factors
        self.named = nn.ParameterDict({name.replace(".", "_"): each for name, each in source.weights.items()})

    def forward(self, features: Tensor) -> Tensor:
        hidden = self._conv("model.0", features, padding=3)
        for number, factor in enumerate(self.factors):
            base = f"model.{number + 1}.block"
            weight, bias = self._pair(f"{base}.1")
            hidden = self._snake(f"{base}.0", hidden)
            hidden = F.conv_transpose1d(hidden, weight, bias, stride=factor, padding=math.ceil(factor / 2))
            for unit, dilation in enumerate((1, 3, 9)):
                inner = f"{base}.{unit + 2}.block"
                settings = {"padding": 3 * dilation, "dilation": dilation}
                branch = self._conv(f"{inner}.1", self._snake(f"{inner}.0", hidden), **settings)
                hidden = hidden + self._conv(f"{inner}.3", self._snake(f"{inner}.2", branch))
        last = len(self.factors) + 1
        return torch.tanh(self._conv(f"model.{last + 1}", self._snake(f"model.{last}", hidden), padding=3))

    def _snake(self, name: str, hidden: Tensor) -> Tensor:
        alpha = self.named[f"{name}.alpha".replace(".", "_")]
        return hidden + (alpha + 1e-9).reciprocal() * torch.sin(alpha * hidden).pow(2)

    def _conv(self, name: str, hidden: Tensor, **settings: int) -> Tensor:
        weight, bias = self._pair(name)
        return F.conv1d(hidden, weight, bias, **settings)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        flat = name.replace(".", "_")
        return self.named[f"{flat}_weight"], self.named[f"{flat}_bias"]


def save_encoder_program(source: Sidon, path: Path, form: str = "beside") -> Path:
    """Save the encoder as its release does: frozen, with LoRA beside its layers, or merged, or with joined layers."""
    model = copy.deepcopy(source.student)
    for name, module in list(model.named_modules()):
        owner, _, last = name.rpartition(".")
        if last == "output_dense":
            down, up = (source.lora[f"{name}.lora_{part}.default.weight"] for part in "AB")
            if form == "merged":
                module.weight.data += 16 / RANK * up @ down
            else:
                setattr(model.get_submodule(owner), last, LoraLinear(module, down, up))
        elif last == "self_attn" and form == "joined":
            layers = [getattr(module, f"linear_{part}") for part in "qkv"]
            weight, bias = (torch.cat([getattr(each, kind).data for each in layers]) for kind in ("weight", "bias"))
            for place, part in enumerate("qkv"):
                setattr(module, f"linear_{part}", JoinedLinear(weight, bias, place))
    return _freeze(model, torch.randn(1, 20, 160), path)


def save_decoder_program(source: Sidon, path: Path) -> Path:
    """Save the decoder as its release does."""
    return _freeze(DecoderModule(source), torch.randn(1, DIM, 20), path)


def _freeze(model: nn.Module, example: Tensor, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer
        torch.jit.freeze(torch.jit.trace(model.eval(), example, strict=False)).save(path)
    return path
