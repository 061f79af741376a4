"""The few exceptions of this project. Each message says what was expected, what came, and what to do.

Pages and the command line catch `MoyuError` only; anything else is a defect and keeps its traceback.
"""


class MoyuError(Exception):
    """Base of every error that a user can cause or mend. `str(error)` is one sentence fit to be shown."""


class InputError(MoyuError):
    """A prompt, parameter or file given by the user cannot be used."""


class ModelError(MoyuError):
    """A model cannot be found, fetched, verified, loaded or mapped to FFN sites."""


class NotInRunError(MoyuError):
    """A layer, prompt, neuron or table was asked for that the run does not hold."""


class DamagedRunError(MoyuError):
    """A stored file is missing, truncated or altered; the message names it."""


class JobError(MoyuError):
    """A job cannot be queued, found or continued."""


class Cancelled(MoyuError):
    """The user asked to stop. Raised by a progress reporter, passed through by everything else."""
