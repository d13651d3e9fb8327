"""Every error roikit raises on purpose, and the exit code each one ends a command with."""

from collections.abc import Sequence
from typing import ClassVar


class RoikitError(Exception):
    """Something the user can act on: what was expected, what was found, where.

    Args:
        message: one line; lower-case start, no full stop, literals in backticks.
        hint: what to do about it, printed on a line of its own.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(RoikitError):
    """A wrong option, configuration, or path that is not what it should be."""

    exit_code: ClassVar[int] = 2


class ChecksFailedError(RoikitError):
    """The work was finished and committed, but its checks failed."""

    exit_code: ClassVar[int] = 3


class ValidationError(RoikitError):
    """A value breaks the record's rules; the message starts with its path inside the record."""


class CorruptSampleError(RoikitError):
    """Stored bytes cannot be read back; the message names shard and member."""


class PeerError(RoikitError):
    """Another process of the same run failed, and says itself why.

    Args:
        rank: of that process.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(f"process {rank} of this run failed and has said why")


def few(names: Sequence[str], *, shown: int = 3) -> str:
    """Write the first of some names, and how many there are beside them, for a message."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
