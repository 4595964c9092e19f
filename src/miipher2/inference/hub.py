"""A bundle on the Hugging Face hub: what is checked before, its model card, and the upload."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import yaml

from miipher2.config.paths import HUB_NAME, ROOT, is_hub_name
from miipher2.inference.licences import licences_of_lineage
from miipher2.inference.weights import Weights
from miipher2.models.pretrained import explain_hub_error

CARD, TEMPLATE = "README.md", "model_card.md.jinja"
TAGS = ["speech-restoration", "speech-enhancement", "miipher-2"]
NOT_MEASURED = "Nothing was measured with these weights."
# Of a bundle that was there before: the new one may lack them.
OPTIONAL = ["discriminators.safetensors", "encoder/*", "*.onnx"]


@dataclass(frozen=True)
class Push:
    """Where a bundle goes: `owner/name` on the hub, private where the repository is new and wants to be."""

    repository: str
    is_private: bool = False

    def check(self) -> None:
        """Check that the name is one, and that the hub knows the user.

        Raises:
            ValueError: it is none.
            PermissionError: there is no token, or the hub does not know it.
            ConnectionError: the hub cannot be reached.
        """
        from httpx import HTTPError
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        from huggingface_hub.utils._validators import validate_repo_id

        match = HUB_NAME.fullmatch(self.repository)
        try:
            validate_repo_id(self.repository)
        except HFValidationError:
            match = None
        if match is None or match["revision"] is not None:
            raise ValueError(f"--push {self.repository}: should be owner/name, a repository of the Hugging Face hub")
        login = "log in with `uv run hf auth login`, or set HF_TOKEN"
        if get_token() is None:
            raise PermissionError(f"--push {self.repository}: there is no token of the Hugging Face hub; {login}")
        try:
            HfApi().whoami()
        except HfHubHTTPError as error:
            if error.response.status_code not in (401, 403):
                raise ConnectionError(
                    f"--push {self.repository}: {explain_hub_error(error, self.repository)}"
                ) from None
            raise PermissionError(f"--push {self.repository}: the hub does not accept the token; {login}") from None
        except (HTTPError, OSError) as error:
            reason = explain_hub_error(error, self.repository)
            raise ConnectionError(f"--push {self.repository}: the hub cannot be reached ({reason})") from None

    def upload(self, folder: Path) -> tuple[str, str]:
        """Upload a bundle; return the address and the id of the commit.

        Raises:
            ConnectionError: it cannot be; the folder stays, and the message says how to go on.
        """
        from httpx import HTTPError
        from huggingface_hub import HfApi

        try:
            HfApi().create_repo(self.repository, private=self.is_private or None, exist_ok=True)
            commit = HfApi().upload_folder(
                repo_id=self.repository,
                folder_path=folder,
                delete_patterns=OPTIONAL,
                commit_message="Upload a bundle",
            )
        except (HTTPError, OSError, ValueError) as error:
            reason = explain_hub_error(error, self.repository)
            private = ["--private"] if self.is_private else []
            deletions = [f"--delete={pattern}" for pattern in OPTIONAL]
            again = shlex.join(["uv", "run", "hf", "upload", self.repository, str(folder), ".", *deletions, *private])
            raise ConnectionError(
                f"{folder} is whole, but was not pushed to {self.repository} ({reason}); push it again: {again}"
            ) from None
        return commit.commit_url, commit.oid


def choose_licence(wanted: str | None, lineage: Mapping[str, Any]) -> str:
    """Return the id of a bundle's licence: what the user names, or what excludes commercial use in its lineage.

    Raises:
        ValueError: neither is there, or the first allows what the second excludes.
    """
    non_commercial = [f"{part}: {licence}" for part, licence, excludes in licences_of_lineage(lineage) if excludes]
    named = re.search(r"\bcc-by-nc[\w.-]*\d", non_commercial[0]) if non_commercial else None
    if wanted is None and named is None:
        raise ValueError("--push: --license is missing; should be an id of the hub, such as mit or cc-by-4.0")
    licence = wanted or (named[0] if named else "")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence):
        raise ValueError(f"--license {licence!r}: should be an id of the hub, such as mit or cc-by-4.0")
    if non_commercial and "-nc" not in licence and licence != "other":
        raise ValueError(
            f"--license {licence}: allows commercial use, which the {non_commercial[0]} excludes; should be "
            f"{named[0] if named else 'one that excludes it'}, or other"
        )
    return licence


def make_card(
    weights: Weights, repository: str, licence: str, figures: str | None, *, precision: str, encoder: str
) -> str:
    """Return the model card of a bundle.

    Args:
        figures: Markdown; None where nothing was measured.
        encoder: "include" or "reference".
    """
    lineage, name = weights.lineage, weights.settings["hubert_model_name"]
    licences = licences_of_lineage(lineage)
    metadata = {"license": licence, "library_name": "miipher2", "pipeline_tag": "audio-to-audio", "tags": TAGS}
    if is_hub_name(name, ROOT):
        metadata["base_model"] = name
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.ChainableUndefined,  # older lineages lack entries
        finalize=lambda value: "not recorded" if isinstance(value, jinja2.Undefined) else value,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(TEMPLATE).render(
        metadata=yaml.safe_dump(metadata, sort_keys=False),
        title=repository.partition("/")[2],
        repository=repository,
        precision=precision,
        is_encoder_included=encoder == "include",
        sample_rate_hz=weights.sample_rate_hz,
        figures=figures or NOT_MEASURED,
        encoder=lineage.get("encoder", {}),
        parts=[{"name": part, **lineage.get(part, {})} for part in ("adapter", "vocoder")],
        licence=licence,
        licences=licences,
        non_commercial=[each[:2] for each in licences if each[2]],
    )
