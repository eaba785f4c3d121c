"""`selfplay show`: one stored conversation on the terminal, or its record as JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding

from selfplay.commands.rewards_text import ending_lines, turn_lines
from selfplay.commands.terminal import INDENT, one_line, open_console, print_ending, print_header, print_turn
from selfplay.commands.words import CommandLine
from selfplay.errors import UserError
from selfplay.records_json import token_counts
from selfplay.store import RUNS, RunReader, find_run
from selfplay.written import nearest

__all__ = ["SUMMARY", "USAGE", "RunWords", "report_problems", "run", "split_run_words"]

SUMMARY = "print a stored conversation"
USAGE = """
selfplay show [RUN] [ID] [--json] [runs=FOLDER]

Print one conversation: where it started, what each role alone was told, every turn with its reward, how it ended.

  RUN          a run folder, a name under runs/, or nothing: the newest run
  ID           an id, the beginning of one, a position from 0, or "last"; nothing: the first
  --json       print the stored record instead
  runs=FOLDER  where runs are kept (default: runs)

Examples:
  selfplay show                          the newest run's first conversation
  selfplay show my-run 000000-g03-1
  selfplay show my-run last --json
"""
SETTINGS = ("runs",)
NOT_AN_ID = " (nor does the newest run have such a conversation)"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWords:
    """The words of a command that looks at runs."""

    plain: tuple[str, ...]  # everything but key=value
    runs: Path  # the folder of all runs


def split_run_words(words: Sequence[str], *, usage: str, at_most: int) -> RunWords:
    """Separate key=value from plain words: raises UserError for an unknown key or too many words."""
    plain, runs = [], RUNS
    for word in words:
        key = re.match(r"([\w.]+)=", word)
        if key is None:
            plain.append(word)
            continue
        if key[1] not in SETTINGS:
            raise UserError(f"unknown setting {key[1]!r}{nearest(key[1], SETTINGS)}")
        runs = Path(word[key.end() :])
    if len(plain) > at_most:
        raise UserError(f"too many words: {' '.join(plain)}; write {usage}")
    return RunWords(plain=tuple(plain), runs=runs)


def run(line: CommandLine) -> int:
    """Print the conversation that the words name."""
    words = split_run_words(line.words, usage="selfplay show [RUN] [ID]", at_most=2)
    reader, reference = _named(words)
    record = reader.record(reference)
    if line.as_json:
        print(json.dumps(record, indent=2))
    else:
        _print_record(open_console(), reader, record)
    report_problems(reader)
    return 0


def _print_record(console: Console, reader: RunReader, record: Mapping[str, Any]) -> None:
    conversation, counts = reader.conversation(record["id"]), token_counts(record)
    print_header(console, conversation)
    for number in range(conversation.num_turns):
        print_turn(console, conversation, number=number, counts=counts[number])
        for text in turn_lines(record, number):
            console.print(Padding(text, (0, 0, 0, INDENT), expand=False))
    print_ending(console, conversation, token_counts=counts)
    for text in ending_lines(record):
        console.print(text)


def _named(words: RunWords) -> tuple[RunReader, str]:
    """Return the run and what names the conversation; one word alone may name either."""
    name, reference = (*words.plain, "", "")[:2]
    try:
        return RunReader(find_run(name, words.runs)), reference or "0"
    except UserError as error:
        newest = _newest_with(name, words.runs) if name and not reference else None
        if newest is None:
            raise UserError(f"{error}{NOT_AN_ID if name and not reference else ''}") from error
        return newest, name


def _newest_with(reference: str, runs: Path) -> RunReader | None:
    try:
        newest = RunReader(find_run("", runs))
        newest.record(reference)
    except UserError:
        return None
    return newest


def report_problems(reader: RunReader) -> None:
    """Tell on stderr what the reader had to skip, one line each."""
    for problem in reader.problems:
        print(one_line(f"{reader.name}: {problem}"), file=sys.stderr)
