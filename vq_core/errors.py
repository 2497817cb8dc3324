"""What a user can cause, as exceptions: every message is one line that names the file, key or argument, and a remedy.

The command line shows these as that one line, beside a full disk, a GPU out of memory and Ctrl-C. Any other exception
is a fault of the program and shows its traceback.
"""


class UserError(Exception):
    """Base of everything that a user can cause and mend."""


class ConfigError(UserError, ValueError):
    """A setting that cannot be used."""


class ArgumentError(UserError, ValueError):
    """An argument of a call outside its range."""


class UnknownCodeError(ArgumentError, IndexError):
    """A code that the codebook does not have."""


class DataError(UserError, ValueError):
    """Images that are missing or cannot be used."""


class UnusableImage(DataError):
    """A file that no picture can be read from: `reason` is a short slug, `detail` one line for people."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class RunError(UserError, RuntimeError):
    """A run that is missing or cannot be used."""


class CheckpointError(RunError):
    """A checkpoint that is missing, damaged or does not fit."""


class MissingWeights(UserError, RuntimeError):
    """Weights of a pretrained network are not on the disk and cannot be downloaded."""


class NotFiniteError(UserError, FloatingPointError):
    """Training ran into losses, gradients or weights that are not finite."""


class Stopped(KeyboardInterrupt):
    """Training was stopped by Ctrl-C or SIGTERM and its state is saved; `together`: by all its processes alike."""

    def __init__(self, message: str, together: bool):
        super().__init__(message)
        self.together = together
