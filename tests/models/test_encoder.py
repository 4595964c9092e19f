"""The frozen encoder on small random models of every family, saved by transformers and loaded again."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from small_encoders import DIM, FAMILIES, LAYERS, folders, new_model, new_waves

from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.encoder.logmel_frontend import log_mel_front_end

__all__ = ["folders"]


@pytest.mark.parametrize("family", FAMILIES)
def test_cut_encoder_gives_the_hidden_states_of_the_full_model(family: str, folders: dict[str, Path]) -> None:
    waves, full = new_waves(), new_model(family)
    if FAMILIES[family][0] in ("mini", "Wav2Vec2Bert"):
        inputs = log_mel_front_end(full.config)(waves)
    else:
        inputs = F.pad(waves, (40, 40))
    with torch.no_grad():
        hidden_states = full(inputs, output_hidden_states=True).hidden_states
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
    assert all(part.norm() > 0.1 for part in moved[0].split(DIM, -1))  # the adapters affect both


def test_w2v_bert_2_equals_transformers_from_the_wave_on(folders: dict[str, Path]) -> None:
    """Also in a padded batch, as transformers runs facebook/w2v-bert-2.0."""
    full, extractor = new_model("w2v_bert_2"), transformers.SeamlessM4TFeatureExtractor(padding_value=1)
    assert (full.config.position_embeddings_type, full.config.conv_depthwise_kernel_size) == ("relative_key", 31)
    waves, counts = new_waves(2), [50, 31]
    # Its frames begin where a window fits: 120 values on each side make as many as the wave has.
    inputs = [np.pad(wave[: count * 320].numpy(), (120, 120)) for wave, count in zip(waves, counts, strict=True)]
    extracted = extractor(inputs, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        expected = full(**extracted, output_hidden_states=True).hidden_states[2]
    features = load_encoder(folders["w2v_bert_2"], 2)(waves, torch.tensor(counts))
    for row, count in enumerate(counts):
        torch.testing.assert_close(features[row, :count], expected[row, :count], atol=2e-3, rtol=0)


def test_attention_is_fused_where_the_model_supports_it(folders: dict[str, Path]) -> None:
    for family in ("hubert_base", "hubert_large", "wav2vec2_base"):
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
    waves = new_waves(3, 1.2)  # noise after the valid part must have no effect
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
        features = encoder(new_waves(), frames, adapted=True)[:, :20].float()
        encoder.cast_frozen_weights(torch.bfloat16)
        held = encoder(new_waves(), frames, adapted=True)[:, :20].float()
    assert torch.equal(held, features)
    assert (features - expected).norm() < 0.05 * expected.norm()
    held.square().mean().backward()
    assert all(parameter.grad is not None for parameter in encoder.adapters.parameters())


def test_full_rows_need_no_mask(folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders["mini"], 1)
    embedded = encoder.extract_frames(new_waves(), torch.tensor([50, 50]))
    assert embedded.valid is None
    partly = encoder.extract_frames(new_waves(), torch.tensor([50, 20]))
    assert partly.valid is not None
    assert partly.valid.sum(1).tolist() == [50, 20]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_frozen_and_the_adapted_pass_share_their_frames(family: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders[family], 2)
    encoder.add_adapters(8)
    embedded = encoder.extract_frames(new_waves(), torch.tensor([50, 20]))
    before = embedded.hidden.clone()
    frozen = encoder.encode_frames(embedded, adapted=False)
    assert torch.equal(embedded.hidden, before)
    assert not frozen.requires_grad
    with torch.no_grad():  # with gradients another attention kernel runs, and the last bits differ
        assert torch.equal(encoder.encode_frames(embedded, adapted=True), frozen)


@pytest.mark.parametrize("family", FAMILIES)
def test_encoder_stays_in_eval_and_draws_no_random_numbers(family: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(folders[family], LAYERS)
    torch.nn.ModuleList([encoder]).train()
    assert not any(module.training for module in encoder.modules())
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = encoder(new_waves())
    assert torch.equal(torch.get_rng_state(), torch_before)
    assert np.random.get_state()[1].tolist() == numpy_before  # noqa: NPY002
    assert torch.equal(encoder(new_waves()), first)


def test_wave_is_normalised_if_the_model_was_trained_so(folders: dict[str, Path], tmp_path: Path) -> None:
    new_model("hubert_large").save_pretrained(tmp_path)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True)
    extractor.save_pretrained(tmp_path)
    waves = new_waves(1) * 3 + 0.2
    inputs = torch.from_numpy(extractor(waves[0].numpy(), sampling_rate=16_000)["input_values"][0])[None]
    expected = load_encoder(folders["hubert_large"], 2)(inputs)
    torch.testing.assert_close(load_encoder(tmp_path, 2)(waves), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(load_encoder(folders["hubert_large"], 2)(waves), expected, atol=1e-2)
    longer = torch.cat([waves, new_waves(1)], 1)
    alone = load_encoder(tmp_path, 2)(longer, torch.tensor([50]))
    torch.testing.assert_close(alone[:, :50], expected, atol=1e-4, rtol=0)


def test_empty_waves_and_wrong_counts_are_errors(folders: dict[str, Path]) -> None:
    encoder: SpeechEncoder = load_encoder(folders["mini"], 1)
    for counts, text in (([0, 50], "from 0 to 50"), ([50, 51], "from 50 to 51")):
        with pytest.raises(ValueError, match=f"valid_frames {text}; should be from 1 to 50"):
            encoder(new_waves(), torch.tensor(counts))
    with pytest.raises(ValueError, match="0 samples"):
        encoder(torch.zeros(2, 0))
