"""What is known of the licences in a bundle, and which licence the bundle may have."""

from typing import Any

import pytest

from miipher2.inference.hub import choose_licence
from miipher2.inference.licences import licences_of_lineage

FREE = {"licence": "MIT (Vocos)", "is_non_commercial": False}


def lineage(encoder: str, **imported: Any) -> dict[str, Any]:
    return {
        "encoder": {"hubert_model_name": encoder},
        **{part: {"imported": record} for part, record in imported.items()},
    }


def test_an_encoder_without_commercial_use_comes_first_and_gives_its_licence() -> None:
    found = lineage("utter-project/mHuBERT-147", vocoder=FREE)
    assert [(part, excludes) for part, _, excludes in licences_of_lineage(found)] == [
        ("encoder", True),
        ("vocoder", False),
    ]
    assert choose_licence(None, found) == "cc-by-nc-sa-4.0"
    assert choose_licence("cc-by-nc-4.0", found) == "cc-by-nc-4.0"
    with pytest.raises(ValueError, match=r"--license mit: .* the encoder: .* excludes; should be cc-by-nc-sa-4.0"):
        choose_licence("mit", found)


def test_a_free_licence_of_a_part_is_not_that_of_the_bundle() -> None:
    found = lineage("models/mini/restorer/encoder", vocoder=FREE)
    with pytest.raises(ValueError, match="--license is missing"):
        choose_licence(None, found)
    assert choose_licence("mit", found) == "mit"
    assert licences_of_lineage({}) == []
