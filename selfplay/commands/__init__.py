"""The command line: one module per verb, imported only when its verb is used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from selfplay.commands.words import CommandLine, read_words
from selfplay.errors import UserError
from selfplay.written import nearest

__all__ = ["Command", "main"]

# verb -> (module, what the menu says of it); the module is imported only when its verb is used.
VERBS: Mapping[str, tuple[str, str]] = {
    "train": ("selfplay.commands.train", "two copies of a policy talk, rewards score them, a learner improves it"),
    "sft": ("selfplay.commands.sft", "imitate stored or scripted conversations: a start that holds a game's form"),
    "play": ("selfplay.commands.play", "two players talk; the conversations are stored in a run folder"),
    "view": ("selfplay.commands.view", "the transcript page: read, filter, compare and label in a browser"),
    "show": ("selfplay.commands.show", "print a stored conversation"),
    "ls": ("selfplay.commands.ls", "list runs, or the conversations of one run"),
    "top": ("selfplay.commands.top", "the best, worst and most surprising conversations of a run"),
    "diff": ("selfplay.commands.diff", "two checkpoints on the same scenarios, side by side"),
    "tail": ("selfplay.commands.tail", "follow a run while it is written"),
    "label": ("selfplay.commands.label", "say which of two conversations is better, without knowing whose they are"),
    "rescore": ("selfplay.commands.rescore", "score stored conversations again; the old score stays"),
    "eval": ("selfplay.commands.eval", "compare a trained policy with the one it started from"),
    "tournament": (
        "selfplay.commands.tournament",
        "checkpoints, models and scripts against each other: ratings and payoffs",
    ),
    "plot": ("selfplay.commands.plot", "learning curves of one run or several, as pictures"),
    "report": ("selfplay.commands.report", "one page about a run: what was rewarded, gained and lost"),
    "export": ("selfplay.commands.export", "conversations for other tools: html, inspect, trl, openai, parquet, csv"),
    "study": ("selfplay.commands.study", "many training runs that differ in one thing, in a table and a picture"),
    "merge": ("selfplay.commands.merge", "write a trained policy as a plain Hugging Face folder"),
    "reward": ("selfplay.commands.reward", "start a reward of your own, test one, or train one from preferences"),
    "env": ("selfplay.commands.env", "start a game of your own, or check that one keeps what it promises"),
    "iterate": ("selfplay.commands.iterate", "play, label, refit the reward model, train, and again: nobody is asked"),
    "list": ("selfplay.commands.list_", "what there is to choose from: envs, models, presets, rewards, mixes"),
    "preset": ("selfplay.commands.preset", "print or copy a ready-made configuration"),
    "doctor": ("selfplay.commands.doctor", "what is installed here, and what to type next"),
}
USER_ERROR, INTERRUPTED = 2, 130


class Command(Protocol):
    """What every module of this package provides."""

    SUMMARY: str  # one line
    USAGE: str  # what --help prints

    @staticmethod
    def run(line: CommandLine) -> int:
        """Do it; return the exit status."""
        ...


def main(arguments: Sequence[str] | None = None, *, verbs: Mapping[str, tuple[str, str]] = VERBS) -> int:
    """Run one command line, by default this process's own, and return its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = _run(words, verbs)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _discard_output()
        return 0
    return status


def _run(words: Sequence[str], verbs: Mapping[str, tuple[str, str]]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(_menu(verbs))
        return 0
    verb, rest = words[0], words[1:]
    command = _command(verb, verbs)
    line = read_words(rest)
    if line.wants_help:
        # Where a verb has parts with settings of their own, it says what to print after these words.
        usage: Callable[[CommandLine], str] | None = getattr(command, "usage", None)
        print((command.USAGE if usage is None else usage(line)).strip())
        return 0
    _check_flags(verb, line, command)
    return command.run(line)


def _check_flags(verb: str, line: CommandLine, command: Command) -> None:
    """Refuse a flag that the command's own help does not know: raises UserError."""
    flags = (("--dry-run", line.dry_run), ("--json", line.as_json), ("-r ", bool(line.rewards)))
    for flag, is_given in flags:
        if is_given and flag not in command.USAGE:
            raise UserError(f"{flag.strip()} means nothing to {verb}; {verb} --help says what it takes")


def _menu(verbs: Mapping[str, tuple[str, str]]) -> str:
    lines = ["selfplay VERB [key=value ...] - two language models talk; VERB --help says more"]
    return "\n".join(lines + [f"  {verb:<12}{summary}" for verb, (_, summary) in verbs.items()])


def _command(verb: str, verbs: Mapping[str, tuple[str, str]]) -> Command:
    if verb not in verbs:
        raise UserError(f"unknown verb {verb!r}{nearest(verb, list(verbs))}")
    module: Command = importlib.import_module(verbs[verb][0])  # type: ignore[assignment]  # a module is no class
    return module


def _discard_output() -> None:
    """Point stdout at nothing: its reader has gone, and Python would complain of that once more at exit."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
