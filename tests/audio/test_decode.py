"""Every sound file is decoded whole, or refused by name; no header's length is believed."""

import re
import tarfile
from pathlib import Path

import numpy as np
import odd_files
import pytest
import soundfile
from speech_like import speech_like

from miipher2.audio.decode import AudioError, FileSection, decode, open_decoder
from miipher2.audio.io import read_audio, read_info, write_audio
from miipher2.audio.stream import Recording
from miipher2.preparation.layouts import Sound
from miipher2.preparation.scan import scan_sound


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, odd_files.write_whole(folder)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("broken")
    return folder, odd_files.write_broken(folder)


def test_a_file_whose_header_is_wrong_or_silent_about_its_length_is_read_whole(
    whole: tuple[Path, dict[str, float]],
) -> None:
    folder, lengths = whole
    for name, seconds in lengths.items():
        path = folder / name
        wave, rate_hz = read_audio(path)
        # A lossy codec adds its delay; nothing may be missing.
        assert seconds - 0.01 <= len(wave) / rate_hz <= seconds + 0.3, name
        assert read_info(path).samples == len(wave), name
        recording = Recording(path)
        assert recording.samples == sum(block.shape[1] for block in recording.blocks()) == len(wave), name
        scanned = scan_sound(Sound(name, path, "", ""))
        assert not isinstance(scanned, str), name
        assert scanned.info.samples == len(wave), name
        tail = wave[-round(1.9 * rate_hz) :]  # the last copy of the two seconds: sound, and not silence
        assert np.abs(tail).max() > 0.3, name


def test_a_file_that_is_cut_off_or_hides_a_part_is_refused_by_name(broken: tuple[Path, list[str]]) -> None:
    folder, names = broken
    for name in names:
        path = folder / name
        for read in (read_audio, lambda path: [*Recording(path).blocks()]):
            with pytest.raises(AudioError, match=rf"^{re.escape(str(path))}: [^\n]+$"):
                read(path)
        assert isinstance(scan_sound(Sound(name, path, "", "")), str), name


def test_ffmpeg_and_libsndfile_decode_the_same_samples(tmp_path: Path) -> None:
    for name, subtype in (("a.flac", "PCM_16"), ("a24.flac", "PCM_24"), ("a.mp3", None)):
        soundfile.write(tmp_path / name, np.stack([speech_like(), speech_like(seed=1)], 1), 16_000, subtype)
        expected = soundfile.read(tmp_path / name, dtype="float32")[0]
        content = (tmp_path / name).read_bytes()
        if name.endswith(".flac"):  # of unknown length, so that FFmpeg reads it
            (tmp_path / name).write_bytes(odd_files.with_flac_samples(content, 0))
        with open_decoder(tmp_path / name) as decoder:
            assert decoder.header_samples is None
            blocks = list(decode(decoder, 777))
        assert {len(block) for block in blocks[:-1]} == {777}
        np.testing.assert_allclose(np.concatenate(blocks), expected, atol=0 if name.endswith(".flac") else 2e-6)


def test_a_part_of_a_compressed_file_is_that_part_of_the_whole(whole: tuple[Path, dict[str, float]]) -> None:
    path = whole[0] / "chained.opus"
    wave, rate_hz = read_audio(path)
    part, _ = read_audio(path, 2 * rate_hz - 500, 1000)  # across the link
    np.testing.assert_array_equal(part, wave[2 * rate_hz - 500 :][:1000])
    with pytest.raises(AudioError, match=rf"holds {len(wave)} samples; should hold {len(wave) - 10} to"):
        read_audio(path, len(wave) - 10, 11)


def test_a_member_of_a_tar_is_checked_like_a_file(
    tmp_path: Path, whole: tuple[Path, dict[str, float]], broken: tuple[Path, list[str]]
) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(whole[0] / "joined.mp3", "joined.mp3")
        tar.add(broken[0] / "cut.wav", "cut.wav")
    with tarfile.open(tmp_path / "a.tar") as tar:
        sections = {each.name: FileSection(tmp_path / "a.tar", each.offset_data, each.size, each.name) for each in tar}
    assert read_info(sections["joined.mp3"]) == read_info(whole[0] / "joined.mp3")
    with pytest.raises(AudioError, match=r"a\.tar:cut\.wav: is cut off"):
        read_audio(sections["cut.wav"])


def test_a_container_without_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(odd_files.encoded_by_ffmpeg("mp4", "aac")[:40])
    (tmp_path / "b.mp3").write_bytes(b"")
    for name in ("a.m4a", "b.mp3"):
        with pytest.raises(AudioError, match=rf"{name}: (cannot be read as sound|holds no audio)"):
            read_info(tmp_path / name)


def test_a_long_file_is_decoded_in_blocks_of_the_same_samples(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.flac", np.tile(speech_like(), 5), 16_000)
    with open_decoder(tmp_path / "a.flac") as decoder:
        blocks = list(decode(decoder, 7_777, 100))
    np.testing.assert_array_equal(np.concatenate(blocks)[:, 0], read_audio(tmp_path / "a.flac", 100)[0])
