"""Configurations of data from plain values, and the stage prepare_data run with few noises and rooms."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from miipher2.config.load import to_dataclass
from miipher2.config.schema_data import DataConfig, DegradationConfig, PrepareDataConfig
from miipher2.preparation.prepare import prepare

NO_DEGRADATION = DegradationConfig()


def degradation_config(values: dict[str, Any]) -> DegradationConfig:
    """Return the degradation of the sections given; the others never happen."""
    return to_dataclass(OmegaConf.merge(OmegaConf.structured(DegradationConfig), values), "degradation.")


def data_config(
    crop_seconds: float = 1.0, level_db: tuple[float, float] = (-30.0, -20.0), **changes: Any
) -> DataConfig:
    """Return the settings of a dataset's crops."""
    return DataConfig(crop_seconds=crop_seconds, level_db=list(level_db), **changes)


def prepare_folder(source: Path, prepared: Path, root: Path, **changes: Any) -> dict[str, Any]:
    """Prepare the speech in a folder and return the report."""
    settings: dict[str, Any] = {"seed": 0, "noise_files": 1, "rooms": 1, **changes}
    return prepare(PrepareDataConfig(source=str(source), prepared=str(prepared), **settings), root)
