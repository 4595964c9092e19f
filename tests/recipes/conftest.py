"""Tiny encoders that the recipes' tests share."""

from pathlib import Path

import pytest
import torch
from transformers import HubertConfig, HubertModel

from miipher2.models.encoder.mini import build_mini_encoder


@pytest.fixture(scope="module", params=["mini", "hubert"])
def encoder_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder in a local folder: a w2v-BERT 2.0 form, and a HuBERT."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "mini":
        sizes = {"hidden_dim": 16, "layers": 2, "heads": 2, "intermediate_dim": 32, "kernel": 5, "mels": 20}
        build_mini_encoder(**sizes, mean=0.0, std=5.0, mirror=True).save_pretrained(folder)
    else:
        config = HubertConfig(
            hidden_size=16,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=32,
            conv_dim=[16] * 7,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=1,
        )
        HubertModel(config).save_pretrained(folder)
    return folder
