"""`miipher2 degrade`: recordings in, recordings with the degradations of training out, and a table of these."""

import csv
from pathlib import Path

import numpy as np
import pytest
from data_configs import prepare_folder
from tiny_checkpoints import Command

from miipher2.audio.io import read_audio, write_audio
from miipher2.audio.resample import resample
from miipher2.config.paths import ROOT
from miipher2.data.degradations.chain import TRANSFORMS, Degradation, apply
from miipher2.data.prepared import PreparedData
from miipher2.rng import stream


def make_speech(seed: int, seconds: float = 0.5, rate_hz: int = 16_000) -> np.ndarray:
    wave = stream(seed, "noise").uniform(-0.3, 0.3, round(seconds * rate_hz))
    return (wave * np.sin(np.linspace(0, 20, len(wave))) ** 2).astype(np.float32)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of prepared data."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "speech").mkdir()
    for index in range(6):
        write_audio(folder / f"speech/{index}.wav", make_speech(index), 16_000)
    prepare_folder(folder / "speech", folder / "prepared", ROOT, seed=0, noise_files=6, rooms=6)
    return folder / "prepared"


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    write_audio(folder / "a.wav", make_speech(20), 16_000)
    write_audio(folder / "deep/b.flac", make_speech(21, rate_hz=24_000), 24_000)
    write_audio(folder / "deep/c.ogg", make_speech(22), 16_000)
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_tree_is_degraded_at_16_khz_as_the_table_lists(
    recordings: Path, prepared: Path, tmp_path: Path, miipher2: Command
) -> None:
    out = tmp_path / "out"
    result = miipher2("degrade", recordings, out, "--config", "wide", "--prepared", prepared)
    assert result.code == 0, result.error
    assert "3 of 3 degraded" in result.out
    rows = table(out / "degradations.csv")
    assert [Path(row["degraded"]).relative_to(out).as_posix() for row in rows] == ["a.wav", "deep/b.flac", "deep/c.wav"]
    pools = PreparedData.read(ROOT, str(prepared)).pools(ROOT, "test")
    for row in rows:
        wave, rate_hz = read_audio(row["file"])
        clean = resample(wave, rate_hz, 16_000)
        if "babble" in row["degradations"].split():
            continue  # a table cell does not represent its tuples
        values: dict[str, dict] = {name: {} for name in row["degradations"].split()}
        for key, text in row.items():
            name, _, field = key.partition(".")
            if name in values and field != "file":
                parse = TRANSFORMS[name].__annotations__[field]
                values[name][field] = parse(text) if parse in (int, float, str) else (float(text) if text else None)
        back, written_hz = read_audio(row["degraded"])
        assert written_hz == 16_000
        np.testing.assert_allclose(back, apply(clean, Degradation.from_dict(values), pools), atol=2**-14)
    assert all(row["room.file"].endswith(".wav") for row in rows if row.get("room.response"))


def test_degradation_depends_only_on_the_seed_and_the_content(
    recordings: Path, prepared: Path, tmp_path: Path, miipher2: Command
) -> None:
    def degrade(source: Path, *words: object) -> bytes:
        target = tmp_path / "one.wav"
        assert miipher2("degrade", source, target, "--config", "sidon", "--prepared", prepared, *words).code == 0
        return target.read_bytes()

    first = degrade(recordings / "a.wav")
    (tmp_path / "renamed.wav").write_bytes((recordings / "a.wav").read_bytes())
    assert degrade(tmp_path / "renamed.wav") == first
    assert miipher2("degrade", recordings, tmp_path / "out", "--config", "sidon", "--prepared", prepared).code == 0
    assert (tmp_path / "out/a.wav").read_bytes() == first
    assert degrade(recordings / "a.wav", "--seed", 1) != first


def test_failures_are_listed_and_the_others_degraded(
    recordings: Path, prepared: Path, tmp_path: Path, miipher2: Command
) -> None:
    (recordings / "bad.wav").write_text("not audio")
    result = miipher2("degrade", recordings, tmp_path / "out", "--config", "mini", "--prepared", prepared)
    assert result.code == 1
    assert "3 of 4 degraded" in result.out
    assert "bad.wav: cannot be read" in result.error
    assert len(table(tmp_path / "out/degradations.csv")) == 3


def test_custom_configuration_without_pools_needs_no_prepared_data(
    recordings: Path, tmp_path: Path, miipher2: Command
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("clipping: {probability: 1.0, threshold: [0.25, 0.25]}\n")
    out = tmp_path / "one.flac"
    assert miipher2("degrade", recordings / "a.wav", out, "--config", own, "--prepared", "nowhere").code == 0
    wave, _ = read_audio(recordings / "a.wav")
    assert np.abs(read_audio(out)[0]).max() == pytest.approx(0.25 * np.abs(wave).max(), abs=1e-4)
    (row,) = table(tmp_path / "degradations.csv")
    assert (row["degradations"], row["clipping.threshold"], row["seed"]) == ("clipping", "0.25", "0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("in", "out", "--config", "loud"), "should be a YAML file, or one of miipher2, mini, natural, sidon, wide"),
        (("in", "out", "--config", "typo.yaml"), "typo.yaml: Key 'snr' not in 'NoiseConfig'"),
        (("in", "out", "--config", "range.yaml"), "degradation.noise.snr_db=[30.0, 5.0]: should be [low, high]"),
        (("in", "out", "--config", "mini", "--prepared", "nowhere"), "nowhere holds no manifest.parquet"),
        (("none", "out", "--config", "mini"), "none: no such file or folder"),
        (("in", "in", "--config", "mini"), "would be replaced by its degraded version"),
        (("in/a.wav", "out.mp3", "--config", "mini"), "should end in .wav or .flac"),
    ],
)
def test_mistakes_are_reported_in_one_line_and_nothing_is_written(
    recordings: Path, prepared: Path, tmp_path: Path, miipher2: Command, words: tuple[str, ...], message: str
) -> None:
    (tmp_path / "typo.yaml").write_text("noise: {probability: 1.0, snr: [5, 30]}\n")
    (tmp_path / "range.yaml").write_text("noise: {probability: 1.0, snr_db: [30, 5]}\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    places = [
        tmp_path / word if word.startswith(("in", "out", "none")) or word.endswith(".yaml") else word for word in words
    ]
    if "--prepared" not in words:
        places += ["--prepared", prepared]
    result = miipher2("degrade", *places)
    assert result.code == 2
    assert message in result.error
    assert result.error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
