"""The exceptions of lmsteer. Each message says what was wrong, where, and what to do about it."""


class LMSteerError(Exception):
    """The base of all errors that the user can correct; the command line prints the message and exits with status 2."""


class DataError(LMSteerError):
    """Labelled texts or prompts that cannot be used."""


class ModelError(LMSteerError):
    """A model that cannot be found, fetched, read or steered."""


class SteerError(LMSteerError):
    """A steer that cannot be found, read, written or applied."""


class WrongBaseError(SteerError):
    """An artifact (a steer, statistics ...) that was made for another model or tokenizer than the one in use."""


class StatisticsError(LMSteerError):
    """Statistics that cannot be read, merged or solved."""


class ScorerError(LMSteerError):
    """A scorer that fails, or returns something that is not a score."""


class OutputError(LMSteerError):
    """A file, a folder or standard output that cannot be written: a full disk, a read-only folder, a closed stream."""


class InterruptedWorkError(LMSteerError):
    """Long work that the user interrupted; the message says what is kept. The command line exits with status 130."""
