"""`miipher2 store`: makes the examples of a training stage beforehand, for sites with more disk than processors."""

import argparse
from pathlib import Path
from typing import Any

STORE = """\
Make the examples that a training stage would make, clean, degraded and target, and keep them in a folder.

Training with loader.stored=OUT then reads them instead, and is the same run bit for bit. They fit one configuration and
one prepared data; anything else is refused. A run that was killed goes on where it was.
An example of six seconds with a target at 24 kHz takes 1.3 MB.

examples:
  miipher2 store train_adapter adapter_mini stored/adapter_mini --steps 350
  miipher2 store train_adapter adapter_layer_6_mhubert_147 /scratch/stored --steps 10000 batch_size=32
"""


def add_parser(commands: Any) -> None:
    """Add `store` to the command line."""
    parser = commands.add_parser("store", help="make a stage's examples beforehand", description=STORE)
    parser.add_argument("stage", help="train_adapter, pre_train_vocoder or finetune_vocoder")
    parser.add_argument("config", help="a name in configs/<stage>/")
    parser.add_argument("target", type=Path, metavar="OUT", help="the folder that is filled")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as the stage will be given them")
    parser.add_argument("--steps", type=int, required=True, help="how many batches")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make and write the examples."""
    import sys

    from hydra import compose, initialize_config_dir
    from hydra.core.plugins import Plugins
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from miipher2.batches import example_settings, make_examples
    from miipher2.config import ROOT, stage_config
    from miipher2.data.prepared import Prepared
    from miipher2.data.stored import store
    from miipher2.schema import TRAINING_STAGES

    if options.stage not in TRAINING_STAGES:
        raise ValueError(f"{options.stage}: is no training stage; should be one of {', '.join(TRAINING_STAGES)}")
    if options.steps < 1:
        raise ValueError(f"--steps {options.steps}: should be at least 1")
    Plugins.instance()  # our plugin makes shared groups reachable
    try:
        with initialize_config_dir(str(ROOT / "configs" / options.stage), version_base="1.3"):
            config = stage_config(compose(options.config, overrides=options.overrides), options.stage)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(str(error).splitlines()[0]) from error
    data = Prepared.read(ROOT, config.data.prepared)
    settings = example_settings(config, data)
    written = store(make_examples(config, data), options.target, settings, steps=options.steps)
    sys.stdout.write(f"{options.steps} batches in {written / 1e9:.2f} GB; train with loader.stored={options.target}\n")
    return 0
