"""Entry point of the scripts in stages/: Hydra's, with a user's mistake shown as one line."""

import dis
import functools
import os
import sys
from collections.abc import Callable

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from miipher2.config.paths import ROOT


def stage_script(group: str, config_name: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Return a decorator that makes a function the script of a stage, configured from `configs/<group>/`."""

    def decorate(task: Callable[[DictConfig], object]) -> Callable[[], None]:
        main = hydra.main(version_base="1.3", config_path=str(ROOT / "configs" / group), config_name=config_name)(task)

        @functools.wraps(task)
        def script() -> None:
            # Hydra would print a traceback, or a hint about this variable; with it, exceptions pass unchanged.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                main()
            except Exception as error:
                if not is_user_error(error):
                    raise
                sys.stderr.write(f"{type(error).__name__}: {message_of(error)}\n")
                sys.exit(1)

        return script

    return decorate


def is_user_error(error: BaseException) -> bool:
    """Return whether an exception reports a mistake of the user (or of the machine), and not a bug.

    Configuration and operating system errors always do; others only where this project raised them on purpose: an
    AssertionError never is, and a ValueError from inside a library, or from our own arithmetic, is a bug.
    """
    if isinstance(error, HydraException | OmegaConfBaseException | OSError):
        return True
    if isinstance(error, AssertionError) or error.__traceback__ is None:
        return False
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    operation = dis.opname[code.co_code[last.tb_lasti]]
    return operation == "RAISE_VARARGS" and last.tb_frame.f_globals.get("__name__", "").startswith("miipher2.")


def message_of(error: BaseException) -> str:
    """Return an exception's message: on one line where a library broke it, unchanged where it is a list of ours."""
    is_ours = not isinstance(error, HydraException | OmegaConfBaseException)
    return str(error) if is_ours else " ".join(str(error).split())
