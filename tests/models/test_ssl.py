"""The frozen encoder, over small models made from configs, saved as transformers writes them, and loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file

from miipher2.models.front_end import log_mel_front_end
from miipher2.models.mini import new_mini_encoder
from miipher2.models.pretrained import EncoderUnavailableError, load_encoder
from miipher2.models.ssl import SpeechEncoder

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
    """Return a random model of a family whose every weight matters, LayerNorms and zeroed biases too."""
    kind, settings = FAMILIES[family]
    torch.manual_seed(0)
    if kind == "mini":
        sizes = {"hidden_dim": DIM, "layers": LAYERS, "heads": 2, "intermediate_dim": 32, "kernel": 5, "mels": 20}
        model = new_mini_encoder(**sizes, mean=10.0, std=4.0, mirror=True)
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
    """Return a saved full model of every family."""
    saved = {family: tmp_path_factory.mktemp(family) for family in FAMILIES}
    for family, folder in saved.items():
        new_model(family).save_pretrained(folder)
    return saved


def new_waves(batch: int = 2, seconds: float = 1.0) -> torch.Tensor:
    return torch.randn(batch, round(16_000 * seconds), generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_encoder_gives_the_hidden_states_of_the_full_model(family: str, folders: dict[str, Path]) -> None:
    waves, full = new_waves(), new_model(family)
    if FAMILIES[family][0] in ("mini", "Wav2Vec2Bert"):
        heard = log_mel_front_end(full.config)(waves)
    else:
        heard = F.pad(waves, (40, 40))
    with torch.no_grad():
        hidden_states = full(heard, output_hidden_states=True).hidden_states
    for layer in range(1, LAYERS + 1):
        encoder = load_encoder(folders[family], layer)
        assert (encoder.layers, encoder.dim, len(encoder.encoder.layers)) == ((layer,), DIM, layer)
        torch.testing.assert_close(encoder(waves), hidden_states[layer], atol=1e-5, rtol=0)
        assert not torch.allclose(encoder(waves), hidden_states[layer - 1], atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_several_layers_give_their_features_side_by_side(family: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders[family], [1, LAYERS])
    waves, counts = new_waves(), torch.tensor([50, 31])
    assert (encoder.layers, encoder.dim, len(encoder.encoder.layers)) == ((1, LAYERS), 2 * DIM, LAYERS)
    alone = [load_encoder(folders[family], layer)(waves, counts) for layer in (1, LAYERS)]
    torch.testing.assert_close(encoder(waves, counts), torch.cat(alone, -1), atol=1e-5, rtol=0)
    encoder.add_adapters(8)
    torch.testing.assert_close(encoder(waves, counts, adapted=True), torch.cat(alone, -1), atol=1e-5, rtol=0)
    for parameter in encoder.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    moved = encoder(waves, counts, adapted=True) - encoder(waves, counts)
    assert all(part.norm() > 0.1 for part in moved[0].split(DIM, -1))  # both hear the adapters


@pytest.mark.parametrize("layer", [[], [0, 1], [2, 1], [1, 1], [1, True]])
def test_what_names_no_layers_is_refused(layer: Any, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=r"should be a number from 1, or several, ascending"):
        load_encoder(folders["mini"], layer)


def test_w2v_bert_2_hears_what_its_own_extractor_makes(folders: dict[str, Path]) -> None:
    """From the wave to the layer, padded batch and all, as transformers runs facebook/w2v-bert-2.0."""
    full, extractor = new_model("w2v_bert_2"), transformers.SeamlessM4TFeatureExtractor(padding_value=1)
    assert (full.config.position_embeddings_type, full.config.conv_depthwise_kernel_size) == ("relative_key", 31)
    waves, counts = new_waves(2), [50, 31]
    # Its frames begin where a window fits: 120 values on each side make as many as the wave has.
    heard = [np.pad(wave[: count * 320].numpy(), (120, 120)) for wave, count in zip(waves, counts, strict=True)]
    given = extractor(heard, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = full(**given, output_hidden_states=True).hidden_states[2]
    found = load_encoder(folders["w2v_bert_2"], 2)(waves, torch.tensor(counts))
    for row, count in enumerate(counts):
        torch.testing.assert_close(found[row, :count], expected[row, :count], atol=2e-3, rtol=0)


def test_attention_is_fused_where_the_model_allows_it(folders: dict[str, Path]) -> None:
    for family in ("hubert_base", "hubert_large", "wav2vec2_base", "w2v_bert_2"):
        assert load_encoder(folders[family], 1).encoder.config._attn_implementation == "miipher2_sdpa"
    assert load_encoder(folders["wavlm_base"], 1).encoder.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_second_gives_fifty_frames(family: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders[family], 1)
    for samples, frames in ((320, 1), (16_000, 50), (19_840, 62), (16_001, 51), (1, 1)):
        assert encoder(torch.randn(1, samples)).shape == (1, frames, DIM)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_alone_equals_the_file_in_a_padded_batch(family: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders[family], LAYERS)
    encoder.add_adapters(8)
    for parameter in encoder.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    waves = new_waves(3, 1.2)  # what follows the valid part is noise, and must not be heard
    frames = torch.tensor([23, 60, 31])
    for adapted in (False, True):
        batch = encoder(waves, frames, adapted)
        for row, count in enumerate(frames.tolist()):
            alone = encoder(waves[row : row + 1, : count * 320], adapted=adapted)
            torch.testing.assert_close(batch[row : row + 1, :count], alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_bf16_gives_nearly_the_same_features(family: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders[family], LAYERS)
    encoder.add_adapters(8)
    frames = torch.tensor([50, 20])
    expected = encoder(new_waves(), frames)[:, :20]
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(new_waves(), frames, adapted=True)[:, :20].float()
        encoder.hold_frozen_in(torch.bfloat16)
        held = encoder(new_waves(), frames, adapted=True)[:, :20].float()
    assert torch.equal(held, found)
    assert (found - expected).norm() < 0.05 * expected.norm()
    held.square().mean().backward()
    assert all(parameter.grad is not None for parameter in encoder.adapters.parameters())


def test_full_rows_need_no_mask(folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders["mini"], 1)
    embedded = encoder.embed(new_waves(), torch.tensor([50, 50]))
    assert embedded.valid is None
    partly = encoder.embed(new_waves(), torch.tensor([50, 20]))
    assert partly.valid is not None
    assert partly.valid.sum(1).tolist() == [50, 20]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_embedding_serves_both_passes(family: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders[family], 2)
    encoder.add_adapters(8)
    embedded = encoder.embed(new_waves(), torch.tensor([50, 20]))
    before = embedded.hidden.clone()
    frozen = encoder.contextualise(embedded, adapted=False)
    assert torch.equal(embedded.hidden, before)
    assert not frozen.requires_grad
    with torch.no_grad():  # with gradients another attention kernel runs, and the last bits differ
        assert torch.equal(encoder.contextualise(embedded, adapted=True), frozen)


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_stays_in_eval_and_draws_no_chance(family: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders[family], LAYERS)
    torch.nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules())
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = encoder(new_waves())
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002
    assert torch.equal(encoder(new_waves()), first)


def test_wave_is_normalised_where_the_model_was_trained_so(folders: dict[str, Path], tmp_path: Path) -> None:
    new_model("hubert_large").save_pretrained(tmp_path)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(tmp_path)
    waves = new_waves(1) * 3 + 0.2
    heard = torch.from_numpy(extractor(waves[0].numpy(), sampling_rate=16_000)["input_values"][0])[None]
    expected = load_encoder(folders["hubert_large"], 2)(heard)
    torch.testing.assert_close(load_encoder(tmp_path, 2)(waves), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(load_encoder(folders["hubert_large"], 2)(waves), expected, atol=1e-2)
    longer = torch.cat([waves, new_waves(1)], 1)
    alone = load_encoder(tmp_path, 2)(longer, torch.tensor([50]))
    torch.testing.assert_close(alone[:, :50], expected, atol=1e-4, rtol=0)


def test_digest_is_of_the_kept_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    digest = load_encoder(folders["hubert_base"], 2).digest
    again = load_encoder(folders["hubert_base"], 2)
    again.add_adapters(4)
    assert again.digest == digest
    assert load_encoder(folders["hubert_base"], 1).digest != digest
    for name, changes in (("encoder.layers.0.layer_norm.bias", True), ("encoder.layers.2.layer_norm.bias", False)):
        model = new_model("hubert_base")
        with torch.no_grad():
            model.get_parameter(name)[0] += 1
        model.save_pretrained(tmp_path)
        assert (load_encoder(tmp_path, 2).digest != digest) == changes


def test_frozen_statistics_are_part_of_the_digest(tmp_path: Path, folders: dict[str, Path]) -> None:
    model = new_model("mini")
    model.config.miipher2_front_end["mean"] = 11.0
    model.save_pretrained(tmp_path)
    assert load_encoder(tmp_path, 1).digest != load_encoder(folders["mini"], 1).digest


@pytest.mark.parametrize("layer", [LAYERS + 1, [1, LAYERS + 1]])
def test_layer_the_model_does_not_have_is_named(layer: Any, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match=rf"{folders['hubert_base']} has 3 layers; layer 4 should be"):
        load_encoder(folders["hubert_base"], layer)


@pytest.mark.parametrize("name", ["utter-project/mHuBERT-147", "models/no/such/folder"])
def test_name_that_cannot_be_had_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(EncoderUnavailableError, match=f"^{name}: no encoder there"):
        load_encoder(name, 4)


def test_folder_without_weights_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailableError, match=str(tmp_path)):
        load_encoder(tmp_path, 1)
    (tmp_path / "config.json").write_text((folders["mini"] / "config.json").read_text())
    with pytest.raises(EncoderUnavailableError, match=str(tmp_path)):
        load_encoder(tmp_path, 1)


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match="model_type 'bert'; should be one of hubert, wavlm, wav2vec2, wav2vec2-bert"):
        load_encoder(tmp_path, 1)


def test_missing_weight_is_an_error_and_not_a_random_one(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((folders["mini"] / "config.json").read_text())
    weights = load_file(folders["mini"] / "model.safetensors")
    del weights["encoder.layers.0.ffn1_layer_norm.bias"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"has no encoder.layers.0.ffn1_layer_norm.bias \(1 missing\)"):
        load_encoder(tmp_path, 1)


def test_batch_that_cannot_be_heard_is_refused(folders: dict[str, Path]) -> None:
    encoder: SpeechEncoder = load_encoder(folders["mini"], 1)
    for counts, text in (([0, 50], "from 0 to 50"), ([50, 51], "from 50 to 51")):
        with pytest.raises(ValueError, match=f"valid_frames {text}; should be from 1 to 50"):
            encoder(new_waves(), torch.tensor(counts))
    with pytest.raises(ValueError, match="0 samples"):
        encoder(torch.zeros(2, 0))
