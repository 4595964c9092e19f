"""The parts of gathering the mini model's speech that need none of its packages."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile as sf

from miipher2.config.paths import ROOT
from miipher2.rng import stream


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gather", ROOT / "stages/gather_mini_speech.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_missing_or_ambiguous_package_is_an_error(script: ModuleType, tmp_path: Path) -> None:
    name = "asterisk-core-sounds-en-g722"
    with pytest.raises(SystemExit, match=f"holds 0 files {name}_.*apt-get download {name}"):
        script._find_package(tmp_path, name)
    (tmp_path / f"{name}_1.6.1-1_all.deb").touch()
    (tmp_path / "asterisk-core-sounds-en-gsm_1.6.1-1_all.deb").touch()
    assert script._find_package(tmp_path, name).name == f"{name}_1.6.1-1_all.deb"
    (tmp_path / f"{name}_1.6.2-1_all.deb").touch()
    with pytest.raises(SystemExit, match="holds 2 files"):
        script._find_package(tmp_path, name)


def test_another_speed_makes_another_speaker(script: ModuleType) -> None:
    wave = np.sin(2 * np.pi * 200 * np.arange(16_000) / 16_000).astype(np.float32)
    factors = set()
    for number in range(40):
        (name, same), (other, changed), (third, _) = script._at_speeds("train", f"someone/{number}", wave, 2)
        assert len({name, other, third}) == 3
        assert name == f"train/someone/{number}"
        assert same is wave
        speaker, utterance = other.removeprefix("train/").split("/")
        assert utterance == str(number)
        factor = float(speaker.removeprefix("someone_x"))
        factors.add(factor)
        assert len(changed) == pytest.approx(16_000 / factor, rel=0.01)
        peak_hz = np.abs(np.fft.rfft(changed, 160_000)).argmax() / 10
        assert peak_hz == pytest.approx(200 * factor, rel=0.01)  # the pitch moves by the factor in the name
    assert factors == {round(down / up, 2) for up, down in script.SPEEDS}
    assert len(factors) == len(script.SPEEDS)


def test_loud_pauses_are_distinguished_from_quiet_ones(script: ModuleType) -> None:
    rng = stream(0, "pauses")
    speech = 0.1 * rng.standard_normal(16_000).astype(np.float32)
    for pause_db in (-10.0, -40.0):
        pause = speech[:8_000] * np.float32(10 ** (pause_db / 20))
        assert script._range_db(np.concatenate([speech, pause])) == pytest.approx(-pause_db, abs=2)
    assert script._range_db(np.zeros(16_000, np.float32)) == 0


def test_sentences_depend_on_their_number_only_and_hardly_repeat(script: ModuleType) -> None:
    sentences = [script._sentence(number) for number in range(240)]
    assert sentences == [script._sentence(number) for number in range(240)]
    assert len(set(sentences)) > 230
    assert all(sentence[0].isupper() and sentence.endswith(".") for sentence in sentences)


def test_words_depend_on_their_number_only_and_are_no_names(script: ModuleType, tmp_path: Path) -> None:
    dictionary = tmp_path / "usr/share/dict/american-english"
    dictionary.parent.mkdir(parents=True)
    dictionary.write_text("Aberdeen\nanchor\nanchor's\nox\nélan\nquarrelsomeness\nriver\n")
    words = script._dictionary(tmp_path)
    assert words == ["anchor", "river"]
    assert script._draw_words(3, words) == script._draw_words(3, words)
    assert len({script._draw_words(number, words) for number in range(8)}) > 1
    assert set(script._draw_words(3, words).lower().rstrip(".").split()) <= set(words)


def test_no_speaker_is_in_training_and_evaluation(script: ModuleType) -> None:
    sides = [set(script.STAMPS_TRAIN), set(script.STAMPS_VALID), set(script.STAMPS_TEST)]
    assert sum(map(len, sides)) == len(set.union(*sides))


def test_blends_are_distinct_speakers_and_men_are_mostly_the_male_voice(script: ModuleType) -> None:
    voices = {name: np.eye(4)[index] for index, name in enumerate((*script.WOMEN, script.MAN))}
    blends = list(script._blends(voices))
    assert len({name for name, *_ in blends}) == len(blends) == 48 * 5 + script.MEN * 12
    assert len({number for _, _, number, *_ in blends}) == len(blends)
    for name, style, _, pace, (up, down) in blends:
        assert style.sum() == pytest.approx(1)
        assert 0.85 <= pace <= 1.2
        if "man" in name:
            assert script.MANS_SHARE[0] <= style[3] <= script.MANS_SHARE[1]
            assert 0.85 < up / down < 1.15
        else:
            assert (up, down) == (1, 1)
    men = {name.split("/")[1]: tuple(style) for name, style, *_ in blends if "man" in name}
    assert len(set(men.values())) == script.MEN


def test_existing_files_are_kept_and_loud_waves_do_not_clip(script: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "train/someone/0.flac"
    script._write(path, np.array([0.5, -2.0, 1.0], np.float32))
    written, rate_hz = sf.read(path)
    assert rate_hz == 16_000
    np.testing.assert_allclose(written, [0.225, -0.9, 0.45], atol=1e-4)
    script._write(path, np.zeros(3, np.float32))
    np.testing.assert_array_equal(sf.read(path)[0], written)
