"""What a folder of restored recordings was made with: weights, their training, options, versions."""

import json
import uuid
from pathlib import Path
from typing import Any

import torch
import transformers

from miipher2.atomic_io import replace_durably
from miipher2.audio.stream import temporary_name
from miipher2.inference.restorer import Restorer

FORMAT = 1  # of the result: to be raised when the same weights and options come to give another one
LINEAGE = "lineage.json"


def made_with(restorer: Restorer) -> dict[str, Any]:
    """Return what decides a restoration beside its input; device and versions round differently and are left out."""
    return {"format": FORMAT, "weights": restorer.weights.digest(), "options": restorer.options.describe()}


def lineage_of(restorer: Restorer) -> dict[str, Any]:
    """Return all that is known, for people."""
    return {
        **made_with(restorer),
        "sample_rate_hz": restorer.sample_rate_hz,
        "settings": restorer.weights.settings,
        "lineage": restorer.weights.lineage,
        "device": str(restorer.device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }


def write_lineage(folder: Path, lineage: dict[str, Any]) -> None:
    """Say in the folder what the recordings in it were made with."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / temporary_name(LINEAGE, uuid.uuid4().hex)
    temporary.write_text(json.dumps(lineage, indent=2, ensure_ascii=False) + "\n")
    replace_durably(temporary, folder / LINEAGE)
