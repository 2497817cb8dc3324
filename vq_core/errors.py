"""Exceptions that a user can cause; each message is one line that names the file, key or argument, and a remedy.

The command line prints that line alone, as for a full disk, a full GPU and Ctrl-C. Anything else is a bug: a traceback.
"""

from functools import cache

from tqdm.auto import tqdm

tell_once = cache(tqdm.write)  # each line once


class UserError(Exception):
    """Base class of everything that a user can cause and fix."""


class ConfigError(UserError, ValueError):
    """A setting that cannot be used."""


class ArgumentError(UserError, ValueError):
    """An argument outside its range."""


class UnknownCodeError(ArgumentError, IndexError):
    """A code that the codebook does not have."""


class DataError(UserError, ValueError):
    """Images that are missing or cannot be used."""


class UnusableImage(DataError):
    """A file that no image can be read from: `reason` is a short slug, `detail` one line for people."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


class RunError(UserError, RuntimeError):
    """A run that is missing or cannot be used."""


class CheckpointError(RunError):
    """A checkpoint that is missing, damaged or does not fit."""


class MissingWeights(UserError, RuntimeError):
    """Weights of a pretrained network that are not on disk and cannot be downloaded."""


class NotFiniteError(UserError, FloatingPointError):
    """Losses, gradients or weights that are not finite."""


class Stopped(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM and is saved; `together`: all processes stopped at the same step."""

    def __init__(self, message: str, together: bool):
        super().__init__(message)
        self.together = together
