"""What is not imported: seconds of start-up that a command pays only where it needs them."""

import subprocess
import sys
from pathlib import Path

import pytest

from miipher2.config.paths import ROOT

# Each costs a third of a second to three seconds. torch._dynamo is the compiler, with SymPy and Triton.
HEAVY = {
    "ctranslate2", "faster_whisper", "matplotlib", "pandas", "pyroomacoustics", "scipy", "scipy.optimize", "sklearn",
    "torch._dynamo", "torchaudio", "transformers", "wandb",
}  # fmt: skip
RECORDING = ROOT / "data/embedded/en/agent_pass.flac"  # 48 kHz, so that it is resampled


def heavy_after(code: str, *arguments: str | Path) -> set[str]:
    """Return which heavy modules a new process has imported after some code."""
    show = f"import sys\n{code}\nsys.stdout.write('\\n' + ' '.join(sorted({HEAVY!r} & sys.modules.keys())))"
    done = subprocess.run([sys.executable, "-c", show, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("\n")[-1].split())


def test_restoring_with_the_model_that_ships_imports_none_of_them(tmp_path: Path) -> None:
    code = "from miipher2.cli.main import main; assert main(sys.argv[1:]) == 0"
    assert heavy_after(code, "restore", RECORDING, tmp_path / "restored.wav") == set()


@pytest.mark.slow
def test_other_encoders_import_no_more_than_their_models_need() -> None:
    needed = {"transformers", "torchaudio", "torch._dynamo"}
    assert heavy_after("import miipher2.models.encoder.transformers_models") <= needed


@pytest.mark.parametrize(
    ("script", "needed"),
    [
        ("check_params", set()),
        ("prepare_data", {"pyroomacoustics", "scipy", "scipy.optimize"}),
        ("train_adapter", {"torchaudio"}),
        ("pre_train_vocoder", {"torchaudio"}),
        ("finetune_vocoder", {"torchaudio"}),
        ("evaluate", {"matplotlib", "pyroomacoustics", "scipy", "scipy.optimize", "torchaudio"}),
    ],
)
def test_a_stage_script_imports_what_it_needs(script: str, needed: set[str]) -> None:
    assert heavy_after(f"import runpy; runpy.run_path('stages/{script}.py')") <= needed


def test_a_loader_worker_imports_none_of_them_unless_it_resamples() -> None:
    """Workers are forks: what the parent has imported they have."""
    assert heavy_after("import miipher2.data.dataloader") == set()
