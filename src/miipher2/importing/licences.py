"""Licences of what is imported, as far as they are known; no file names its own."""

NON_COMMERCIAL = {"mHuBERT-147": "cc-by-nc-sa-4.0"}  # by a part of the encoder's name


def licence_of(*names: object) -> tuple[str, bool]:
    """Return what is known of the licence of the original's checkpoints, and whether commercial use is excluded.

    Args:
        names: of the encoder that is part of the file, as the file and the user call it.
    """
    for part, licence in NON_COMMERCIAL.items():
        if any(part in str(name) for name in names):
            return (
                f"holds {part}, which is {licence}: no commercial use; the hub page of the released checkpoints says "
                "cc-by-nc-4.0",
                True,
            )
    return "that of whoever trained it, and of the encoder in it; the released checkpoints are cc-by-nc-4.0", False
