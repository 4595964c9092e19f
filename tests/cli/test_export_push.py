"""`miipher2 export --push`: a model card and an upload, to a local stand-in of the hub."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub.cli.hf import app as hf
from local_hub import LocalHub, local_hub
from tiny_checkpoints import Command
from tiny_weights import publish_all, wave

from miipher2.audio.io import write_audio
from miipher2.evaluation.evaluate import Evaluation, Row
from miipher2.evaluation.summary import Bootstrap, summarise, write_results

__all__ = ["local_hub"]  # a fixture

TRAINING = {"stage": "train_adapter", "step": 4000, "run_id": "run-1", "data_sha256": "d" * 64}
TRAINING |= {"code": {"commit": "c" * 40, "dirty": True}}
IMPORTED = {"kind": "adapters of the original", "file": "a.pt", "sha256": "f" * 64, "step": 199}
NC = "holds mHuBERT-147, which is cc-by-nc-sa-4.0: no commercial use"


@pytest.fixture
def export(tmp_path: Path, local_hub: LocalHub, miipher2: Command) -> Any:
    """Return `miipher2 export OUT` as a function of its further words."""
    publish_all(tmp_path, "mini", absolute=True)
    (tmp_path / "adapter/checkpoint_4k.json").write_text(json.dumps(TRAINING))
    weights = ["--adapter", tmp_path / "adapter", "--vocoder", tmp_path / "vocoder"]
    return lambda *words, out="bundle": miipher2("export", tmp_path / out, *weights, *words)


def import_adapter(tmp_path: Path) -> None:
    record = IMPORTED | {"licence": NC, "is_non_commercial": True}
    (tmp_path / "adapter/imported.json").write_text(json.dumps(record))


def card_of(hub: LocalHub) -> tuple[dict[str, Any], str]:
    _, metadata, text = hub.find("owner/name", "main")[1]["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(metadata), text


def test_a_pushed_bundle_restores_from_the_hub(
    export: Any, tmp_path: Path, local_hub: LocalHub, miipher2: Command
) -> None:
    result = export("--push", "owner/name", "--license", "cc-by-4.0", "--private")
    assert result.code == 0, result.error
    revision, files = local_hub.find("owner/name", "main")
    assert f"pushed to {local_hub.url}/owner/name/commit/{revision}" in result.out
    assert f"--bundle owner/name@{revision}" in result.out
    assert local_hub.private == {"owner/name"}
    local = {path for path in (tmp_path / "bundle").rglob("*") if path.is_file()}
    assert {"bundle.json", "weights.safetensors", "encoder/model.safetensors", "README.md"} < files.keys()
    assert all(files[path.relative_to(tmp_path / "bundle").as_posix()] == path.read_bytes() for path in local)
    write_audio(tmp_path / "in.wav", wave(8_000), 16_000)
    for out, bundle in (("a.wav", tmp_path / "bundle"), ("b.wav", f"owner/name@{revision}")):
        assert miipher2("restore", tmp_path / "in.wav", tmp_path / out, "--bundle", bundle).code == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_the_card_says_what_it_is_and_what_it_was_made_from(export: Any, local_hub: LocalHub) -> None:
    assert export("--push", "owner/name", "--license", "cc-by-4.0").code == 0
    metadata, text = card_of(local_hub)
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["library_name"] == "miipher2"
    assert "base_model" not in metadata  # its encoder is a folder
    assert "speech-restoration" in metadata["tags"]
    assert "uv run miipher2 restore noisy.wav clean.wav --bundle owner/name@main" in text
    assert "stage train_adapter, 4000 steps, run `run-1`" in text
    assert f"commit `{'c' * 40}`, with changes that are in no commit" in text
    assert f"data: sha256 `{'d' * 64}`" in text
    assert "its training is not recorded" in text  # the vocoder's
    assert "Nothing was measured" in text
    assert "commercial" not in text.lower()
    assert "not recorded" not in text.replace("its training is not recorded", "")
    assert "\n\n\n" not in text


def test_the_card_has_the_figures_of_an_evaluation(export: Any, tmp_path: Path, local_hub: LocalHub) -> None:
    rows = (Row("u", 1.0, {"estoi/degraded": 0.75, "estoi/restored": 0.5}),)
    write_results(tmp_path, summarise(Evaluation(rows, ("restored",), 16_000, {}), Bootstrap(50, 0.95, 0)))
    results = tmp_path / "evaluate_table.csv"
    assert export("--push", "owner/name", "--license", "mit", "--results", results).code == 0
    text = card_of(local_hub)[1]
    assert "| ESTOI ↑ | 1 | – | 0.750 (0.750 to 0.750) | 0.500" in text
    assert "Nothing was measured" not in text


def test_a_licence_without_commercial_use_is_taken_over_and_said_first(
    export: Any, tmp_path: Path, local_hub: LocalHub
) -> None:
    import_adapter(tmp_path)
    result = export("--push", "owner/name")
    assert result.code == 0, result.error
    metadata, text = card_of(local_hub)
    assert metadata["license"] == "cc-by-nc-sa-4.0"
    assert text.split("\n\n")[1] == f"**No commercial use**: the adapter ({NC})."
    assert f"- adapter: **no commercial use**; {NC}" in text
    assert "imported: adapters of the original, file `a.pt`, step 199" in text
    result = export("--push", "owner/name", "--license", "mit", out="other")
    assert (result.code, "--license mit: allows commercial use" in result.error) == (2, True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--push", "name", "--license", "mit"], "--push name: should be owner/name"),
        (["--push", "owner/name@main", "--license", "mit"], "--push owner/name@main: should be owner/name"),
        (["--push", "owner/a--b", "--license", "mit"], "--push owner/a--b: should be owner/name"),
        (["--push", "owner/name"], "--push: --license is missing"),
        (["--push", "owner/name", "--license", "My licence"], "--license 'My licence': should be an id"),
        (["--push", "owner/name", "--license", "mit", "--results", "none.csv"], "none.csv: missing"),
        (["--license", "mit"], "--license: is for the hub"),
        (["--private"], "--private: is for the hub"),
    ],
)
def test_bad_options_are_one_line_before_anything_is_written(
    words: list[str], message: str, export: Any, tmp_path: Path, local_hub: LocalHub
) -> None:
    result = export(*words)
    assert (result.code, message in result.error) == (2, True), result.error
    assert len(result.error.splitlines()) == 1
    assert not (tmp_path / "bundle").exists()
    assert not local_hub.commits


def test_results_of_another_form_are_one_line(export: Any, tmp_path: Path) -> None:
    for text, message in (("a,b\n1,2\n", "has no column count"), ("", "has no column count")):
        (tmp_path / "table.csv").write_text(text)
        result = export("--push", "owner/name", "--license", "mit", "--results", tmp_path / "table.csv")
        assert (result.code, message in result.error) == (2, True), result.error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("token", "message"),
    [("", "there is no token of the Hugging Face hub; log in with"), ("hf_another", "does not accept the token")],
)
def test_who_is_not_logged_in_is_told_before_anything_is_written(
    token: str, message: str, export: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    result = export("--push", "owner/name", "--license", "mit")
    assert (result.code, message in result.error) == (2, True), result.error
    assert not (tmp_path / "bundle").exists()


def test_a_hub_that_is_down_is_told_before_anything_is_there(export: Any, tmp_path: Path, local_hub: LocalHub) -> None:
    local_hub.stop()
    result = export("--push", "owner/name", "--license", "mit")
    assert (result.code, "--push owner/name: the hub cannot be reached" in result.error) == (2, True), result.error
    assert not (tmp_path / "bundle").exists()


def test_a_failed_upload_leaves_the_bundle_and_the_command_that_it_prints_pushes_it(
    export: Any, tmp_path: Path, local_hub: LocalHub
) -> None:
    stale = {"discriminators.safetensors": b"of an earlier vocoder", "notes.txt": b"the user's"}
    local_hub.add("owner/name", stale)
    local_hub.refuses_commits = True
    result = export("--push", "owner/name", "--license", "mit")
    assert (result.code, "bundle is whole, but was not pushed to owner/name (403" in result.error) == (2, True)
    assert len(result.error.splitlines()) == 1
    assert {"README.md", "bundle.json", "weights.safetensors"} < {each.name for each in (tmp_path / "bundle").iterdir()}
    local_hub.refuses_commits = False
    words = shlex.split(result.error.split("push it again: ")[1])
    assert words[:3] == ["uv", "run", "hf"]
    hf.main(words[3:], prog_name="hf", standalone_mode=False)
    files = local_hub.find("owner/name", "main")[1]
    assert files["weights.safetensors"] == (tmp_path / "bundle/weights.safetensors").read_bytes()
    assert "notes.txt" in files
    assert "discriminators.safetensors" not in files


def test_someone_elses_repository_is_one_line(export: Any, tmp_path: Path) -> None:
    result = export("--push", "another/name", "--license", "mit")
    assert (result.code, "You don't have the rights" in result.error) == (2, True), result.error
    assert (tmp_path / "bundle/bundle.json").is_file()
