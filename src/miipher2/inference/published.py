"""Weights from the folders that two training stages published."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import yaml

from miipher2.inference.weights import Vocoder, Weights, WeightsFile

SHARED = ("hubert_model_name", "hubert_layer", "hubert_revision")
# What a checkpoint's JSON says of the training that led to it; its configuration lies beside it in config.yaml.
LINEAGE = ("stage", "step", "run_id", "saved_at", "sha256", "code", "data_sha256", "sources", "parents", "environment")


def load_published(adapter_dir: Path, vocoder_dir: Path, root: Path) -> Weights:
    """Return the weights that stage 1, and stage 2 or 3, published.

    Args:
        adapter_dir, vocoder_dir: folders that hold `config.yaml` and `final.safetensors`.
        root: the repository, from which an encoder's relative folder is taken.

    Raises:
        FileNotFoundError: a file is missing; says how to make it.
        EncoderUnavailableError: the encoder that both name is not to be had.
        ValueError: a file is damaged or lacks an entry, or the two were trained for different encoders.
    """
    adapter, vocoder = _Published(adapter_dir), _Published(vocoder_dir)
    for key in SHARED:
        cleaned, voiced = adapter.settings.get(key), vocoder.settings.get(key)
        if cleaned != voiced:
            raise ValueError(
                f"model.{key} is {cleaned!r} in {adapter.config} and {voiced!r} in {vocoder.config}; "
                "adapter and vocoder should be trained for one encoder and layer"
            )
    settings = {
        "sample_rate_hz": vocoder.setting("sample_rate_hz"),
        "generator": vocoder.setting("generator"),
        "adapter_hidden_dim": adapter.setting("adapter_hidden_dim"),
        **{key: adapter.settings.get(key) for key in SHARED},
    }
    name = adapter.setting("hubert_model_name")
    found = root / name if (root / name).is_dir() else name
    with torch.random.fork_rng(devices=[]):  # weights are drawn, only to be overwritten
        encoder = adapter.file.encoder(
            "adapters.", found, adapter.setting("hubert_layer"), settings["adapter_hidden_dim"], settings[SHARED[2]]
        )
        numbers = {"dim": encoder.dim, "sample_rate_hz": settings["sample_rate_hz"], **settings["generator"]}
        generator = vocoder.file.generator("generator.", vocoder.config, numbers)
    return Weights(
        encoder,
        adapter.file.normaliser("normaliser.", encoder.dim),
        Vocoder(vocoder.file.normaliser("normaliser.", encoder.dim), generator),
        settings,
        {
            "encoder": {**{key: settings[key] for key in SHARED}, "sha256": encoder.digest},
            "adapter": adapter.lineage(),
            "vocoder": vocoder.lineage(),
        },
    )


class _Published:
    """What a stage published: the `model` section of its configuration, and its tensors."""

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
        self.file = WeightsFile(weights, "fetch it again: uv run dvc checkout")

    def setting(self, key: str) -> Any:
        """Return one value of the `model` section, which must have it."""
        if self.settings.get(key) is None:
            raise ValueError(f"{self.config}: has no model.{key}; is it the folder of the right stage?")
        return self.settings[key]

    def lineage(self) -> dict[str, Any]:
        """Return digests, and what the newest published checkpoint says of the training; that may be missing."""
        said: list[dict[str, Any]] = []
        for path in self.folder.glob("checkpoint_*.json"):
            try:
                said.append(json.loads(path.read_text()))
            except (ValueError, OSError):
                continue  # the weights are whole all the same; `miipher2 checkpoint verify` is who complains
        newest = max(said, key=lambda one: int(one.get("step", -1)), default={})
        return {
            "weights_sha256": hashlib.sha256(self.file.path.read_bytes()).hexdigest(),
            "config_sha256": hashlib.sha256(self.config.read_bytes()).hexdigest(),
            "training": {key: newest[key] for key in LINEAGE if key in newest},
        }
