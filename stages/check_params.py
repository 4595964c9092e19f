"""Stop the pipeline before any output is removed where params.yaml is stale or holds a wrong value; DVC would not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))  # this checkout's code, in DVC's copies too

from miipher2.config.params import main
from miipher2.config.paths import ROOT

if __name__ == "__main__":
    exit_code = main(["--check"])
    if exit_code == 0:
        (ROOT / "exp" / "results").mkdir(parents=True, exist_ok=True)
        (ROOT / "exp" / "results" / "check_params.txt").write_text("params.yaml fits configs/ and the schema\n")
    sys.exit(exit_code)
