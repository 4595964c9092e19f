"""Licences of imported weights, which go with every run that starts from them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from other_projects import HIDDEN, Original, save_encoder
from other_vocoders import SslVocoder
from tiny_checkpoints import Command

from miipher2.config.paths import ROOT
from miipher2.inference.bundle import save_bundle
from miipher2.inference.hub import choose_licence, make_card
from miipher2.inference.licences import licences_of_lineage
from miipher2.inference.restorer import Restorer
from miipher2.inference.weights import load_published
from miipher2.models.pretrained import PretrainedWeights, licences_of_start


def test_licence_goes_with_every_run_that_starts_there(
    tmp_path: Path, miipher2: Command, stages: Any, workspace: Path
) -> None:
    save_encoder(tmp_path / "mHuBERT-147", "hubert")
    torch.save(Original(tmp_path / "mHuBERT-147").content, tmp_path / "adapter.pt")
    path = SslVocoder(16_000, (8, 5, 4, 2)).save(tmp_path / "vocoder.ckpt")
    out = tmp_path / "out"
    assert miipher2("import", out, "--adapter", tmp_path / "adapter.pt", "--vocoder", path).code == 0
    words = [
        *("--config-name=adapter_mini", "steps=2", "batch_size=2", "validation_batches=1", "data.crop_seconds=0.4"),
        *("wandb.mode=disabled", "loader.num_workers=0", "runtime.threads=1", "checkpoint.save_interval=1"),
        *(f"model.hubert_model_name={out}/encoder", "model.hubert_layer=2", f"model.adapter_hidden_dim={HIDDEN}"),
    ]
    first = stages.run("train_adapter", *words, "name=licensed", f"init_from.adapter={out}/adapter")
    assert first.code == 0, first.output
    second = stages.run("train_adapter", *words, "name=heir", "init_from.adapter=exp/licensed/published")
    assert second.code == 0, second.output
    published = workspace / "exp/heir/published"
    described = json.loads((published / "checkpoint_2.json").read_text())
    of_encoder, licence = described["licences"]
    assert all(each["is_non_commercial"] is True for each in (of_encoder, licence))
    assert of_encoder["of"] == "encoder (in adapter.pt)"
    assert licence["of"] == "adapters of the original Miipher-2 code (adapter.pt)"
    weights = load_published(published, out / "vocoder", workspace)
    found = licences_of_lineage(weights.lineage)
    assert [(part, excludes) for part, _, excludes in found] == [("adapter", True)] * 2 + [("vocoder", False)]
    assert found[0][1].startswith("started from encoder (in adapter.pt): holds mHuBERT-147")
    assert found[1][1].startswith(
        "started from adapters of the original Miipher-2 code (adapter.pt): holds mHuBERT-147"
    )
    assert choose_licence(None, weights.lineage) == "cc-by-nc-sa-4.0"
    with pytest.raises(ValueError, match="--license mit: allows commercial use"):
        choose_licence("mit", weights.lineage)
    card = make_card(weights, "owner/name", "cc-by-nc-sa-4.0", None, precision="fp32", encoder="include")
    assert "**No commercial use**: the adapter (started from encoder (in adapter.pt): holds" in card
    save_bundle(weights, tmp_path / "bundle", precision="fp32", encoder_from=str(out / "encoder"))
    lineage = Restorer.from_bundle(tmp_path / "bundle").weights.lineage
    assert lineage["adapter"]["training"]["licences"] == described["licences"]
    start_there = {"adapter": str(tmp_path / "bundle"), "vocoder": str(out / "vocoder"), "discriminators": None}
    licences = licences_of_start("", start_there, ROOT)
    assert [each["is_non_commercial"] for each in licences] == [True, True, False]
    assert licences[:2] == [of_encoder, licence]
    assert licences_of_start(f"{out}/encoder", {}, ROOT) == [of_encoder]


def test_the_licence_of_an_encoder_that_comes_with_a_vocoder_is_said_and_carried(
    tmp_path: Path, miipher2: Command
) -> None:
    save_encoder(tmp_path / "mHuBERT-147", "hubert")
    path, out = SslVocoder(16_000, (8, 5, 4, 2)).save(tmp_path / "vocoder.ckpt"), tmp_path / "out"
    result = miipher2("import", out, "--vocoder", path, "--encoder", tmp_path / "mHuBERT-147")
    assert f"{out}/encoder\n  NO COMMERCIAL USE: mHuBERT-147 is cc-by-nc-sa-4.0\n" in result.out
    (licence,) = licences_of_start(str(out / "encoder"), {}, ROOT)
    assert (licence["licence"], licence["is_non_commercial"]) == ("mHuBERT-147 is cc-by-nc-sa-4.0", True)
    (out / "encoder/imported.json").write_text("{")
    with pytest.raises(ValueError, match=r"encoder/imported.json: damaged \(.*\); should be what `miipher2 import`"):
        licences_of_start(str(out / "encoder"), {}, ROOT)


def test_own_weights_have_no_licence_to_carry() -> None:
    assert PretrainedWeights("init_from.adapter", "models/mini/restorer", ROOT).licences == []
    assert licences_of_start("", {"adapter": None}, ROOT) == []
