"""A pretend stage script for DVC scenarios: real configuration, files and messages, but hashes instead of training.

Copied over a stage's script, whose name it goes by. A state is a hash chain over steps, so that a resume that is not
the same run ends with other bytes; it imports no torch and takes well under a second.
"""

import csv
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import yaml
from omegaconf import DictConfig

from miipher2.config.command import resume_command, starting_command
from miipher2.config.load import is_pipeline, load_config
from miipher2.config.paths import ROOT
from miipher2.config.resume_routing import find_checkpoint
from miipher2.config.schema import SCHEMAS, STAGES
from miipher2.config.script import stage_script

STAGE = Path(__file__).stem
RESULTS = ROOT / "exp" / "results"
GROUPS = {"prepare_data": ("data", "embedded"), "evaluate": ("evaluate", "default")}


@stage_script(*GROUPS.get(STAGE, (STAGE, "none")))
def main(composed: DictConfig) -> None:
    """Run the stage."""
    {"prepare_data": prepare, "evaluate": evaluate}.get(STAGE, train)(composed)


def prepare(composed: DictConfig) -> None:
    """Write something that follows from the data section."""
    config: Any = load_config(composed, "data", SCHEMAS["data"])
    folder = ROOT / config.prepared
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.txt").write_text(digest(asdict(config)))


def train(composed: DictConfig) -> None:
    """Train, or resume, to the configured step and publish."""
    config: Any = load_config(composed, STAGE, STAGES[STAGE].schema)
    folder = ROOT / "exp" / config.name
    path = find_checkpoint(config.checkpoint.resume_from)
    words = starting_command(composed)
    run: dict[str, Any] = {
        "step": 0,
        "run_id": os.urandom(4).hex(),
        "state": "",
        "history": "step,loss\n",
        "parents": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    if path is None:
        print_line("[INFO] Starting fresh training (no checkpoint specified)")
        live = [each for each in folder.iterdir() if each.name != "published"]
        if live:
            aside = ROOT / "exp/.replaced" / f"{config.name}.{time.time_ns()}"
            aside.mkdir(parents=True)
            for each in live:
                each.rename(aside / each.name)
    else:
        print_line(f"[INFO] Resuming from explicitly specified checkpoint: {config.checkpoint.resume_from}")
        run = json.loads(path.read_text())
        run["parents"].append({"step": run["step"]})
        print_line(f"[INFO] Resuming from step {run['step']}")
        print_line("[INFO] Restored model, optimizer, and scheduler states")
    settings = {key: asdict(config)[key] for key in ("seed", "optim", "model", "batch_size", "data", "degradation")}
    upstream = [hashlib.sha256(file.read_bytes()).hexdigest() for file in upstream_files(config)]
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    for step in range(run["step"], config.steps):
        run["state"] = digest([run["state"], step, settings, upstream])
        run["step"] = step + 1
        run["history"] += f"{step + 1},{int(run['state'][:4], 16)}\n"
        (folder / "history.csv").write_text(run["history"])
        time.sleep(float(os.environ.get("PRETEND_SECONDS_A_STEP", "0")))
        if stopped or run["step"] in (config.steps,) or run["step"] % config.checkpoint.save_interval == 0:
            saved = save(folder, run, config, words)
        if stopped:
            print_line(f"[WARNING] Stopped by SIGTERM after step {run['step']}. Resume with:")
            print_line(f"  {resume_command(words, str(saved))}")
            sys.exit(143)
    publish(folder, run, config)
    if is_pipeline(composed):
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"{STAGE}.json").write_text(json.dumps({"loss": int(run["state"][:4], 16)}))
        metric = STAGES[STAGE].best_metric
        (RESULTS / f"{STAGE}.csv").write_text(run["history"].replace("step,loss", f"step,{metric}"))


def upstream_files(config: Any) -> list[Path]:
    """Return the weights that the configuration names: a bundle's, or an earlier stage's."""
    folders = [ROOT / folder for folder in asdict(config)["init_from"].values() if folder is not None]
    names = ["weights" if (folder / "bundle.json").is_file() else "final" for folder in folders]
    return [folder / f"{name}.safetensors" for folder, name in zip(folders, names, strict=True)]


def save(folder: Path, run: dict[str, Any], config: Any, words: list[str]) -> Path:
    """Write a checkpoint and its JSON."""
    path = folder / f"checkpoint_{run['step']}.pt"
    path.write_text(json.dumps(run))
    summary = {"step": run["step"], "run_id": run["run_id"], "stage": STAGE, "parents": run["parents"]}
    path.with_suffix(".json").write_text(json.dumps(summary | {"config": asdict(config), "command": words}))
    print_line(f"[INFO] Saved {path}")
    return path


def publish(folder: Path, run: dict[str, Any], config: Any) -> None:
    """Fill published/."""
    target = folder / "published"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    path = folder / f"checkpoint_{run['step']}.pt"
    for file in (path, path.with_suffix(".json")):
        if file.is_file():
            os.link(file, target / file.name)
    (target / "config.yaml").write_text(yaml.safe_dump(asdict(config)))
    (target / "history.csv").write_text(run["history"])
    for name in ("final", "discriminators"):
        (target / f"{name}.safetensors").write_text(run["state"])


def evaluate(composed: DictConfig) -> None:
    """Write results and a report that follow from the published weights."""
    config: Any = load_config(composed, "evaluate", SCHEMAS["evaluate"])
    weights = [(ROOT / getattr(config, name) / "final.safetensors").read_text() for name in ("adapter", "fine_tuned")]
    value = int(digest(weights)[:4], 16) / 2**16
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "evaluate.json").write_text(json.dumps({"log_mel": {"fine_tuned": value, "improvement": 1 - value}}))
    (RESULTS / "evaluate_details.json").write_text("{}")
    write_csv("evaluate", {"name": "en/u0.flac", "log_mel/fine_tuned": value})
    write_csv(
        "evaluate_table", {"sort": "all", "metric": "log_mel", "system": "fine_tuned", "mean": value, "low": value}
    )
    (ROOT / "exp/report").mkdir(parents=True, exist_ok=True)
    (ROOT / "exp/report/index.html").write_text("<p>pretend</p>" * 1000)


def write_csv(name: str, row: dict[str, Any]) -> None:
    """Write a table of one row."""
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerow(row)


def digest(value: Any) -> str:
    """Return a hash of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def print_line(text: str) -> None:
    """Print at once, for whoever watches."""
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
