"""Entry point of the scripts in stages/: Hydra's, with a user's mistake shown as one line."""

import dis
import functools
import os
import re
import sys
from collections.abc import Callable

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from miipher2.config.paths import ROOT

# What this project raises for a user's mistake is one of these; other exceptions are never caught.
USER_ERRORS = (HydraException, OmegaConfBaseException, OSError, ValueError, ArithmeticError, RuntimeError)


def stage_script(group: str, config_name: str) -> Callable[[Callable[[DictConfig], object]], Callable[[], None]]:
    """Return a decorator that makes a function the script of a stage, configured from `configs/<group>/`."""

    def decorate(task: Callable[[DictConfig], object]) -> Callable[[], None]:
        config_path = str(ROOT / "configs" / group)
        # Around the task too: Hydra prints a line of its own above what a task raises.
        main = hydra.main(version_base="1.3", config_path=config_path, config_name=config_name)(_in_one_line(task))

        def script() -> None:
            # Hydra would print a traceback, or a hint about this variable; with it, exceptions pass unchanged.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            _in_one_line(main)()

        return script

    return decorate


def _in_one_line(function: Callable[..., object]) -> Callable[..., object]:
    """Return the function with a user's mistake as one line and exit code 1."""

    @functools.wraps(function)
    def reporting(*arguments: object) -> object:
        try:
            return function(*arguments)
        except USER_ERRORS as error:
            if not is_user_error(error):
                raise
            sys.stderr.write(f"{type(error).__name__}: {message_of(error)}\n")
            sys.exit(1)

    return reporting


def is_user_error(error: BaseException) -> bool:
    """Return whether an exception reports a mistake of the user (or of the machine), and not a bug.

    Configuration and operating system errors always do, and so do this project's own exceptions, also those of a data
    worker; others only where this project raised them on purpose: a ValueError from inside a library, or from our
    own arithmetic, is a bug. So is an error that wraps a bug or a full GPU.
    """
    if isinstance(error, HydraException | OmegaConfBaseException | OSError):
        return True
    cause = error.__cause__
    is_bug = cause is not None and not isinstance(cause, (*USER_ERRORS, KeyError))
    if is_bug or type(cause).__name__ == "OutOfMemoryError" or not isinstance(error, USER_ERRORS):
        return False
    if type(error).__module__.startswith("miipher2."):
        return True
    if error.__traceback__ is None:
        return False
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    code = last.tb_frame.f_code
    operation = dis.opname[code.co_code[last.tb_lasti]]
    return operation == "RAISE_VARARGS" and last.tb_frame.f_globals.get("__name__", "").startswith("miipher2.")


def message_of(error: BaseException) -> str:
    """Return an exception's message, with its cause and on one line where it is a library's, unchanged where ours."""
    if not isinstance(error, HydraException | OmegaConfBaseException):
        is_workers = str(error).startswith("Caught ")  # torch puts the worker's whole traceback into the message
        return str(error).rstrip().splitlines()[-1].partition(": ")[2] if is_workers else str(error)
    message = _line_with_key(error, "")
    if error.__cause__ is not None and str(error.__cause__) not in str(error):
        message = f"{message.rstrip('.')}: {_line_with_key(error.__cause__, message)}"
    return re.sub(r"^\w+ raised while resolving interpolation: ", "", message)


def _line_with_key(error: BaseException, context: str) -> str:
    """Return an error's message on one line; OmegaConf's begins with its key, unless the context has named it."""
    text = str(error).split("\nTo append to your config")[0]  # a key of ours cannot be appended
    if isinstance(error, OmegaConfBaseException):
        key, text = error.full_key, text.split("\n")[0]
        text = f"{key}: {text}" if key and key not in context + text else text
    return " ".join(text.split())
