"""Errors that tell the user what to change. Whatever else is raised is a defect of ours, and is shown as one."""

from __future__ import annotations

#: characters of a message that are shown; what lies between its two ends is left out
_FIRST, _LAST = 520, 240


class UserError(Exception):
    """The user can mend it: the message says what is wrong, where, what is allowed and what to do.

    A damaged file may be quoted in it, so that it is shown without unprintable characters and not at any length.

    Attributes:
        exit_code: of the command that it ends.
    """

    exit_code = 2

    def __str__(self) -> str:  # KeyError would put the sentence in quotes
        text = "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in Exception.__str__(self))
        # several lines are what another process has raised, with its traceback
        return text if len(text) <= _FIRST + _LAST or "\n" in text else f"{text[:_FIRST]} [...] {text[-_LAST:]}"


class InputError(UserError, ValueError):
    """A value, a file or a combination of options that is not allowed."""


class UnknownName(UserError, KeyError):
    """A name that does not exist; the message lists those that do."""


class WrongType(UserError, TypeError):
    """A value of another type than is taken."""


class MissingFile(UserError, FileNotFoundError):
    """A path that is not there."""


class FileInTheWay(UserError, FileExistsError):
    """A path that is there and is not to be overwritten."""


class UnusableFile(UserError, OSError):
    """A file or a disk that cannot be read or written."""


class MissingPackage(UserError, ImportError):
    """A package that is not installed; the message says how to install it."""
