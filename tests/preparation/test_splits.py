"""Splits follow from digests: each speaker is in one split if there are enough, and order has no effect."""

from pathlib import Path

from miipher2.audio.io import AudioInfo
from miipher2.data.manifest import SPLITS
from miipher2.preparation.layouts import Sound
from miipher2.preparation.scan import ScannedFile
from miipher2.preparation.splits import split_files
from miipher2.rng import stream


def files(speakers: int, each: int = 5, names: str = "s{}") -> list[ScannedFile]:
    """Return scanned files of some speakers, without any file."""
    scanned = []
    for speaker in range(speakers):
        for index in range(each):
            digest = stream(speaker, "digest", index).bytes(32).hex()
            sound = Sound(f"{speaker}/{index}.wav", Path("x"), names.format(speaker), "en")
            scanned.append(ScannedFile(sound, digest, AudioInfo(1.0, 16000, 16000, 1), -26.0, 0.5, False, False))
    return scanned


def test_with_enough_speakers_each_is_in_one_split() -> None:
    scanned = files(200)
    splits = split_files(scanned)
    by_speaker: dict[str, set[str]] = {}
    for file in scanned:
        by_speaker.setdefault(file.sound.speaker, set()).add(splits[file.sha256])
    assert all(len(each) == 1 for each in by_speaker.values())
    shares = {split: sum(each == {split} for each in by_speaker.values()) / 200 for split in SPLITS}
    assert 0.82 < shares["train"] < 0.96  # four standard deviations of 0.9
    assert min(shares.values()) > 0


def test_few_or_unknown_speakers_are_split_by_utterance() -> None:
    for scanned in (files(39, 10), files(60, 10, names="unknown")):
        splits = split_files(scanned)
        mixed = {
            speaker
            for speaker in {file.sound.name.split("/")[0] for file in scanned}
            if len({splits[file.sha256] for file in scanned if file.sound.name.startswith(f"{speaker}/")}) > 1
        }
        assert len(mixed) > 10
    assert len({split_files(files(39, 10), by_speaker_from=30)[file.sha256] for file in files(39, 10)[:10]}) == 1


def test_order_and_other_speakers_change_no_split() -> None:
    scanned = files(120)
    splits = split_files(scanned)
    assert split_files(list(reversed(scanned))) == splits
    assert split_files(scanned[:500]).items() <= splits.items()


def test_every_split_gets_a_speaker_even_if_its_range_of_digests_is_empty() -> None:
    for count in range(40, 60):
        assert set(split_files(files(count, 1)).values()) == set(SPLITS)
