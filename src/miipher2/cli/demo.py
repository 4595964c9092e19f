"""`miipher2 demo`: a page on which recordings are restored, heard and seen."""

import argparse
import functools
import importlib.util
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from miipher2.cli.weights_options import add_weights_options, options_of, restorer_from

DEMO = """\
Serve a page to upload or record speech, and to hear and see it before and after its restoration. It needs the extra
`demo` (uv sync --extra demo) and no network: neither fonts nor scripts come from elsewhere, and nothing is sent.
Whoever can reach HOST:PORT can use it; there is no password. Ctrl-C ends it.

examples:
  miipher2 demo
  miipher2 demo --bundle bundle/ --device cuda --port 8080
"""


def add_parser(commands: Any) -> None:
    """Add `demo` to the command line."""
    parser = commands.add_parser("demo", help="a page to try it: hear and see before and after", description=DEMO)
    add_weights_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this host only)")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="port to listen on (default: 7860)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until the process is interrupted."""
    if not 1 <= options.port <= 65_535:
        raise ValueError(f"--port {options.port}: should be from 1 to 65535")
    if importlib.util.find_spec("gradio") is None:
        raise ValueError("the page is made with gradio, which is not installed: uv sync --extra demo")
    given = options_of(options)

    @functools.lru_cache(maxsize=4)
    def restorer_for(device: str, precision: str) -> Any:
        return restorer_from(**{**given, "device": device, "precision": precision})

    restorer_for(options.device, options.precision)  # what is wrong with the weights is said now
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # SIGINT itself is ignored in a shell's background
    with tempfile.TemporaryDirectory(prefix="miipher2-demo-") as folder:
        # Read when gradio is imported; uploads and results lie in the folder.
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        _serve(options, restorer_for)
    return 0


def _serve(options: argparse.Namespace, restorer_for: Callable[[str, str], Any]) -> None:
    from miipher2.cli.demo_page import make_page

    page = make_page(restorer_for, _devices(options.device), options.precision)
    try:
        _, address, _ = page.launch(
            server_name=options.host,
            server_port=options.port,
            share=False,
            quiet=True,
            ssr_mode=False,
            footer_links=[],
            prevent_thread_lock=True,
        )
    except OSError as error:
        raise OSError(
            f"{options.host}:{options.port}: cannot be listened on; should be an address of this host, and a --port "
            "that no other process holds"
        ) from error
    sys.stdout.write(f"{address} shows the page; Ctrl-C ends it\n")
    sys.stdout.flush()
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        page.close(verbose=False)


def _devices(first: str) -> list[str]:
    """Return the devices there are, the chosen one first."""
    import torch

    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [first, *(device for device in found if device != first and (device, first) != ("cuda:0", "cuda"))]
