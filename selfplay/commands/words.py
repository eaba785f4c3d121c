"""How a command line is read: words and three flags."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from selfplay.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """One command line, after its verb."""

    words: tuple[str, ...] = ()  # in order, `key=value` and plain ones mixed
    wants_help: bool = False  # --help
    dry_run: bool = False  # --dry-run: print the resolved configuration and stop
    as_json: bool = False  # --json: machine-readable output
    rewards: tuple[str, ...] = ()  # NAME=WEIGHT of each -r, in order

    @property
    def names(self) -> list[str]:
        """The words that are no settings; a folder is a name, also where an equals sign stands in it."""
        return [word for word in self.words if "=" not in word or os.path.isdir(word)]

    @property
    def settings(self) -> list[str]:
        """The `key=value` words."""
        return [word for word in self.words if word not in self.names]

    def one_name(self, what: str) -> str:
        """Return the only name, "" if there is none; raises UserError, which begins with `what`, if there are more."""
        names = self.names
        if len(names) > 1:
            raise UserError(f"{what} one run, not {len(names)}: {' '.join(names)}")
        return names[0] if names else ""


def program_name() -> str:
    """Return how this program was called, for commands that suggest the next one."""
    return f"python {sys.argv[0]}" if sys.argv[0].endswith("run.py") else "selfplay"


def read_words(arguments: Sequence[str]) -> CommandLine:
    """Split arguments into flags and words.

    Raises UserError for any other word that begins with a dash: settings are `key=value`.
    """
    flags = {"--help": False, "-h": False, "--dry-run": False, "--json": False}
    words, rewards = [], []
    waiting = iter(arguments)
    for argument in waiting:
        if argument in flags:
            flags[argument] = True
        elif argument == "-r":
            rewards.append(_reward(next(waiting, "")))
        elif argument.startswith("-"):
            raise UserError(
                f"unknown flag {argument!r}: settings are written key=value; the flags are --help, --dry-run, --json "
                "and -r"
            )
        else:
            words.append(argument)
    return CommandLine(
        words=tuple(words),
        wants_help=flags["--help"] or flags["-h"],
        dry_run=flags["--dry-run"],
        as_json=flags["--json"],
        rewards=tuple(rewards),
    )


def _reward(word: str) -> str:
    name, _, weight = word.rpartition("=")
    if not name or not weight:
        raise UserError(f"-r {word}: expected a reward and its weight, as in -r question=0.5")
    return word
