"""Other systems in the evaluate stage are read by the utterance's path, or refused with a reason."""

from pathlib import Path

import numpy as np
import pytest

from miipher2.audio.io import write_audio
from miipher2.audio.resample import resample
from miipher2.evaluation import stage
from miipher2.evaluation.evaluate import Utterance, evaluate
from miipher2.evaluation.stage import check_systems, output_reader
from miipher2.rng import stream

RATE_HZ = 16_000
NAMES = [f"data/embedded/en/u{i}.flac" for i in range(5)]


@pytest.fixture
def utterances() -> dict[str, Utterance]:
    waves = {name: (0.1 * stream(0, name).standard_normal(RATE_HZ)).astype(np.float32) for name in NAMES}
    return {name: Utterance(name, wave, 0.5 * wave) for name, wave in waves.items()}


def test_files_of_another_system_are_measured_or_rows_with_a_reason(
    utterances: dict[str, Utterance], tmp_path: Path
) -> None:
    """A FLAC file, a longer WAV file at another rate; a missing file, one too short, one that is not audio."""
    (tmp_path / NAMES[0]).parent.mkdir(parents=True)
    clean = [utterances[name].clean for name in NAMES]
    assert clean[0] is not None
    assert clean[1] is not None
    assert clean[3] is not None
    write_audio(tmp_path / NAMES[0], clean[0], RATE_HZ)
    longer = np.pad(resample(clean[1], RATE_HZ, 24_000), (0, 1200))
    write_audio((tmp_path / NAMES[1]).with_suffix(".wav"), longer, 24_000)
    write_audio(tmp_path / NAMES[3], clean[3][: RATE_HZ // 2], RATE_HZ)
    (tmp_path / NAMES[4]).write_text("not audio")
    evaluation = evaluate(utterances.values(), {"theirs": output_reader(tmp_path, utterances, RATE_HZ, 0.1)}, RATE_HZ)
    rows = {row.name: row for row in evaluation.rows}
    assert rows[NAMES[0]].values["log_mel/theirs"] < 0.01 < rows[NAMES[0]].values["log_mel/degraded"]
    assert rows[NAMES[1]].values["log_mel/theirs"] < rows[NAMES[1]].values["log_mel/degraded"]
    reasons = {name: row.reason for name, row in rows.items() if not row.is_counted}
    assert list(reasons) == [NAMES[2], NAMES[3], NAMES[4]]
    assert all(reason.startswith("theirs: ") for reason in reasons.values())
    assert "u2.wav" in reasons[NAMES[2]]
    assert reasons[NAMES[3]] == "theirs: 0.50 s; degraded has 1.00 s"


@pytest.mark.parametrize("name", ["fine_tuned", "degraded", "spectral_subtraction"])
def test_reserved_name_or_missing_folder_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "ROOT", tmp_path)
    (tmp_path / "out").mkdir()
    assert check_systems({"theirs": "out"}) == {"theirs": "out"}
    with pytest.raises(ValueError, match=rf"evaluate\.systems\.{name}: the name '{name}' is reserved"):
        check_systems({name: "out"})
    with pytest.raises(ValueError, match=r"evaluate\.systems\.theirs=nowhere: .* should be a folder"):
        check_systems({"theirs": "nowhere"})
