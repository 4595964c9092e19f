"""The networks that restore, and how they are read: tensors of a safetensors file, or the folders of two stages."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Bool, Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from miipher2.atomic_io import sha256_of
from miipher2.config.paths import folder_or_hub_name
from miipher2.models.encoder.encoder import SpeechEncoder
from miipher2.models.encoder.feature_norm import FeatureNormaliser
from miipher2.models.encoder.from_pretrained import load_encoder
from miipher2.models.pretrained import IMPORTED
from miipher2.models.vocoder.generator import ChunkPosition, Generator
from miipher2.models.vocoder.registry import load_exported_generator

ENCODER_KEYS = ("hubert_model_name", "hubert_layer", "hubert_revision")
# Entries of a checkpoint's JSON that describe the training; `sources` is what older ones call `upstream_digests`.
LINEAGE_KEYS = (
    "stage", "step", "run_id", "saved_at", "sha256", "code", "data_sha256", "upstream_digests", "sources", "parents",
    "environment", "licences",
)  # fmt: skip


class Vocoder(nn.Module):
    """From features as the encoder gives them to waves: the vocoder's own statistics, then its generator."""

    def __init__(self, normaliser: FeatureNormaliser, generator: Generator) -> None:
        super().__init__()
        self.normaliser = normaliser
        self.generator = generator

    def forward(self, features: Float[Tensor, "batch frame dim"]) -> Float[Tensor, "batch time"]:
        """Return waves of `generator.hop_samples` values for each frame."""
        return self.generator(self.normaliser(features))

    def embed_window(
        self, features: Float[Tensor, "batch frame dim"], valid: Bool[Tensor, "batch frame"] | None
    ) -> Float[Tensor, "batch frame channel"]:
        """Return what the chunks of an encoder's window are cut from: its features, or what a prenet makes of them."""
        has_prenet = self.generator.has_prenet
        return self.generator.run_prenet(self.normaliser(features), valid) if has_prenet else features

    def forward_chunk(
        self, embedded: Float[Tensor, "batch frame channel"], position: ChunkPosition
    ) -> Float[Tensor, "batch time"]:
        """Return the waves of chunks of recordings."""
        return self.generator.forward_chunk(self._normalise(embedded), position)

    def advance_phase(self, embedded: Float[Tensor, "frame channel"], phase_cycles: float) -> float:
        """Return the phase of the fundamental at the last of some frames, given that at the first."""
        return self.generator.advance_phase(self._normalise(embedded[None])[0], phase_cycles)

    def _normalise(self, embedded: Float[Tensor, "batch frame channel"]) -> Float[Tensor, "batch frame channel"]:
        return embedded if self.generator.has_prenet else self.normaliser(embedded)


@dataclass(frozen=True)
class Weights:
    """The networks of a restorer.

    Args:
        encoder: with its adapters.
        normaliser: the adapter's statistics of clean features, for measuring feature errors.
        vocoder: trained for this encoder's features.
        settings: plain values from which the networks are built: the encoder's name, revision and layer,
            `adapter_hidden_dim`, `sample_rate_hz`, `generator`.
        lineage: a record of the training, for people.
    """

    encoder: SpeechEncoder
    normaliser: FeatureNormaliser
    vocoder: Vocoder
    settings: dict[str, Any] = field(default_factory=dict)
    lineage: dict[str, Any] = field(default_factory=dict)

    @property
    def sample_rate_hz(self) -> int:
        """Return the sample rate of the output."""
        return self.vocoder.generator.sample_rate_hz

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors but the frozen encoder's, as a bundle names them."""
        parts = {
            "adapters": self.encoder.adapter_state_dict(),
            "normaliser": self.normaliser.state_dict(),
            "vocoder.normaliser": self.vocoder.normaliser.state_dict(),
            "vocoder.generator": self.vocoder.generator.exported_state_dict(),
        }
        return {f"{part}.{name}": tensor for part, state in parts.items() for name, tensor in state.items()}

    def digest(self) -> str:
        """Return a sha256 that differs where any weight of any part does."""
        digest = hashlib.sha256(self.encoder.digest.encode())
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


class WeightsFile:
    """The tensors of a safetensors file, in float32.

    Raises:
        ValueError: it is damaged, or holds a value that is not finite.
    """

    def __init__(self, path: Path, remedy: str) -> None:
        self.path = path
        try:
            self._tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); {remedy}") from error
        if broken := [name for name, tensor in self._tensors.items() if not bool(tensor.isfinite().all())]:
            raise ValueError(f"{path}: '{broken[0]}' holds values that are not finite; train it again")

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors under a prefix, named without it; there must be some."""
        part = {name.removeprefix(prefix): value for name, value in self._tensors.items() if name.startswith(prefix)}
        if not part:
            raise ValueError(f"{self.path}: has no tensors under '{prefix}'; is it the folder of the right stage?")
        return part

    def normaliser(self, prefix: str, dim: int) -> FeatureNormaliser:
        """Return statistics of features."""
        normaliser = FeatureNormaliser(dim)
        try:
            normaliser.load_state_dict(self.tensors(prefix))
        except RuntimeError as error:
            raise ValueError(f"{self.path}: does not fit an encoder of {dim} dimensions: {_one_line(error)}") from error
        return normaliser

    def encoder(self, prefix: str, name_or_folder: str | Path, settings: Mapping[str, Any]) -> SpeechEncoder:
        """Return the frozen encoder with the adapters of this file; `settings` as in `Weights`.

        Raises:
            EncoderUnavailableError: there is no such encoder.
            ValueError: the adapters do not fit it.
        """
        encoder = load_encoder(name_or_folder, settings["hubert_layer"], revision=settings["hubert_revision"])
        encoder.add_adapters(settings["adapter_hidden_dim"])
        try:
            encoder.load_adapter_state_dict(self.tensors(prefix))
        except RuntimeError as error:
            raise ValueError(
                f"{self.path}: does not fit {name_or_folder} with its adapters: {_one_line(error)}"
            ) from error
        return encoder

    def vocoder(
        self, prefix: str, normaliser_prefix: str, settings: Mapping[str, Any], dim: int, config: Path
    ) -> Vocoder:
        """Return the vocoder for features of `dim` values; `settings`, as in `Weights`, are those of `config`.

        Raises:
            ValueError: the tensors do not fit the settings.
        """
        numbers = {"dim": dim, "sample_rate_hz": settings["sample_rate_hz"], **settings["generator"]}
        try:
            generator = load_exported_generator(self.tensors(prefix), **numbers)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self.path}: does not fit {config}: {error}") from error
        return Vocoder(self.normaliser(normaliser_prefix, dim), generator)


def load_published(adapter_dir: Path, vocoder_dir: Path, root: Path) -> Weights:
    """Return the weights that stage 1, and stage 2 or 3, published.

    Args:
        adapter_dir, vocoder_dir: folders that hold `config.yaml` and `final.safetensors`.
        root: the repository, where an encoder's relative folder starts.

    Raises:
        FileNotFoundError: a file is missing; says how to make it.
        EncoderUnavailableError: the encoder of both is unavailable.
        ValueError: a file is damaged or lacks an entry, or the two were trained for different encoders.
    """
    adapter, vocoder = _PublishedFolder(adapter_dir), _PublishedFolder(vocoder_dir)
    for key in ENCODER_KEYS:
        values = adapter.settings.get(key), vocoder.settings.get(key)
        if values[0] != values[1]:
            raise ValueError(
                f"model.{key} is {values[0]!r} in {adapter.config} and {values[1]!r} in {vocoder.config}; "
                "adapter and vocoder should be trained for one encoder and layer"
            )
    settings = {
        "sample_rate_hz": vocoder.setting("sample_rate_hz"),
        "generator": vocoder.setting("generator"),
        "adapter_hidden_dim": adapter.setting("adapter_hidden_dim"),
        "hubert_model_name": adapter.setting("hubert_model_name"),
        "hubert_layer": adapter.setting("hubert_layer"),
        "hubert_revision": adapter.settings.get("hubert_revision"),
    }
    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be overwritten
        name = folder_or_hub_name(settings["hubert_model_name"], root)
        encoder = adapter.file.encoder("adapters.", name, settings)
        networks = vocoder.file.vocoder("generator.", "normaliser.", settings, encoder.dim, vocoder.config)
    return Weights(
        encoder,
        adapter.file.normaliser("normaliser.", encoder.dim),
        networks,
        settings,
        {
            "encoder": {**{key: settings[key] for key in ENCODER_KEYS}, "sha256": encoder.digest},
            "adapter": adapter.lineage(),
            "vocoder": vocoder.lineage(),
        },
    )


class _PublishedFolder:
    """The `model` section of a stage's configuration, and its tensors."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config, weights = folder, folder / "config.yaml", folder / "final.safetensors"
        for path in (self.config, weights):
            if not path.is_file():
                raise FileNotFoundError(
                    f"{path}: missing; a stage writes it when it ends: uv run dvc repro, or fetch it: uv run dvc pull"
                )
        try:
            config = yaml.safe_load(self.config.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{self.config}: is not YAML ({error}); should be a stage's configuration") from error
        if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
            raise ValueError(f"{self.config}: has no section 'model'; should be a stage's configuration")
        self.settings: dict[str, Any] = config["model"]
        self.file = WeightsFile(weights, f"fetch it again: uv run dvc checkout --force {shlex.quote(str(folder))}")

    def setting(self, key: str) -> Any:
        """Return one value of the `model` section, which must have it."""
        if self.settings.get(key) is None:
            raise ValueError(f"{self.config}: has no model.{key}; is it the folder of the right stage?")
        return self.settings[key]

    def lineage(self) -> dict[str, Any]:
        """Return digests, and what the newest published checkpoint says of the training, where there is one."""
        summaries: list[dict[str, Any]] = []
        for path in self.folder.glob("checkpoint_*.json"):
            try:
                summaries.append(json.loads(path.read_text()))
            except (ValueError, OSError):
                continue  # the weights are whole all the same; `miipher2 checkpoint verify` reports it
        newest = max(summaries, key=lambda summary: int(summary.get("step", -1)), default={})
        imported = self.folder / IMPORTED
        return {
            "weights_sha256": sha256_of(self.file.path),
            "config_sha256": sha256_of(self.config),
            "training": {key: newest[key] for key in LINEAGE_KEYS if key in newest},
            **({"imported": _read_json(imported)} if imported.is_file() else {}),
        }


def _read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ValueError: it is damaged.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: is not JSON ({error}); import it again") from None


def _one_line(error: RuntimeError) -> str:
    return " ".join(str(error).split())
