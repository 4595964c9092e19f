"""Miipher-2 speech restoration: three training stages that resume bit for bit, and the restoring itself."""

import os

# PyTorch's threads spin while they wait: beside a data worker, or any other busy process, a step of 0.12 s took 2.9 s.
# Read by OpenMP when torch is first imported, so it has to stand here; it changes no result.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
