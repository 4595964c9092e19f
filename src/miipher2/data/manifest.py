"""The manifest: one row an utterance, with the digest of its content and its split; it opens no sound itself."""

import hashlib
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.ipc
import pyarrow.parquet as parquet
from jaxtyping import Int

from miipher2.atomic_io import sha256_of
from miipher2.audio.io import FileSection

SCHEMA = pa.schema(
    [
        # Long ones: 10 million paths are more than the 2 GB that a column of short ones holds.
        ("path", pa.large_string()),
        ("member", pa.large_string()),
        ("offset_bytes", pa.int64()),
        ("size_bytes", pa.int64()),
        ("corpus", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("seconds", pa.float64()),
        ("sample_rate_hz", pa.int64()),
        ("level_db", pa.float64()),
        ("peak", pa.float64()),
        ("sha256", pa.large_string()),
        ("split", pa.string()),
    ]
)
# What can alter training: no path, and no place in a shard.
DIGESTED = ("sha256", "split", "corpus", "speaker", "language", "seconds")
SPLITS = ("train", "valid", "test")
ROWS_IN_MEMORY = 2**16  # of a table that is gone through


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
    level_db: float = -math.inf  # of the active speech, in dB of full scale
    peak: float = 0.0
    corpus: str = "folder"
    member: str = ""  # of the tar at `path`; empty where the file itself is the sound
    offset_bytes: int = 0
    size_bytes: int = 0

    @property
    def name(self) -> str:
        """Its path, with the member after a colon."""
        return f"{self.path}:{self.member}" if self.member else self.path

    def source(self, root: Path) -> Path | FileSection:
        """Return what `audio.read` takes."""
        path = root / self.path
        return FileSection(path, self.offset_bytes, self.size_bytes, self.member) if self.member else path


class Manifest:
    """Utterances in the order of their content digests, so that names, folders and file systems cannot alter it.

    Rows stay in Arrow's columns, mapped from the file where there is one, and are made Python values one at a time.
    """

    def __init__(self, table: pa.Table, rows: Int[np.ndarray, "row"] | None = None, digest: str | None = None) -> None:
        """Hold a sorted table.

        Args:
            rows: the numbers of the rows that belong to the manifest; None takes all.
            digest: if it is known.
        """
        self._table, self._rows, self._digest = table, rows, digest

    @classmethod
    def from_utterances(cls, utterances: Iterable[Utterance]) -> "Manifest":
        """Return the manifest of these utterances."""
        return cls.from_table(pa.Table.from_pylist([asdict(utterance) for utterance in utterances], schema=SCHEMA))

    @classmethod
    def from_table(cls, table: pa.Table) -> "Manifest":
        """Return the manifest of a table's rows, which has the columns of `SCHEMA`, in any order."""
        if missing := [name for name in SCHEMA.names if name not in table.column_names]:
            raise ValueError(f"the manifest has no column {', '.join(missing)}; run prepare_data again")
        rows = table.select(SCHEMA.names).cast(SCHEMA)
        return cls(rows.sort_by([(name, "ascending") for name in ("sha256", "path", "offset_bytes")]))

    @classmethod
    def read(cls, path: Path | str) -> "Manifest":
        """Read a manifest as `write` left it: mapped from the file beside it, or decoded where that is not its twin.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no manifest.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such manifest; the stage prepare_data writes it")
        try:
            twin = _read_twin(path)
            return cls.from_table(parquet.read_table(path)) if twin is None else twin
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"{path}: is no manifest ({error})") from error

    def write(self, path: Path | str) -> None:
        """Write the manifest as Parquet, to keep and to exchange, and beside it as `.arrow`, to be mapped.

        Each is whole or not at all; equal manifests give equal bytes.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        table = self._selected().replace_schema_metadata(None)
        parquet.write_table(table, temporary)
        about = {"parquet_sha256": sha256_of(temporary), "digest": self.digest}
        twin = temporary.with_suffix(".arrow")
        with pa.OSFile(str(twin), "wb") as file, pa.ipc.new_file(file, SCHEMA.with_metadata(about)) as writer:
            writer.write_table(table, max_chunksize=ROWS_IN_MEMORY)
        temporary.replace(path)
        twin.replace(path.with_suffix(".arrow"))

    def select(self, split: str | None = None, corpus: str | None = None) -> "Manifest":
        """Return the utterances of one split, of one corpus, or of both."""
        if split is not None and split not in SPLITS:
            raise ValueError(f"split '{split}' is not known; it should be one of {', '.join(SPLITS)}")
        rows = np.arange(len(self._table), dtype=np.int32) if self._rows is None else self._rows
        for column, value in (("split", split), ("corpus", corpus)):
            if value is not None:
                matches = pa.compute.equal(self._table[column], value).to_numpy()
                rows = rows[matches[rows]]
        return Manifest(self._table, rows)

    def __len__(self) -> int:
        return len(self._table) if self._rows is None else len(self._rows)

    def row(self, index: int) -> Utterance:
        """Return utterance number `index`, in a time that does not depend on how many there are."""
        if not 0 <= index < len(self):
            raise IndexError(f"utterance {index} of a manifest of {len(self)}")
        place = index if self._rows is None else int(self._rows[index])
        return Utterance(**self._table.slice(place, 1).to_pylist()[0])

    def positions(self, corpus: str) -> Int[np.ndarray, "row"]:
        """Return the numbers, in this manifest, of the utterances of one corpus."""
        return np.flatnonzero(pa.compute.equal(self.column("corpus"), corpus).to_numpy()).astype(np.int32)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column, to compute with."""
        return self._table[name] if self._rows is None else self._table[name].take(pa.array(self._rows))

    @property
    def digest(self) -> str:
        """The SHA-256 over what can alter training: content, split, corpus, speaker, language, length, but no path."""
        if self._digest is None:
            columns = pa.table({name: self.column(name) for name in DIGESTED})
            digest = hashlib.sha256()
            for batch in columns.sort_by([(name, "ascending") for name in DIGESTED]).to_batches(ROWS_IN_MEMORY):
                for row in batch.to_pylist():
                    digest.update(
                        ("\t".join([*map(str, list(row.values())[:-1]), repr(row["seconds"])]) + "\n").encode()
                    )
            self._digest = digest.hexdigest()
        return self._digest

    def _selected(self) -> pa.Table:
        return self._table if self._rows is None else self._table.take(pa.array(self._rows))


def relative(path: Path, root: Path) -> str:
    """Return `path` relative to `root`, with forward slashes, or absolute where it lies outside; links stay."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _read_twin(path: Path) -> Manifest | None:
    """Return the manifest mapped from the file beside the Parquet, if that was written with this very Parquet."""
    twin = path.with_suffix(".arrow")
    if not twin.is_file():
        return None
    file = pa.ipc.open_file(pa.memory_map(str(twin)))
    about = file.schema.metadata or {}
    if not file.schema.equals(SCHEMA) or about.get(b"parquet_sha256", b"").decode() != sha256_of(path):
        return None
    return Manifest(file.read_all(), digest=about[b"digest"].decode())
