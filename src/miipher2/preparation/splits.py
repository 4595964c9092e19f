"""Splits into train, valid and test: a function of digests, never of an order."""

import hashlib
from collections.abc import Collection, Hashable

from miipher2.data.manifest import SPLITS
from miipher2.preparation.layouts import UNKNOWN
from miipher2.preparation.scan import ScannedFile

# Of the range of digests: train below the first bound, valid below the second, test above.
TRAIN_BELOW, VALID_BELOW = 0.90, 0.95


def split_files(
    files: Collection[ScannedFile],
    *,
    held_out: Collection[str] | None = None,
    as_published: bool = True,
    by_speaker_from: int = 40,
) -> dict[str, str]:
    """Return the split of each file, by its content digest.

    A list of held-out files takes precedence, then the corpus's published splits. Otherwise each speaker is in one
    split, by the digest of the name, if all speakers are known and there are at least `by_speaker_from`: with fewer, a
    split of one in twenty might stay empty, and each utterance goes by the digest of its content.

    Args:
        held_out: content digests of the test split.
        as_published: keep published splits.
    """
    if held_out is None and as_published and any(file.sound.split for file in files):
        return {file.sha256: file.sound.split or "train" for file in files}
    speakers = {file.sound.speaker for file in files}
    if held_out is None and UNKNOWN not in speakers and len(speakers) >= by_speaker_from:
        digests = {name: hashlib.sha256(f"speaker {name}".encode()).hexdigest() for name in speakers}
        splits = _split_digests(digests.values(), None)
        return {file.sha256: splits[digests[file.sound.speaker]] for file in files}
    return _split_digests([file.sha256 for file in files], held_out)


def _split_digests(digests: Collection[str], held_out: Collection[str] | None) -> dict[str, str]:
    """Return each digest's split by its place in the range of digests, so that another file moves none.

    An empty split takes the largest digest of the largest split that can spare one.
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
    position = int(digest[:8], 16) / 16**8
    if held_out is not None:
        return "test" if digest in held_out else "train" if position < VALID_BELOW else "valid"
    return "train" if position < TRAIN_BELOW else "valid" if position < VALID_BELOW else "test"
