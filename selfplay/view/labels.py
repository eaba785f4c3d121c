"""Blind pairs for the page: a labeller for each person and run, as `selfplay label` has it in the terminal."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from selfplay.labelling import Labeller, Pair
from selfplay.transcript_index import Row
from selfplay.view.describe import plain
from selfplay.view.runs import OpenRun
from selfplay.view.safety import RequestError

__all__ = ["Labels"]

MOST_LABELLERS = 16
MOST_SECONDS = 24 * 3600.0  # a choice that took longer was not thought about all the time


class Labels:
    """The labellers in use; what people said stands in the runs' folders."""

    def __init__(self) -> None:
        self._labellers: OrderedDict[tuple[int, str], tuple[OpenRun, Labeller]] = OrderedDict()
        self._lock = threading.Lock()  # a labeller is not for two threads at once

    def pair(self, run: OpenRun, person: str) -> dict[str, Any]:
        """Return the next pair, without what would tell who played."""
        with self._labeller(run, person) as labeller:
            pair = labeller.next_pair()
            return {"pair": None if pair is None else _pair_to_json(labeller, pair), **_progress(labeller)}

    def answer(self, run: OpenRun, person: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Store a choice, and return what was hidden."""
        _check_writable(run)
        token, choice, why = (body.get(name) for name in ("token", "choice", "why"))
        if not isinstance(token, str) or not isinstance(choice, str):
            raise RequestError("a label needs the pair's token and a choice")
        words = [word for word in why if isinstance(word, str)] if isinstance(why, list) else []
        with self._labeller(run, person) as labeller:
            revealed = labeller.answer(token, choice, why=words, seconds=_seconds(body.get("seconds")))
            reveal = {"left": _row_to_json(revealed.left), "right": _row_to_json(revealed.right)}
            return {"reveal": reveal, **_progress(labeller)}

    def undo(self, run: OpenRun, person: str) -> dict[str, Any]:
        """Take back the person's last answer."""
        _check_writable(run)
        with self._labeller(run, person) as labeller:
            return {"undone": labeller.undo(), **_progress(labeller)}

    @contextmanager
    def _labeller(self, run: OpenRun, person: str) -> Iterator[Labeller]:
        with self._lock:
            key = (id(run), person)
            if key not in self._labellers:
                # The run is kept with it, so that its number stays its own.
                self._labellers[key] = (run, Labeller(run.folder, run.index, person=person))
                while len(self._labellers) > MOST_LABELLERS:
                    self._labellers.popitem(last=False)
            self._labellers.move_to_end(key)
            yield self._labellers[key][1]


def _pair_to_json(labeller: Labeller, pair: Pair) -> dict[str, Any]:
    left, right = labeller.shown(pair)
    return {
        "token": pair.token,
        "question": pair.question,
        "focus": pair.focus,
        "scenario": pair.scenario,
        "about": pair.about,
        "left": left,
        "right": right,
    }


def _progress(labeller: Labeller) -> dict[str, Any]:
    return dict(plain(labeller.progress()))


def _row_to_json(row: Row | None) -> dict[str, Any] | None:
    found = plain(row)
    return None if row is None else dict(found)


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_SECONDS:
        return None
    return float(value)


def _check_writable(run: OpenRun) -> None:
    if not os.access(run.folder, os.W_OK):
        raise RequestError(f"folder {run.folder} cannot be written, so nothing can be added to the run", status=409)
