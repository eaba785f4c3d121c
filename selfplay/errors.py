"""The one exception type that means "the input is at fault, not the program"."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user gave is wrong; the message is one sentence: what, where, and what would be right.

    Commands print it without a traceback and exit with 2.  Every error class for users derives from it.
    """
