"""Where the repository is, and names that may be a folder in it or something elsewhere."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def folder_or_hub_name(name: str, root: Path = ROOT) -> Path | str:
    """Return the local folder that an encoder's name refers to, taken from `root`; any other name as it is."""
    return root / name if (root / name).is_dir() else name
