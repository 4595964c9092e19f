"""Small random encoders of every family, saved by transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from miipher2.models.encoder.mini import build_mini_encoder

LAYERS = 3
DIM = 32
# 16 channels a group: with 6 (as of 24 in 4) oneDNN's bfloat16 convolution is wrong on CPUs that have AMX.
CONVOLUTIONS = {"conv_dim": [12] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "hubert_base": ("Hubert", CONVOLUTIONS),
    "hubert_large": ("Hubert", CONVOLUTIONS | LARGE),
    "wavlm_base": ("WavLM", CONVOLUTIONS),
    "wavlm_large": ("WavLM", CONVOLUTIONS | LARGE),
    "wav2vec2_base": ("Wav2Vec2", CONVOLUTIONS),
    "wav2vec2_large": ("Wav2Vec2", CONVOLUTIONS | LARGE | {"add_adapter": True}),
    "w2v_bert": ("Wav2Vec2Bert", {"conv_depthwise_kernel_size": 5, "add_adapter": True}),
    "w2v_bert_2": ("Wav2Vec2Bert", {}),  # as facebook/w2v-bert-2.0: relative keys, kernel 31, swish
    "mini": ("mini", {}),
}


def new_model(family: str) -> Any:
    """Return a random model of a family in which every weight has an effect, LayerNorms and biases too."""
    kind, settings = FAMILIES[family]
    torch.manual_seed(0)
    if kind == "mini":
        sizes = {"hidden_dim": DIM, "layers": LAYERS, "heads": 2, "intermediate_dim": 32, "kernel": 5, "mels": 20}
        model = build_mini_encoder(**sizes, mean=10.0, std=4.0, mirror=True)
    else:
        config = getattr(transformers, f"{kind}Config")(
            hidden_size=DIM, num_hidden_layers=LAYERS, num_attention_heads=2, intermediate_size=32, **settings
        )
        model = getattr(transformers, f"{kind}Model")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of a saved model of every family."""
    saved = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in saved.items():
        new_model(family).save_pretrained(folder)
    return saved


def new_waves(batch: int = 2, seconds: float = 1.0) -> torch.Tensor:
    return torch.randn(batch, round(16_000 * seconds), generator=torch.Generator().manual_seed(1)) * 0.1
