"""A progress bar, or plain log lines where standard output is not a terminal."""

import logging
import sys
import time

from tqdm import tqdm

log = logging.getLogger(__name__)


class Progress:
    """Shows how far training is; `log` is called once a step."""

    def __init__(self, start_step: int, steps: int) -> None:
        self._start_step, self._started, self._steps = start_step, time.monotonic(), steps
        self._bar = tqdm(
            total=steps, initial=start_step, unit="step", dynamic_ncols=True, disable=not sys.stdout.isatty()
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Advance the bar and show metrics, if there are any."""
        self._bar.update(step - self._bar.n)
        if not metrics:
            return
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if not self._bar.disable:
            self._bar.set_postfix_str(text)
            return
        rate = (step - self._start_step) / max(1e-9, time.monotonic() - self._started)
        left = (self._steps - step) / max(1e-9, rate)
        log.info("step %d/%d  %s  %.2f steps/s  ETA %d:%02d", step, self._steps, text, rate, left // 60, left % 60)

    def close(self) -> None:
        """Close the bar."""
        self._bar.close()
