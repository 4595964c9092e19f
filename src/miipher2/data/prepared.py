"""What the stage prepare_data made, read back: the manifests of speech, noises and room responses."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from miipher2.data.manifest import Manifest


@dataclass(frozen=True)
class Prepared:
    """The manifests in one folder of prepared data."""

    speech: Manifest
    noises: Manifest
    rooms: Manifest

    @classmethod
    def read(cls, root: Path, prepared: str) -> "Prepared":
        """Read the manifests in the folder `prepared` of the repository at `root`.

        Raises:
            FileNotFoundError: it holds none; says how to make them.
        """
        folder = root / prepared
        if not (folder / "manifest.parquet").is_file():
            raise FileNotFoundError(
                f"data.prepared={prepared}: {folder} holds no manifest.parquet; make it: uv run dvc repro prepare_data "
                "(or uv run stages/prepare_data.py --config-name=folder source=... by hand)"
            )
        return cls(*(Manifest.read(folder / f"{name}.parquet") for name in ("manifest", "noise", "rooms")))

    @property
    def digest(self) -> str:
        """Return one digest of all that can alter training."""
        digests = (self.speech.digest, self.noises.digest, self.rooms.digest)
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()
