"""`miipher2 params`: params.yaml from configs/."""

import argparse
from typing import Any

from miipher2.config import params


def add_parser(commands: Any) -> None:
    """Add `params` to the command line."""
    parser = commands.add_parser("params", help="write params.yaml from configs/", description=params.HELP)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="Hydra overrides")
    parser.add_argument("--check", action="store_true", help="only check that params.yaml is neither stale nor wrong")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write or check params.yaml."""
    return params.main(["--check"] if options.check else options.overrides)
