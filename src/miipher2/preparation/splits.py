"""Which utterances are for training, validation and test: fixed by digests, by nothing that depends on order."""

import hashlib
from collections.abc import Collection, Hashable

from miipher2.data.manifest import SPLITS
from miipher2.preparation.layouts import UNKNOWN
from miipher2.preparation.scan import Found

# Of the digests' range: below the first bound train, below the second valid, the rest test.
_TRAIN_BELOW, _VALID_BELOW = 0.90, 0.95


def split_files(
    files: Collection[Found],
    *,
    held_out: Collection[str] | None = None,
    as_published: bool = True,
    by_speaker_from: int = 40,
) -> dict[str, str]:
    """Return the split of each file, by its content digest.

    A list of held-out files decides first, then a split that the corpus was published with. Otherwise a speaker is in
    one split only, by the digest of the name, where there are at least `by_speaker_from` and all are known: of fewer,
    a split of one in twenty might be left without any. Of fewer, an utterance goes by the digest of its content.

    Args:
        held_out: content digests of the test split.
        as_published: whether to keep to published splits.
    """
    if held_out is None and as_published and any(file.sound.split for file in files):
        return {file.sha256: file.sound.split or "train" for file in files}
    speakers = {file.sound.speaker for file in files}
    if held_out is None and UNKNOWN not in speakers and len(speakers) >= by_speaker_from:
        digests = {name: hashlib.sha256(f"speaker {name}".encode()).hexdigest() for name in speakers}
        splits = _split(digests.values(), None)
        return {file.sha256: splits[digests[file.sound.speaker]] for file in files}
    return _split([file.sha256 for file in files], held_out)


def _split(digests: Collection[str], held_out: Collection[str] | None) -> dict[str, str]:
    """Return each digest's split, by its place in the range of digests: another file more or less moves no other.

    A split that stays empty takes the largest digest of the largest split, if one can spare it.
    """
    members: dict[str, list[str]] = {split: [] for split in SPLITS}
    for digest in sorted(set(digests)):
        members[_split_of(digest, held_out)].append(digest)
    for split in SPLITS:
        donors = [name for name in SPLITS if len(members[name]) > 1 and not (name == "test" and held_out is not None)]
        if not members[split] and donors:
            members[split].append(members[max(donors, key=lambda name: len(members[name]))].pop())
    return {digest: split for split in SPLITS for digest in members[split]}


def _split_of(digest: str, held_out: Collection[Hashable] | None) -> str:
    place = int(digest[:8], 16) / 16**8
    if held_out is not None:
        return "test" if digest in held_out else "train" if place < _VALID_BELOW else "valid"
    return "train" if place < _TRAIN_BELOW else "valid" if place < _VALID_BELOW else "test"
