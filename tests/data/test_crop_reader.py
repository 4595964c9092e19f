"""Of a long file only what a crop needs is read, and the crop is that of the whole file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scanning import scan_folder
from synthetic_voices import synthetic_voice

from miipher2.audio.decode import AudioError
from miipher2.audio.io import read_audio, write_audio
from miipher2.data import crop_reader
from miipher2.data.crop_reader import CropReader
from miipher2.data.manifest import Manifest


@pytest.fixture(scope="module", params=[16000, 22050, 44100])
def long_one(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    """Return the manifest of one file of 41.7 s, and its folder."""
    folder = tmp_path_factory.mktemp("long")
    write_audio(folder / "chapter.flac", synthetic_voice(41.7, request.param), request.param)
    return scan_folder(folder, folder), folder


@pytest.mark.parametrize("target_rate_hz", [16000, 24000])
def test_a_crop_of_a_part_equals_the_crop_of_the_whole(
    long_one: tuple[Manifest, Path], target_rate_hz: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, folder = long_one
    part = CropReader(manifest, folder, target_rate_hz, cache_mb=64)
    whole = CropReader(manifest, folder, target_rate_hz, cache_mb=64)
    starts = 41 * 50 + 35 - 100 + 1
    on_a_second = [(50 * second + 0.5) / starts for second in (1, 17, 38)]  # where the filter would reach an edge first
    for position in (0.0, 0.013, 0.31, 0.5, 0.777, 0.99, 1.0 - 1e-9, *on_a_second):
        one = part.read(0, position, 100)
        monkeypatch.setattr(crop_reader, "WHOLE_SECONDS", 100)
        other = whole.read(0, position, 100)
        monkeypatch.undo()
        np.testing.assert_allclose(one.clean, other.clean, atol=1e-6)
        np.testing.assert_allclose(one.target, other.target, atol=1e-6)
        assert (one.valid_frames, one.level_db) == (other.valid_frames, other.level_db)
    assert not part._cache._values
    assert whole._cache._values


def test_hardly_more_than_the_crop_is_decoded(long_one: tuple[Manifest, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, folder = long_one
    read_seconds, read = [], read_audio

    def counted(*arguments: Any) -> Any:
        wave, rate_hz = read(*arguments)
        read_seconds.append(len(wave) / rate_hz)
        return wave, rate_hz

    monkeypatch.setattr(crop_reader, "read_audio", counted)
    reader = CropReader(manifest, folder, 16000, cache_mb=64)
    for position in np.linspace(0, 0.999, 9):
        reader.read(0, float(position), 100)
    assert len(read_seconds) == 9
    assert max(read_seconds) <= 2 + 4


def test_a_changed_long_file_is_an_error(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", synthetic_voice(31.0), 16000)
    manifest = scan_folder(tmp_path, tmp_path)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[-1000] ^= 1  # one bit, far from the crop, and the length is the same
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(AudioError, match=r"a\.wav: its content is not the manifest's"):
        CropReader(manifest, tmp_path, 16000, cache_mb=64).read(0, 0.0, 50)


def test_measurements_do_not_depend_on_the_blocks_of_reading(tmp_path: Path) -> None:
    wave = synthetic_voice(45.0, 22050)
    wave[441000 - 1 : 441000 + 2] = 1.0  # a clipped run over the edge of two blocks
    write_audio(tmp_path / "a.wav", wave, 22050, "FLOAT")
    from miipher2.audio.levels import active_level_db, frame_energies
    from miipher2.preparation.corpora import Corpus, scan_corpus

    (file,) = scan_corpus(Corpus(tmp_path), "speech").files
    assert file.is_clipped
    assert file.peak == 1.0
    assert file.level_db == pytest.approx(active_level_db(frame_energies(wave, 441), len(wave), 441), abs=1e-9)
