"""Which dialogs a reward model was trained on, so that nothing it has learnt by heart is counted for it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from selfplay.reward_model.dialogs import Dialog
from selfplay.reward_model.examples import Example

__all__ = ["digest_of", "digests_of", "is_known", "lines_of", "read_lines"]

DIGITS = 16  # of a dialog's key: 64 bits, so that no two dialogs of a data set are taken for one


def digest_of(dialog: Dialog) -> str:
    """Return what stands for a dialog's content."""
    return dialog.key[:DIGITS]


def digests_of(examples: Iterable[Example]) -> frozenset[str]:
    """Return what stands for the dialogs of examples."""
    return frozenset(digest_of(dialog) for example in examples for dialog in example.dialogs)


def is_known(example: Example, digests: Collection[str]) -> bool:
    """Whether a dialog of the example is among those, word for word."""
    return any(digest_of(dialog) in digests for dialog in example.dialogs)


def lines_of(digests: Collection[str]) -> bytes:
    """Return digests as a file's content, one a line."""
    ordered: Sequence[str] = sorted(digests)
    return "".join(f"{digest}\n" for digest in ordered).encode("ascii")


def read_lines(content: bytes) -> frozenset[str]:
    """Return what `lines_of` wrote.  Raises ValueError for what is none of it."""
    digests = frozenset(content.decode("ascii").split())
    odd = next((digest for digest in digests if len(digest) != DIGITS or set(digest) - set("0123456789abcdef")), None)
    if odd is not None:
        raise ValueError(f"{odd[:40]!r} is no digest of {DIGITS} digits")
    return digests
