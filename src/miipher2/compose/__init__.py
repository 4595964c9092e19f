"""`python -m miipher2.compose`, kept for scripts: the same as `miipher2 params`."""
