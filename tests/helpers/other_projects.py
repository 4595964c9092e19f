"""Tiny checkpoints as other projects' code writes them, and plain functions of their weights, without our modules."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from omegaconf import OmegaConf
from torch import Tensor

DIM, LAYERS, HIDDEN = 32, 2, 6  # of the encoder, the adapters, their bottleneck
SIZES = {"hidden_size": DIM, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24}
CONVOLUTIONS = {"conv_dim": [8] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "hubert": ("Hubert", {}),
    "hubert_stable": ("Hubert", STABLE),
    "wavlm": ("WavLM", {}),
    "wav2vec2": ("Wav2Vec2", {}),
}


def save_encoder(folder: Path, name: str) -> None:
    """Save the encoder that a checkpoint was trained from, whose preprocessor normalises the wave."""
    family, settings = ENCODERS[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**SIZES, **CONVOLUTIONS, **settings)
    getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def drawn(shape: tuple[int, ...], scale: float = 0.3) -> Tensor:
    return scale * torch.randn(shape)


class Original:
    """An adapter checkpoint of the original Miipher-2 code.

    Args:
        encoder: the folder that `save_encoder` wrote.
        wired_tensors: tensors of the optimizer for each adapter.
        older: names of the extractor and of weight norm as before July 2025 and PyTorch 2.0.
    """

    def __init__(self, encoder: Path, *, wired_tensors: int = 8, older: bool = False) -> None:
        torch.manual_seed(1)
        config = transformers.AutoConfig.from_pretrained(encoder).to_dict()
        config.pop("model_type")
        self.hubert = transformers.HubertModel(transformers.HubertConfig(**config)).eval()
        with torch.no_grad():
            for parameter in self.hubert.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        shapes = {"0": (DIM,), "1": (HIDDEN, DIM), "3": (DIM, HIDDEN)}
        self.adapters = {
            f"adapters.{layer}.ff.{part}.{kind}": drawn(shape if kind == "weight" else shape[:1], 0.4)
            for layer in range(LAYERS)
            for part, shape in shapes.items()
            for kind in ("weight", "bias")
        }
        names = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        prefix = "extractor.hubert." if older else "extractor.model."
        state = {prefix + name: tensor for name, tensor in self.hubert.state_dict().items()}
        if older:
            for new, old in names.items():
                state = {name.replace(new, old): tensor for name, tensor in state.items()}
        self.state = {**state, **self.adapters}
        settings = {"model": {"hubert_model_name": str(encoder), "hubert_layer": 6, "adapter_hidden_dim": HIDDEN}}
        count = wired_tensors * LAYERS
        self.content: dict[str, Any] = {
            "step": 199_000,
            "model_state_dict": self.state,
            "optimizer_state_dict": {
                "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}},
                "param_groups": [{"lr": 1e-4, "params": list(range(count))}],
            },
            "scheduler_state_dict": {"last_epoch": 3},
            "wandb_run_id": "abc",
            "config": dict(OmegaConf.create(settings)),
            "random_states": {
                "python": random.getstate(),
                "numpy": np.random.get_state(),  # noqa: NPY002
                "torch": torch.get_rng_state(),
            },
        }

    def train(self, steps: int = 3) -> torch.optim.AdamW:
        """Train the layer norms and the adapters with random gradients, as the checkpoint then says; return AdamW."""
        norms = [
            f"extractor.model.encoder.layers.{layer}.final_layer_norm.{kind}"
            for layer in range(LAYERS)
            for kind in ("weight", "bias")
        ]
        self.trained = {name: torch.nn.Parameter(self.state[name].clone()) for name in [*norms, *self.adapters]}
        optimizer = torch.optim.AdamW(self.trained.values(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.02)
        for _ in range(steps):
            for parameter in self.trained.values():
                parameter.grad = torch.randn_like(parameter)
            optimizer.step()
        self.state |= {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self.content |= {"model_state_dict": self.state, "optimizer_state_dict": optimizer.state_dict()}
        return optimizer

    def features(self, wave: Tensor) -> Tensor:
        """Return the cleaned features of a wave as the original computes them, padded as we do."""
        hooks = [
            layer.feed_forward.register_forward_hook(self._adapt(number))
            for number, layer in enumerate(self.hubert.encoder.layers[:LAYERS])
        ]
        with torch.no_grad():
            states = self.hubert(F.pad(wave, (40, 40)), output_hidden_states=True).hidden_states
        for hook in hooks:
            hook.remove()
        return states[LAYERS]

    def _adapt(self, number: int) -> Callable[..., Tensor]:
        def weights(part: int) -> tuple[Tensor, Tensor]:
            return tuple(self.adapters[f"adapters.{number}.ff.{part}.{kind}"] for kind in ("weight", "bias"))  # type: ignore[return-value]

        def hook(module: Any, inputs: Any, output: Tensor) -> Tensor:
            hidden = F.layer_norm(inputs[0], (DIM,), *weights(0))
            return output + F.linear(F.gelu(F.linear(hidden, *weights(1))), *weights(3))

        return hook


def relative_difference(found: Any, expected: Any) -> float:
    """Return the largest difference, relative to the largest value."""
    found, expected = torch.as_tensor(found), torch.as_tensor(expected)
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())
