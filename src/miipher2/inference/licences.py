"""Licences of what is imported and of encoders, as far as they are known; no file names its own."""

from collections.abc import Mapping
from typing import Any

from miipher2.models.pretrained import licences_of_part

NON_COMMERCIAL = {"mHuBERT-147": "cc-by-nc-sa-4.0"}  # by a part of the encoder's name


def licence_of(*names: object) -> tuple[str, bool]:
    """Return what is known of the licence of the original's checkpoints, and whether commercial use is excluded.

    Args:
        names: of the encoder that is part of the file, as the file and the user call it.
    """
    if (found := non_commercial_part(*names)) is not None:
        return (
            f"holds {found[0]}, which is {found[1]}: no commercial use; the hub page of the released checkpoints says "
            "cc-by-nc-4.0",
            True,
        )
    return "that of whoever trained it, and of the encoder in it; the released checkpoints are cc-by-nc-4.0", False


def non_commercial_part(*names: object) -> tuple[str, str] | None:
    """Return an encoder whose licence excludes commercial use and that one of some names contains, and the licence."""
    known = (each for each in NON_COMMERCIAL.items() if any(each[0] in str(name) for name in names))
    return next(known, None)


def licences_of_lineage(lineage: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Return part, licence and whether it excludes commercial use for what a bundle is made of; these come first."""
    name = lineage.get("encoder", {}).get("hubert_model_name")
    encoder = non_commercial_part(name)
    found = [] if encoder is None else [("encoder", f"{name}: {encoder[1]}", True)]
    for part in ("adapter", "vocoder"):
        record = lineage.get(part, {})
        for each in licences_of_part(record):
            started = "" if record.get("imported") else f"started from {each['of']}: "
            found.append((part, f"{started}{each['licence']}", bool(each["is_non_commercial"])))
    return sorted(found, key=lambda each: not each[2])
