"""Every command that the product prints is one that works: taken from real output, then run, composed or parsed."""

import ast
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.cli import parse_args
from huggingface_hub.cli.hf import app as hf
from local_hub import run_local_hub, use
from tiny_checkpoints import Command
from tiny_repository import detach, git, make_run

from miipher2.cli import degrade, demo, doctor, evaluate, export, restore
from miipher2.cli import main as command_line
from miipher2.cli.checkpoint import commands as checkpoint
from miipher2.cli.doctor_checks import Training as Process
from miipher2.cli.doctor_checks import process_findings
from miipher2.config import params, resume_routing
from miipher2.config.command import resume_command
from miipher2.config.load import load_config
from miipher2.config.params import compose_config, compose_params, find_wrong_value
from miipher2.config.paths import ROOT
from miipher2.config.schema import STAGES
from miipher2.data.prepared import PreparedData
from miipher2.evaluation.metrics import asr, registry, whisper_base
from miipher2.inference.hub import Push
from miipher2.inference.weights import load_published
from miipher2.models.pretrained import PretrainedWeights

DVC = ["uv", "run", "dvc", "exp", "run", "-S", "train_adapter.seed=1"]
PROGRAMS = r"uv run|uv sync|git|rm|mv|mkdir|cp|kill"


def run(line: str, root: Path, miipher2: Command) -> None:
    """Run a printed line: what changes files in the shell, a resume up to its start, DVC up to its own parser."""
    if re.match(r"git|rm|mv|mkdir", line):
        line = line.replace("BRANCH", "main")
        done = subprocess.run(["bash", "-c", line], cwd=root, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}: {done.stderr}"
        return
    words = shlex.split(line)
    if words[0] == "kill":
        assert words[1:] == [str(os.getpid())]
    elif words[:2] == ["uv", "sync"]:
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert words[2] == "--extra"
        assert words[3] in extras
    elif words[2] == "dvc":
        parsed = parse_args(words[3:])
        if parsed.cmd == "exp":
            assert find_wrong_value(compose_params(parsed.set_param or [])) is None
    elif words[2] == "hf":
        hf.main([*words[3:], "--help"], prog_name="hf", standalone_mode=False)  # refuses unknown options before
    elif words[2] == "miipher2":
        parsed = command_line.make_parser().parse_args(words[3:])
        if parsed.run.__module__ == "miipher2.cli.params":
            assert miipher2(*words[3:]).code == 0
    else:
        run_stage_script(words[2:])


def run_stage_script(words: list[str]) -> None:
    """Compose what a script in stages/ would, behind a launcher or not, and find its checkpoint."""
    script = next(place for place, word in enumerate(words) if word.startswith("stages/"))
    assert (ROOT / words[script]).is_file()
    group = {"prepare_data": "data"}.get(Path(words[script]).stem, Path(words[script]).stem)
    options = [word for word in words[script + 1 :] if word.startswith("--config-name=")]
    default = re.search(r'@stage_script\("\w+", "(\w+)"\)', (ROOT / words[script]).read_text())
    assert default is not None
    name = options[0].partition("=")[2] if options else default[1]
    composed = compose_config(name, [word for word in words[script + 1 :] if word not in options], group=group)
    if group in STAGES:
        config = load_config(composed, group, STAGES[group].schema)
        assert resume_routing.find_checkpoint(config.checkpoint.resume_from) is not None


def commands_in(text: str) -> list[str]:
    """Return the commands in a message: between backquotes, after the last colon, or on lines of their own."""
    lines = [line.strip() for line in text.splitlines() if re.match(rf"\s*(?:{PROGRAMS}) ", line)]
    found = re.findall(rf"`((?:{PROGRAMS}) [^`]+)`", text)
    for line in re.sub(r"`[^`]*`", "", text).splitlines():
        if line.strip() not in lines:
            found += re.findall(rf"(?:: |\(|; |say )(?=((?:{PROGRAMS}) [^;)]+))", line)
            found += [f"uv run dvc exp run {flag}" for flag in re.findall(r"(?:say|stage:) (-S .*)$", line)]
    found = [re.split(r", or | \(or ", each)[0].removesuffix("...").strip() for each in found]
    return [*lines, *found]


# --- what prints ---


def refused(call: Callable[[], Any]) -> str:
    """Return the message of an error."""
    with pytest.raises(Exception, match=r"\S") as caught:
        call()
    return str(caught.value)


def of_doctor(here: Path, miipher2: Command) -> str:
    return "\n".join(line for one in json.loads(miipher2("doctor", "--json").out) for line in one["commands"])


def stale_params(here: Path, miipher2: Command) -> str:
    assert miipher2("params", "train_adapter.wandb.notes='a b'", "evaluate.seed=3").code == 0
    path = here / "configs/train_adapter/adapter_embedded.yaml"
    path.write_text(f"{path.read_text()}# edited\n")
    return of_doctor(here, miipher2) + "\n" + miipher2("params", "--check").error


def edited_resume(here: Path, miipher2: Command) -> str:
    make_run(here, "train_adapter", (4,))
    plain = compose_params(["evaluate.seed=3"])
    plain.checkpoint.resume_from = {"train_adapter": "exp/adapter_embedded/checkpoint_4.pt"}
    return str(params.find_problem(plain))


def another_file(here: Path, miipher2: Command) -> str:
    path = make_run(here, "train_adapter", (4,)) / "checkpoint_4.pt"
    composed = compose_params(["evaluate.seed=3", "checkpoint.resume_from=exp/adapter_embedded/checkpoint_4.pt"])
    path.write_bytes(b"another")
    return refused(lambda: load_config(composed, "train_adapter", STAGES["train_adapter"].schema))


def detached(here: Path, miipher2: Command) -> str:
    detach(here)
    return of_doctor(here, miipher2)


def detached_with_commits(here: Path, miipher2: Command) -> str:
    detach(here)
    git(here, "commit", "-q", "--allow-empty", "-m", "mine")
    return of_doctor(here, miipher2)


def detached_and_kept(here: Path, miipher2: Command) -> str:
    text = detached_with_commits(here, miipher2)
    assert text.startswith("git branch kept-")
    git(here, "branch", text.splitlines()[0].split()[2])
    return of_doctor(here, miipher2)


def detached_without_a_branch(here: Path, miipher2: Command) -> str:
    detach(here)
    (here / ".git/logs/HEAD").unlink()
    return of_doctor(here, miipher2)


def leftovers(here: Path, miipher2: Command) -> str:
    (here / ".dvc/tmp/rwlock").write_text("")
    lock = here / ".git/index.lock"
    lock.touch()
    os.utime(lock, (time.time() - 60,) * 2)
    folder = make_run(here, "train_adapter", (4,), (4,), name="a run's")
    (folder / ".checkpoint_9.pt.tmp").touch()
    (folder / ".published.tmp").mkdir()
    (here / "data/prepared/.my data.earlier.tmp").mkdir(parents=True)
    (here / "exp/.replaced/it's; one").mkdir(parents=True)
    text = of_doctor(here, miipher2)
    assert len(text.splitlines()) == 6
    return text


def running(here: Path, miipher2: Command) -> str:
    from datetime import datetime

    (finding,) = process_findings([Process(os.getpid(), "stages/train_adapter.py", datetime.now(), True, None)])
    return "\n".join(finding.commands)


def interrupted(here: Path, miipher2: Command) -> str:
    make_run(here, "train_adapter", (4,), command=DVC)
    make_run(here, "pre_train_vocoder", (4,), command=["uv", "run", "stages/pre_train_vocoder.py",
             "--config-name=harmonic_pretrain_embedded", "name=by hand"], name="by hand")  # fmt: skip
    make_run(here, "finetune_vocoder", (4,), command=None)
    os.chdir(here / "configs")  # doctor names files from the repository, wherever it runs
    text = of_doctor(here, miipher2)
    assert len(text.splitlines()) == 3
    return text


def at(*places: str, command: list[str] | None = DVC, name: str = "adapter_embedded") -> Callable[[Path, Command], str]:
    """Return what makes a run, moves its checkpoint to the last place, and prints how to resume from there."""

    def make(here: Path, miipher2: Command) -> str:
        folder = make_run(here, "train_adapter", (4,), (4,), command=command, name=name)
        file = folder / "checkpoint_4.pt"
        for place in places:
            if place == "published":
                for kind in ("pt", "json"):
                    (folder / f"checkpoint_4.{kind}").unlink()
                file = folder / "published/checkpoint_4.pt"
            elif place == "published and live":
                for kind in ("pt", "json"):
                    shutil.copyfile(folder / f"checkpoint_4.{kind}", folder / f"published/checkpoint_4.{kind}")
                file = folder / "published/checkpoint_4.pt"
            elif place == "link":
                (here.parent / "disk").mkdir()
                folder.rename(here.parent / "disk/run")
                folder.symlink_to(here.parent / "disk/run")
            else:
                target = here / place
                target.mkdir(parents=True)
                for kind in ("pt", "json"):
                    (folder / f"checkpoint_4.{kind}").rename(target / f"checkpoint_4.{kind}")
                file = target / "checkpoint_4.pt"
        result = miipher2("checkpoint", "command", os.path.relpath(file))
        assert result.code == 0, result.error
        return result.out

    return make


def routed(value: str, *, published: bool = False) -> Callable[[Path, Command], str]:
    """Return what composes a resume that is refused with a command."""

    def make(here: Path, miipher2: Command) -> str:
        make_run(here, "train_adapter", () if published else (4,), (4,))
        make_run(here, "train_adapter", (4,), name="another")
        key = "train_adapter.checkpoint.resume_from" if value.startswith("own ") else "checkpoint.resume_from"
        result = miipher2("params", f"{key}={value.removeprefix('own ')}")
        assert result.code == 1
        return result.error

    return make


def missing_weights(here: Path, miipher2: Command) -> str:
    return "\n".join(
        [
            refused(lambda: PretrainedWeights("init_from.adapter", "exp/x/published", here)),
            refused(lambda: load_published(here / "exp/x/published", here / "exp/y/published", here)),
            refused(lambda: PreparedData.read(here, "data/none")),
        ]
    )


def damaged_weights(here: Path, miipher2: Command) -> str:
    folder = make_run(here, "train_adapter", (4,), (4,), name="a run") / "published"
    (folder / "final.safetensors").write_bytes(b"x" * 100)
    (folder / "config.yaml").write_text("model: {hubert_layer: 3}\n")
    return "\n".join(
        [
            refused(lambda: PretrainedWeights("init_from.adapter", "exp/a run/published", here).read("adapters")),
            refused(lambda: load_published(folder, folder, here)),
            miipher2("checkpoint", "show", folder).error,
        ]
    )


def missing_libraries(here: Path, miipher2: Command) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "find_spec", lambda name: None)
        patch.setattr(importlib.util, "find_spec", lambda name: None)
        for module in (asr, whisper_base):
            patch.setattr(module, "find_spec", lambda name: None)
        refusals = [refused(lambda: asr.load_asr("small")), refused(whisper_base.join_wheels)]
        return "\n".join([registry.missing_library("pesq"), miipher2("demo").error, *refusals])


def no_token(here: Path, miipher2: Command) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.get_token", lambda: None)
        return refused(Push("owner/name").check)


def failed_push(here: Path, miipher2: Command) -> str:
    with run_local_hub() as hub, pytest.MonkeyPatch.context() as patch:
        use(hub, here / "hub_cache", patch)
        return refused(lambda: Push("another/name", is_private=True).upload(here))


def helps(here: Path, miipher2: Command) -> str:
    texts = [value for module in (checkpoint, degrade, demo, doctor, evaluate, export, restore, command_line, params)
             for value in vars(module).values() if isinstance(value, str)]  # fmt: skip
    lines = re.findall(r"^  (?:\$ )?(miipher2 .*)$", "\n".join(texts).replace("\\\n", " "), re.MULTILINE)
    assert len(lines) > 30
    return "\n".join("uv run " + re.split(r" {3,}(?!--)|  #| \|", line)[0] for line in lines)


def after_a_signal(here: Path, miipher2: Command) -> str:
    file = make_run(here, "train_adapter", (4,)) / "checkpoint_4.pt"
    launcher = ["uv", "run", "torchrun", "--standalone", "--nproc-per-node=2", "stages/train_adapter.py"]
    return "\n".join(resume_command(words, str(file)) for words in (DVC, [*launcher, "--config-name=adapter_embedded"]))


BY_HAND = ["uv", "run", "stages/train_adapter.py", "--config-name=adapter_embedded", "seed=3"]
PRINTED: dict[str, Callable[[Path, Command], str]] = {
    **{each.__name__: each for each in (stale_params, edited_resume, another_file, running, detached, leftovers)},
    **{each.__name__: each for each in (detached_with_commits, detached_and_kept, detached_without_a_branch)},
    **{each.__name__: each for each in (interrupted, missing_weights, damaged_weights, missing_libraries)},
    **{each.__name__: each for each in (helps, no_token, failed_push)},
    "after a signal": after_a_signal,
    "live": at(),
    "live, exp/<name> a link": at("link"),
    "published": at("published"),
    "published and live": at("published and live"),
    "published, spaces": at("published", command=[*DVC, "-S", "train_adapter.name=my run"], name="my run"),
    "set aside": at("exp/.replaced/adapter_embedded.20260101-000000"),
    "resume/": at("resume"),
    "renamed": at("exp/renamed"),
    "renamed, published": at("exp/renamed/published"),
    "outside": at("../it's elsewhere"),
    "by hand": at(command=BY_HAND),
    "by hand, published": at("published", command=BY_HAND),
    "by hand, set aside": at("exp/.replaced/x y", command=BY_HAND),
    "by hand, outside": at("../else where", command=BY_HAND),
    "without a command": at(command=None),
    "without a command, renamed": at("exp/renamed", command=None),
    "own key": routed("own exp/adapter_embedded/checkpoint_4.pt"),
    "own key, elsewhere": routed("own exp/another/checkpoint_4.pt"),
    "a published file": routed("exp/adapter_embedded/published/checkpoint_4.pt", published=True),
    "no stage's folder": routed("exp/another/checkpoint_4.pt"),
}


@pytest.mark.parametrize("place", PRINTED)
def test_a_printed_command_works(place: str, here: Path, miipher2: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    commands = commands_in(PRINTED[place](here, miipher2))
    assert commands
    for line in commands:
        run(line, here, miipher2)


def test_whoever_prints_a_command_is_in_the_table() -> None:
    """A file that names a program to run, outside docstrings, has to be one whose output is tried above."""
    tried = {
        *("cli/doctor_checks.py", "cli/checkpoint/show.py", "cli/demo.py", "config/command.py", "config/params.py"),
        *("config/resume_routing.py", "data/prepared.py", "evaluation/metrics/registry.py", "inference/weights.py"),
        *("evaluation/metrics/asr.py", "evaluation/metrics/whisper_base.py"),
        *("models/pretrained.py", "cli/evaluate.py", "cli/main.py", "training/distributed.py"),
        *("cli/export.py", "inference/hub.py"),
    }
    found = set()
    for path in sorted((ROOT / "src/miipher2").rglob("*.py")):
        tree = ast.parse(path.read_text())
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docstrings]
        texts = [node.value for node in constants if isinstance(node.value, str)]
        if any(re.search(r"\buv (run|sync)\b|^uv$|\bdvc (exp|repro|checkout|pull|get)\b", text) for text in texts):
            found.add(path.relative_to(ROOT / "src/miipher2").as_posix())
    assert found <= tried | {"cli/doctor.py", "config/script.py", "cli/checkpoint/commands.py", "evaluation/stage.py"}
