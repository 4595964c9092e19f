"""Weights to start from or restore with: what a stage published, or a bundle, in a local folder or on the hub."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from miipher2.config.paths import HUB_NAME, is_hub_name, real_path

# `bundle.json` tells a bundle from a published folder. Each part: file and prefix of the tensors in a bundle, then in
# what a stage published.
BUNDLE, ENCODER = "bundle.json", "encoder"
IMPORTED = "imported.json"  # where weights of another project came from, beside them
PARTS = {
    "adapters": (("weights", "adapters."), ("final", "adapters.")),
    "adapter_optimizer": (("weights", "optimizer."), ("final", "optimizer.")),  # of an import with --optimizer
    "adapter_normaliser": (("weights", "normaliser."), ("final", "normaliser.")),
    "generator": (("weights", "vocoder.generator."), ("final", "generator.")),
    "vocoder_normaliser": (("weights", "vocoder.normaliser."), ("final", "normaliser.")),
    "discriminators": (("discriminators", ""), ("discriminators", "")),
}
OPTIONAL = {"adapter_optimizer"}  # a file may lack it
# Of a hub repository; its checkpoints, pictures and audio are left there.
FILES = ["*.json", "*.yaml", "weights.safetensors", "final.safetensors", "discriminators.safetensors", "encoder/*"]


class PretrainedWeights:
    """A folder of weights that a stage starts from.

    Args:
        key: the configuration key that names it, for messages.
        name: a folder, relative to `root`, or `owner/name[@revision]` on the Hugging Face hub.

    Attributes:
        licences: of what the weights were made from, as far as it is recorded; see `licences_of_part`.

    Raises:
        FileNotFoundError: there is no such folder, or a file in it is missing; says how to make it.
        ValueError: a file is damaged.
    """

    licences: list[dict[str, Any]]

    def __init__(self, key: str, name: str, root: Path) -> None:
        self.label = f"{key}={name}"
        self._name, self._root, self._is_on_hub = name, root, is_hub_name(name, root)
        self._folder = find_weights(name, root, self.label)
        self.is_bundle = (self._folder / BUNDLE).is_file()
        if not self.is_bundle:
            self._existing("final.safetensors")
        self.settings, self.encoder_sha256 = self._read_bundle() if self.is_bundle else self._read_published()

    def has(self, part: str) -> bool:
        """Return whether the file of a part is there."""
        return (self._folder / f"{self._place(part)[0]}.safetensors").is_file()

    def read(self, *parts: str) -> tuple[list[dict[str, Tensor]], str]:
        """Return the tensors of each of some parts of one file, in float32, and the sha256 of the file.

        Raises:
            FileNotFoundError, ValueError: as of the class; or the file has no such part.
        """
        places = [self._place(part) for part in parts]
        (file,) = {file for file, _ in places}
        path = self._existing(f"{file}.safetensors")
        data = path.read_bytes()
        try:
            tensors = load(data)
        except SafetensorError as error:
            raise ValueError(f"{self.label}: {path} is damaged ({error}); {self._remedy()}") from None
        found = []
        for name, (_, prefix) in zip(parts, places, strict=True):
            part = {key.removeprefix(prefix): each.float() for key, each in tensors.items() if key.startswith(prefix)}
            if not part and name not in OPTIONAL:
                raise ValueError(f"{self.label}: {path} has no tensors under '{prefix}'; is it of the right stage?")
            found.append(part)
        return found, hashlib.sha256(data).hexdigest()

    def check(self, **wanted: Any) -> None:
        """Check that the settings which these weights were trained with are those of the stage.

        Raises:
            ValueError: one is not; names both.
        """
        for setting, value in wanted.items():
            found = self.settings.get(setting)
            if _without_nulls(found) != _without_nulls(value):
                raise ValueError(f"{self.label} was trained with model.{setting}={found}; this stage has {value}")

    def check_encoder(self, model: Any, digest: str) -> None:
        """Check that these weights are for the features of a stage's encoder.

        Args:
            model: the `model` section of the stage.
            digest: sha256 of its encoder.

        Raises:
            ValueError: the layer or the encoder is another one; names both.
        """
        self.check(hubert_layer=model.hubert_layer)
        if self.encoder_sha256 is None:
            self.check(hubert_model_name=model.hubert_model_name)
        elif self.encoder_sha256 != digest and not self._contains(model.hubert_model_name):
            raise ValueError(
                f"{self.label} was trained on the encoder {self.settings.get('hubert_model_name')} (sha256 "
                f"{self.encoder_sha256}); this stage has {model.hubert_model_name} (sha256 {digest})"
            )

    def _contains(self, encoder: str) -> bool:
        """Return whether an encoder is a bundle's own: the one it was trained on, in the precision of the bundle."""
        return self.is_bundle and real_path(self._root / encoder) == real_path(self._folder / ENCODER)

    def _place(self, part: str) -> tuple[str, str]:
        return PARTS[part][0 if self.is_bundle else 1]

    def _existing(self, file: str) -> Path:
        path = self._folder / file
        if not path.is_file() and self._is_on_hub:
            raise FileNotFoundError(f"{self.label}: has no {file}; should be what a stage published, or a bundle")
        if not path.is_file():
            raise FileNotFoundError(
                f"{self.label}: {path} is missing; train the earlier stage first (uv run dvc repro), or fetch it "
                "(uv run dvc pull)"
            )
        return path

    def _remedy(self) -> str:
        if self._is_on_hub:
            return f"remove {self._folder}, so that it is fetched again"
        return "restore it: " + shlex.join(["uv", "run", "dvc", "checkout", "--force", self._name])

    def _read_bundle(self) -> tuple[dict[str, Any], str | None]:
        description = self._parse(self._existing(BUNDLE), json.loads)
        lineage = description.get("lineage")
        parts = lineage.values() if isinstance(lineage, dict) else ()
        self.licences = [each for part in parts for each in licences_of_part(part)]
        return self._section(description, "settings", BUNDLE), _encoder_sha256(lineage, "sha256")

    def _read_published(self) -> tuple[dict[str, Any], str | None]:
        config = self._parse(self._existing("config.yaml"), yaml.safe_load)
        trained = [self._parse(path, json.loads) for path in self._folder.glob("checkpoint_*.json") if path.is_file()]
        newest = max(trained, key=lambda each: each["step"] if type(each.get("step")) is int else -1, default={})
        path = self._folder / IMPORTED
        imported = self._parse(path, json.loads) if path.is_file() else {}
        self.licences = licences_of_part({"training": newest, "imported": imported})
        digests = ({"encoder": each.get("upstream_digests") or each} for each in (newest, imported))
        digest = next((found for each in digests if (found := _encoder_sha256(each, "encoder")) is not None), None)
        return self._section(config, "model", "config.yaml"), digest

    def _parse(self, path: Path, parse: Any) -> dict[str, Any]:
        try:
            values = parse(path.read_text())
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"{self.label}: {path} is damaged ({' '.join(str(error).split())})") from None
        if not isinstance(values, dict):
            raise ValueError(f"{self.label}: {path} holds no mapping")
        return values

    def _section(self, values: dict[str, Any], key: str, file: str) -> dict[str, Any]:
        if not isinstance(values.get(key), dict):
            raise ValueError(f"{self.label}: {self._folder / file} has no section '{key}'")
        section: dict[str, Any] = values[key]
        return section


def _without_nulls(value: Any) -> Any:
    """Return settings without those that are off, which older weights do not name."""
    return {key: each for key, each in value.items() if each is not None} if isinstance(value, dict) else value


def licences_of_part(part: Any) -> list[dict[str, Any]]:
    """Return the licences in one part of a lineage: of an import, and of what its training started from.

    Each has `of`, `licence` and `is_non_commercial`.
    """
    if not isinstance(part, dict):
        return []
    imported, training = part.get("imported") or {}, part.get("training") or {}
    found = list(training.get("licences", []))
    if "licence" in imported:
        of = f"{imported.get('kind')} ({imported.get('file')})"
        licence = imported["licence"] or "unknown"
        found.append({"of": of, "licence": licence, "is_non_commercial": bool(imported.get("is_non_commercial"))})
    return found


def licences_of_start(encoder: str, init_from: Mapping[str, str | None], root: Path) -> list[dict[str, Any]]:
    """Return the licences of the imported encoder and of the weights that a stage starts from, each once.

    Args:
        encoder: name or folder of the encoder; only a folder that `miipher2 import` wrote has a licence of its own.
        init_from: that section of its configuration.

    Raises:
        FileNotFoundError, ValueError: as `PretrainedWeights`.
    """
    imported = root / encoder / IMPORTED
    try:
        found = licences_of_part({"imported": json.loads(imported.read_text())}) if imported.is_file() else []
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{imported}: damaged ({error}); should be what `miipher2 import` wrote") from None
    for key, name in init_from.items():
        if name is not None:
            licences = PretrainedWeights(f"init_from.{key}", name, root).licences
            found += [each for each in licences if each not in found]
    return found


def find_weights(name: str, root: Path, label: str | None = None) -> Path:
    """Return the folder that a name refers to, taken from `root`; a hub repository is fetched, or read from the cache.

    Raises:
        FileNotFoundError: it is neither a folder nor a repository that can be had.
    """
    folder, match = root / name, HUB_NAME.fullmatch(name)
    if match is None or not is_hub_name(name, root):
        return folder
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(match["repository"], revision=match["revision"], allow_patterns=FILES))
    except (HTTPError, HFValidationError, OSError) as error:
        raise FileNotFoundError(
            f"{label or name}: {folder} is missing, and {name} cannot be fetched from the Hugging Face hub "
            f"({explain_hub_error(error, match['repository'], match['revision'])})"
        ) from None


def explain_hub_error(error: Exception, repository: str, revision: str | None = None) -> str:
    """Return in a few words what the hub, or the way to it, refused."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    match error:
        case GatedRepoError():
            return f"{repository} asks to be granted access on its page first"
        case RepositoryNotFoundError():
            return f"there is no repository {repository} there, or it is private and the token does not open it"
        case RevisionNotFoundError():
            return f"{repository} has no revision {revision}"
        case HFValidationError():
            return f"{repository} is no name of a repository there"
        case LocalEntryNotFoundError():
            return "it cannot be reached, and the cache does not have it"
        case HfHubHTTPError():
            return " ".join(f"{error.response.status_code}: {error.server_message or error}".split())
    return " ".join(f"{type(error).__name__}: {error}".split())


def _encoder_sha256(lineage: Any, key: str) -> str | None:
    value = lineage.get("encoder", {}).get(key) if isinstance(lineage, dict) else None
    return value if isinstance(value, str) else None
