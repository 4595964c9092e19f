"""The manifest: one row an utterance, with the digest of its content and its split; it opens no sound itself."""

import hashlib
import os
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as parquet

from miipher2.data.survey import Found, survey

SPLITS = ("train", "valid", "test")
# Of the digests' range: below the first bound train, below the second valid, the rest test.
_TRAIN_BELOW, _VALID_BELOW = 0.90, 0.95

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("seconds", pa.float64()),
        ("sample_rate_hz", pa.int64()),
        ("sha256", pa.string()),
        ("split", pa.string()),
    ]
)


@dataclass(frozen=True)
class Utterance:
    """A row of the manifest; `path` is relative to the repository root, or absolute where the file lies outside."""

    path: str
    speaker: str
    language: str
    seconds: float
    sample_rate_hz: int
    sha256: str
    split: str


class Manifest:
    """Utterances in the order of their content digests, so that names, folders and file systems cannot alter it."""

    def __init__(self, table: pa.Table) -> None:
        """Sort the rows of `table`, which has the columns of `SCHEMA`."""
        if missing := [name for name in SCHEMA.names if name not in table.column_names]:
            raise ValueError(f"the manifest has no column {', '.join(missing)}; it should have {SCHEMA.names}")
        rows = table.select(SCHEMA.names).cast(SCHEMA)
        self.table = rows.sort_by([("sha256", "ascending"), ("path", "ascending")]).combine_chunks()

    @classmethod
    def from_utterances(cls, utterances: Iterable[Utterance]) -> "Manifest":
        """Return the manifest of these utterances."""
        return cls(pa.Table.from_pylist([asdict(utterance) for utterance in utterances], schema=SCHEMA))

    @classmethod
    def read(cls, path: Path | str) -> "Manifest":
        """Read a manifest as `write` left it.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no manifest.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such manifest; the stage prepare_data writes it")
        try:
            return cls(parquet.read_table(path))
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"{path}: is no manifest ({error})") from error

    @classmethod
    def scan(cls, folder: Path, root: Path) -> tuple["Manifest", list[tuple[str, str]]]:
        """Return the manifest of the sound files below `folder`, split by rule, and the unreadable files with reasons.

        Args:
            root: the repository's root, which paths are made relative to.

        Raises:
            FileNotFoundError: the folder is missing.
        """
        seen = survey(folder)
        return cls.of_files(seen.found, folder, root), [(relative(path, root), why) for path, why in seen.unreadable]

    @classmethod
    def of_files(
        cls, files: Collection[Found], folder: Path, root: Path, held_out: Collection[str] | None = None
    ) -> "Manifest":
        """Return the manifest of surveyed files.

        The first folder below `folder` names the language, all folders together name the speaker.

        Args:
            held_out: content digests of the test split; None leaves that to the rule.
        """
        splits = _split([file.sha256 for file in files], held_out)
        return cls.from_utterances(_utterance(file, folder, root, splits[file.sha256]) for file in files)

    def write(self, path: Path | str) -> None:
        """Write the manifest as Parquet, whole or not at all; equal manifests give equal bytes."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        parquet.write_table(self.table, temporary)
        temporary.replace(path)

    def select(self, split: str) -> "Manifest":
        """Return the utterances of one split."""
        if split not in SPLITS:
            raise ValueError(f"split '{split}' is not known; it should be one of {', '.join(SPLITS)}")
        return Manifest(self.table.filter(pa.compute.equal(self.table["split"], split)))

    def __len__(self) -> int:
        return self.table.num_rows

    def row(self, index: int) -> Utterance:
        """Return utterance number `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"utterance {index} of a manifest of {len(self)}")
        return self._rows[index]

    @property
    def digest(self) -> str:
        """The SHA-256 over what can alter training: content, split, speaker, language and length, but no path."""
        fields = [(row.sha256, row.split, row.speaker, row.language, repr(row.seconds)) for row in self._rows]
        return hashlib.sha256("\n".join("\t".join(row) for row in sorted(fields)).encode()).hexdigest()

    @cached_property
    def _rows(self) -> list[Utterance]:
        return [Utterance(**row) for row in self.table.to_pylist()]


def relative(path: Path, root: Path) -> str:
    """Return `path` relative to `root`, with forward slashes, or absolute where it lies outside; links stay."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _utterance(file: Found, folder: Path, root: Path, split: str) -> Utterance:
    parents = file.path.relative_to(folder).parts[:-1]
    return Utterance(
        path=relative(file.path, root),
        speaker="/".join(parents) or "unknown",
        language=parents[0] if parents else "unknown",
        seconds=file.info.seconds,
        sample_rate_hz=file.info.sample_rate_hz,
        sha256=file.sha256,
        split=split,
    )


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


def _split_of(digest: str, held_out: Collection[str] | None) -> str:
    place = int(digest[:8], 16) / 16**8
    if held_out is not None:
        return "test" if digest in held_out else "train" if place < _VALID_BELOW else "valid"
    return "train" if place < _TRAIN_BELOW else "valid" if place < _VALID_BELOW else "test"
