"""The exceptions of lmsteer. Each message says what was wrong, where, and what to do about it."""


class LMSteerError(Exception):
    """Anything that a user can mend; the command line prints it without a traceback and exits with 2."""


class DataError(LMSteerError):
    """Labelled texts or prompts that cannot be used."""


class ModelError(LMSteerError):
    """A model that cannot be found, fetched, read or steered."""


class SteerError(LMSteerError):
    """A steer that cannot be found, read, written or applied."""


class WrongBaseError(SteerError):
    """A steer, or statistics, of another base model or tokenizer than the one at hand."""


class StatisticsError(LMSteerError):
    """Statistics that cannot be read, merged or solved."""


class ScorerError(LMSteerError):
    """A scorer that failed, or said what is no score."""


class InterruptedWorkError(LMSteerError):
    """Long work stopped by the user; the message names what was kept and how to go on."""
