"""Answers that were given before: whoever is asked the same again is not asked, but remembered."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from selfplay.errors import UserError
from selfplay.judge.options import LogProbs, OptionReader, Prompt
from selfplay.line_files import LineFile, RecordError, json_from_line, line_from_json
from selfplay.whole_files import reason

__all__ = ["SCHEMA", "VERDICTS", "RememberedOptions"]

logger = logging.getLogger(__name__)

SCHEMA = "selfplay.verdict/1"
VERDICTS = "verdicts.jsonl"  # of a run folder
REMEMBERED = 100_000  # answers in memory, the newest
DIGITS = 32  # of a hash


class RememberedOptions:
    """A reader that asks another one only for what it does not know, by content and by who answers.

    Lines of its file are ``{"schema", "key", "by", "options", "log_probs"}``; what is no such line is passed over.
    """

    def __init__(self, reader: OptionReader, path: Path | None = None) -> None:
        """Take what a file holds; None: remember in memory only."""
        self._reader = reader
        self._path = path
        self._known: dict[str, tuple[float, ...]] = {}  # the newest last
        if path is not None:
            self._known = _read(path)

    @property
    def identity(self) -> str:
        """The reader's own."""
        return self._reader.identity

    def has_room(self, prompt: Prompt) -> bool:
        """Whether the reader can read a prompt of that length."""
        return self._reader.has_room(prompt)

    def said_instead(self, prompt: Prompt) -> str:
        """Return what the reader would rather say."""
        return self._reader.said_instead(prompt)

    def log_probs(self, prompts: Sequence[Prompt], options: Sequence[str]) -> LogProbs:
        """Return [N, O] nats; each different prompt is asked once."""
        keys = [self._key(prompt, options) for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in self._known}
        if new:
            rows = self._reader.log_probs(list(new.values()), options)
            found = {key: tuple(map(float, row)) for key, row in zip(new, rows, strict=True)}
            self._write(found, options)
            self._known |= found
        answers = np.array([self._known[key] for key in keys]).reshape(len(keys), len(options))
        for key in list(self._known)[: max(0, len(self._known) - REMEMBERED)]:
            del self._known[key]
        return answers

    def _key(self, prompt: Prompt, options: Sequence[str]) -> str:
        messages = [[message["role"], message["content"]] for message in prompt]
        content = json.dumps([self.identity, list(options), messages])
        return hashlib.sha256(content.encode("ascii")).hexdigest()[:DIGITS]

    def _write(self, found: dict[str, tuple[float, ...]], options: Sequence[str]) -> None:
        if self._path is None:
            return
        by = self.identity.partition(" ")[0]
        try:
            file = LineFile(self._path)
            try:
                for key, row in found.items():
                    record = {"schema": SCHEMA, "key": key, "by": by, "options": list(options), "log_probs": row}
                    file.append(line_from_json(record))
            finally:
                file.close()
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {reason(error)}") from error


def _read(path: Path) -> dict[str, tuple[float, ...]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    found, num_bad = {}, 0
    for line in lines:
        try:
            record = json_from_line(line)
            if record["schema"] != SCHEMA:
                raise RecordError(f"schema {record['schema']!r}")
            numbers = tuple(float(number) for number in record["log_probs"])
            if len(numbers) != len(record["options"]):
                raise RecordError("an option without its number")
            found[str(record["key"])] = numbers
        except (RecordError, KeyError, TypeError, ValueError):
            num_bad += 1
    if num_bad:
        logger.warning("%s: %d of %d lines are no verdicts and were passed over", path, num_bad, len(lines))
    return found
