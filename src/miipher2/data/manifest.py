"""The manifest: one row per utterance with its digest, split and measurements. It opens no sound file."""

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
from miipher2.audio.decode import FileSection

SCHEMA = pa.schema(
    [
        # Large: 10 million paths exceed the 2 GB of a `string` column.
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
        ("transcript", pa.large_string()),
    ]
)
OPTIONAL = ("transcript",)  # older manifests lack it
# Further columns where the degraded side of every utterance is a recording too.
PAIR_SCHEMA = pa.schema(
    [
        *SCHEMA,
        ("start_samples", pa.int64()),
        ("degraded_path", pa.large_string()),
        ("degraded_start_samples", pa.int64()),
        ("degraded_sample_rate_hz", pa.int64()),
        ("degraded_sha256", pa.large_string()),
    ]
)
# What can alter training: neither the path nor the position in a shard.
DIGESTED = ("sha256", "split", "corpus", "speaker", "language", "seconds")
PAIR_DIGESTED = ("degraded_sha256", "start_samples", "degraded_start_samples")
SPLITS = ("train", "valid", "test")
ROWS_IN_MEMORY = 2**16  # of a table, at a time


@dataclass(frozen=True)
class Utterance:
    """A row of the manifest; `path` is relative to the repository root, or absolute for a file outside.

    Of a recorded pair it is the part that both files have: `seconds` from `start_samples` of `path` on, and from
    `degraded_start_samples` of `degraded_path` on.
    """

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
    member: str = ""  # of the tar at `path`; empty where that is the sound file
    offset_bytes: int = 0
    size_bytes: int = 0
    transcript: str = ""
    start_samples: int = 0
    degraded_path: str = ""  # "": there is no recording of the degraded side
    degraded_start_samples: int = 0
    degraded_sample_rate_hz: int = 0
    degraded_sha256: str = ""

    @property
    def name(self) -> str:
        """Return its path, with the member after a colon."""
        return f"{self.path}:{self.member}" if self.member else self.path

    def source(self, root: Path) -> Path | FileSection:
        """Return what `read_audio` takes."""
        path = root / self.path
        return FileSection(path, self.offset_bytes, self.size_bytes, self.member) if self.member else path

    def span(self) -> tuple[int, int | None]:
        """Return the first sample and the number of samples that `read_audio` takes; None: to the end."""
        return self.start_samples, round(self.seconds * self.sample_rate_hz) if self.degraded_path else None

    def degraded_span(self) -> tuple[int, int]:
        """Return the same of the recorded degraded side."""
        return self.degraded_start_samples, round(self.seconds * self.degraded_sample_rate_hz)


class Manifest:
    """Utterances in the order of their content digests, which no name, folder or file system can alter.

    Rows stay in Arrow's columns, memory-mapped from the file if possible, and become Python values one at a time.

    Args:
        table: sorted, with the columns of `SCHEMA`.
        rows: row numbers that belong to the manifest; None: all.
        digest: None: computed when asked for.
    """

    def __init__(self, table: pa.Table, rows: Int[np.ndarray, "row"] | None = None, digest: str | None = None) -> None:
        self._table, self._rows, self._digest = table, rows, digest

    @classmethod
    def from_utterances(cls, utterances: Iterable[Utterance]) -> "Manifest":
        """Return the manifest of these utterances, either all of them recorded pairs or none."""
        rows = [asdict(utterance) for utterance in utterances]
        schema = PAIR_SCHEMA if rows and rows[0]["degraded_path"] else SCHEMA
        return cls.from_table(pa.Table.from_pylist(rows, schema=schema))

    @classmethod
    def from_table(cls, table: pa.Table) -> "Manifest":
        """Return the manifest of a table whose rows and columns are in any order.

        Raises:
            ValueError: a column is missing.
        """
        for name in set(OPTIONAL) - set(table.column_names):
            table = table.append_column(name, pa.array([""] * len(table), SCHEMA.field(name).type))
        if missing := [name for name in SCHEMA.names if name not in table.column_names]:
            raise ValueError(f"the manifest has no column {', '.join(missing)}; run prepare_data again")
        schema = PAIR_SCHEMA if set(PAIR_SCHEMA.names) <= set(table.column_names) else SCHEMA
        rows = table.select(schema.names).cast(schema)
        return cls(rows.sort_by([(name, "ascending") for name in ("sha256", "path", "offset_bytes")]))

    @classmethod
    def read(cls, path: Path | str) -> "Manifest":
        """Read a manifest: mapped from the `.arrow` beside it if that belongs to it, decoded otherwise.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a manifest.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: does not exist; it should be a manifest of the stage prepare_data")
        try:
            mapped = _read_mapped(path)
            return cls.from_table(parquet.read_table(path)) if mapped is None else mapped
        except (pa.ArrowException, ValueError) as error:
            raise ValueError(f"{path}: is not a manifest ({error})") from error

    def write(self, path: Path | str) -> None:
        """Write the manifest atomically as Parquet, and beside it as `.arrow` to be memory-mapped.

        Equal manifests give equal bytes.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        table = self._selected().replace_schema_metadata(None)
        parquet.write_table(table, temporary)
        schema = table.schema.with_metadata({"parquet_sha256": sha256_of(temporary), "digest": self.digest})
        mapped = temporary.with_suffix(".arrow")
        with pa.OSFile(str(mapped), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            writer.write_table(table, max_chunksize=ROWS_IN_MEMORY)
        temporary.replace(path)
        mapped.replace(path.with_suffix(".arrow"))

    def select(self, split: str | None = None, corpus: str | None = None) -> "Manifest":
        """Return the utterances of one split, of one corpus, or of both."""
        if split is not None and split not in SPLITS:
            raise ValueError(f"split '{split}': should be one of {', '.join(SPLITS)}")
        rows = np.arange(len(self._table), dtype=np.int32) if self._rows is None else self._rows
        for column, value in (("split", split), ("corpus", corpus)):
            if value is not None:
                matches = pa.compute.equal(self._table[column], value).to_numpy()
                rows = rows[matches[rows]]
        return Manifest(self._table, rows)

    def __len__(self) -> int:
        return len(self._table) if self._rows is None else len(self._rows)

    def row(self, index: int) -> Utterance:
        """Return utterance number `index`, in constant time."""
        if not 0 <= index < len(self):
            raise IndexError(f"utterance {index} of a manifest of {len(self)}")
        row = index if self._rows is None else int(self._rows[index])
        return Utterance(**self._table.slice(row, 1).to_pylist()[0])

    @property
    def has_pairs(self) -> bool:
        """Whether the degraded side of the utterances is recorded."""
        return "degraded_path" in self._table.column_names

    def positions(self, corpus: str) -> Int[np.ndarray, "row"]:
        """Return the numbers of one corpus's utterances in this manifest."""
        return np.flatnonzero(pa.compute.equal(self.column("corpus"), corpus).to_numpy()).astype(np.int32)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column."""
        return self._table[name] if self._rows is None else self._table[name].take(pa.array(self._rows))

    @property
    def digest(self) -> str:
        """Return the SHA-256 of what can alter training: content, split, corpus, speaker, language and length.

        Of recorded pairs also the degraded side's content, and where both begin.
        """
        if self._digest is None:
            names = (*PAIR_DIGESTED, *DIGESTED) if self.has_pairs else DIGESTED
            columns = pa.table({name: self.column(name) for name in names})
            digest = hashlib.sha256()
            for batch in columns.sort_by([(name, "ascending") for name in names]).to_batches(ROWS_IN_MEMORY):
                for row in batch.to_pylist():
                    digest.update(
                        ("\t".join([*map(str, list(row.values())[:-1]), repr(row["seconds"])]) + "\n").encode()
                    )
            self._digest = digest.hexdigest()
        return self._digest

    def _selected(self) -> pa.Table:
        return self._table if self._rows is None else self._table.take(pa.array(self._rows))


def relative_path(path: Path, root: Path) -> str:
    """Return `path` relative to `root`, or absolute where it lies outside; with forward slashes, links not resolved."""
    path, root = Path(os.path.abspath(path)), Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _read_mapped(path: Path) -> Manifest | None:
    """Return the manifest mapped from the `.arrow` beside a Parquet file, if that was written with it."""
    arrow = path.with_suffix(".arrow")
    if not arrow.is_file():
        return None
    file = pa.ipc.open_file(pa.memory_map(str(arrow)))
    metadata = file.schema.metadata or {}
    is_ours = any(file.schema.equals(schema) for schema in (SCHEMA, PAIR_SCHEMA))
    if not is_ours or metadata.get(b"parquet_sha256", b"").decode() != sha256_of(path):
        return None
    return Manifest(file.read_all(), digest=metadata[b"digest"].decode())
