"""Run `miipher2 params` under its earlier name."""

import sys

from miipher2.config.params import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
