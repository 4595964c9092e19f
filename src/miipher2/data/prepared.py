"""What the stage prepare_data wrote, read back: manifests of speech, noises and room responses, and corpus weights."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from miipher2.data.manifest import Manifest
from miipher2.data.pools import Pools


@dataclass(frozen=True)
class PreparedData:
    """The manifests of a folder of prepared data, and each corpus's share of training."""

    speech: Manifest
    noises: Manifest
    rooms: Manifest
    weights: dict[str, float]

    @classmethod
    def read(cls, root: Path, prepared: str) -> "PreparedData":
        """Read the folder `prepared` of the repository at `root`.

        Raises:
            FileNotFoundError: it holds no prepared data; says how to prepare some.
        """
        folder = root / prepared
        if not (folder / "manifest.parquet").is_file() or not (folder / "weights.json").is_file():
            raise FileNotFoundError(
                f"data.prepared={prepared}: {folder} holds no manifest.parquet with its weights.json; prepare it: "
                "uv run dvc repro prepare_data "
                "(or by hand: uv run stages/prepare_data.py --config-name=folder source=...)"
            )
        weights = json.loads((folder / "weights.json").read_text())
        speech, noises, rooms = (Manifest.read(folder / f"{name}.parquet") for name in ("manifest", "noise", "rooms"))
        return cls(speech, noises, rooms, weights)

    def pools(self, root: Path, split: str) -> Pools:
        """Return the pools of one split: noises, rooms, and voices for babble."""
        return Pools(self.noises.select(split), self.rooms.select(split), root, voices=self.speech.select(split))

    @property
    def digest(self) -> str:
        """Return one SHA-256 of everything that can alter training."""
        digests = [self.speech.digest, self.noises.digest, self.rooms.digest]
        if len(self.weights) > 1:  # the weight of a single corpus has no effect
            digests.append(json.dumps(self.weights, sort_keys=True))
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()
