"""Imports files: tells what each is from its keys, and writes published folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from miipher2.atomic_io import sha256_of
from miipher2.config.paths import folder_or_hub_name
from miipher2.importing.adapter import import_adapter, is_adapter
from miipher2.importing.encoder import save_hubert
from miipher2.importing.output import Published, write
from miipher2.importing.source import describe
from miipher2.importing.torch_file import SourceError, read_file


@dataclass(frozen=True)
class Sources:
    """What is imported.

    Args:
        adapter, vocoder: files of other projects; at least one.
        encoder: folder or hub name; None for the one that the files name.
    """

    adapter: Path | None
    encoder: str | None


def import_weights(out: Path, sources: Sources, root: Path) -> dict[str, Any]:
    """Import files into a new folder, and return the content of its `imported.json`.

    Args:
        root: the repository, where the relative folder of an encoder starts.

    Raises:
        FileNotFoundError: a file is missing.
        EncoderUnavailableError: the encoder is.
        SourceError: a file is none that can be imported; says why.
        ValueError: the parts do not fit together.
    """
    encoder = None if sources.encoder is None else str(folder_or_hub_name(sources.encoder, root))
    assert sources.adapter is not None
    content = read_file(sources.adapter)
    if not is_adapter(content):
        raise SourceError(f"{sources.adapter}: is {describe(content)}; should hold adapters, named adapters.0.…")
    adapter = import_adapter(sources.adapter, content, sha256_of(sources.adapter), encoder)
    return write(
        out,
        root,
        layer=adapter.layer,
        save_encoder=lambda folder: save_hubert(adapter.hubert, folder),
        encoder_source=f"in {sources.adapter.name}",
        adapter=Published({"adapter_hidden_dim": adapter.hidden_dim}, {"final": adapter.tensors}, adapter.record),
        vocoder=None,
    )
