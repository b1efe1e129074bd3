"""Standard output and standard error, and what happens when they cannot be written: in one place for all commands.

Standard output is the result: if it cannot be written, the command ends. A full disk is an ``OutputError``; a pipe that
nobody reads any more ends the command without a word, with the status of a process that SIGPIPE has killed. Standard
error only tells of the work: if it cannot be written, the work goes on without it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from lmsteer.errors import OutputError
from lmsteer.util.escapes import ESCAPES

# The status that a shell shows for a process that SIGPIPE has killed.
CLOSED_PIPE = 128 + 13


@contextmanager
def guarded_streams() -> Iterator[None]:
    """Handle the failures of standard output and standard error within a ``with`` block.

    Raises:
        OutputError: standard output cannot be written.
        SystemExit: nobody reads standard output any more.
    """
    _open_closed()
    former = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, _Result(sys.stdout)), cast(TextIO, _Report(sys.stderr))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = former


def _open_closed() -> None:
    """Open the null device where a standard stream is closed, or else the next file would get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free


class _Guarded:
    """A stream to write to; all but writing is left to the stream itself. After a failure it takes anything.

    Args:
        stream: the stream; None if it is closed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream, self._has_failed = stream, False
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ESCAPES)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write a text."""
        self._do(lambda stream: stream.write(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is buffered."""
        if self._stream is not None:
            self._do(lambda stream: stream.flush())

    def _do(self, action: Callable[[TextIO], object]) -> None:
        if self._has_failed:
            return
        try:
            if self._stream is None:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            action(self._stream)
        except OSError as error:
            self._has_failed = True
            self._discard()
            self._fail(error)

    def _discard(self) -> None:
        """Let the null device take what is still buffered, or the interpreter would try to write it at its end."""
        with contextlib.suppress(AttributeError, OSError, ValueError):
            number, null = cast(TextIO, self._stream).fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)

    def _fail(self, error: OSError) -> None:
        """What a failure means."""


class _Report(_Guarded):
    """Standard error: what cannot be written is dropped."""


class _Result(_Guarded):
    """Standard output: what cannot be written ends the command."""

    def _fail(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError):
            raise SystemExit(CLOSED_PIPE) from None
        raise OutputError(f"cannot write to standard output: {error.strerror}.") from error
