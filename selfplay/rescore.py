"""Stored conversations scored again: nothing is played, and the old score stays.

A new score is an annotation of kind "score".  Legend: K turns.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.dialog import Conversation, Floats, ScoredConversation
from selfplay.errors import UserError
from selfplay.line_files import LineFile, line_from_json
from selfplay.ranks import average_ranks, spearman
from selfplay.records_json import annotation_to_json, conversation_from_json
from selfplay.rewards_json import rewards_to_json, scored_from_json
from selfplay.run_folder import ANNOTATIONS, now
from selfplay.run_lock import RunLock
from selfplay.run_reader import RunReader
from selfplay.score import WeightedReward, as_played, has_failed, prepare, score
from selfplay.whole_files import reason

KIND, BY = "score", "rescore"
NUM_TRIED = 8  # conversations that every reward is tried on before anything else is scored


@dataclass(frozen=True, slots=True, kw_only=True)
class Rescored:
    """One conversation before and after."""

    old: ScoredConversation | None  # None: it had no rewards, or failed in scoring
    new: ScoredConversation

    @property
    def id(self) -> str:
        """The conversation's."""
        return self.new.conversation.id

    @property
    def old_mean(self) -> float:
        """Old reward of a turn of the trained roles; NaN: there was none."""
        return math.nan if self.old is None else mean_reward(self.old)

    @property
    def new_mean(self) -> float:
        """New reward of a turn of the trained roles; NaN: scoring failed."""
        return mean_reward(self.new)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One number of a turn over all conversations, before and after; NaN: it was not measured."""

    name: str  # "" for the whole reward, else the part
    old: float
    new: float
    order: float  # rank correlation of the conversations' old and new means


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A stored conversation as it was played, with the rewards that it was stored with."""

    conversation: Conversation
    old: ScoredConversation | None  # None: it had none, or failed in scoring


def stored_conversations(reader: RunReader, *, with_tokens: bool) -> Iterator[Stored]:
    """Yield the conversations of a run that did not fail in play."""
    conversations = reader.conversations(with_tokens=True) if with_tokens else None
    for record in reader.records():
        found = next(conversations) if conversations else conversation_from_json(record)
        conversation = as_played(found)
        if not has_failed(conversation):
            old = None if has_failed(found) else scored_from_json(record, found)
            yield Stored(conversation=conversation, old=old)


def blocks(stored: Sequence[Stored]) -> list[list[Stored]]:
    """Return the conversations in the batches that were scored together: those of one split and step."""
    found: dict[tuple[str, int], list[Stored]] = {}
    for one in stored:
        found.setdefault((one.conversation.scenario.split, one.conversation.step), []).append(one)
    return list(found.values())


def rescore(
    stored: Sequence[Stored], rewards: Sequence[WeightedReward], *, timeout_seconds: float
) -> Iterator[list[Rescored]]:
    """Yield the conversations with their new rewards, block by block.

    Raises UserError, before anything is yielded, if a reward fails on one of the first groups; later failures are in
    what is yielded.
    """
    prepare(rewards)
    _try(stored, rewards, timeout_seconds=timeout_seconds)
    for block in blocks(stored):
        scored = score([one.conversation for one in block], rewards, timeout_seconds=timeout_seconds)
        yield [Rescored(old=one.old, new=new) for one, new in zip(block, scored, strict=True)]


def _try(stored: Sequence[Stored], rewards: Sequence[WeightedReward], *, timeout_seconds: float) -> None:
    """Score whole groups of the first block until there are eight conversations."""
    first = [one.conversation for one in blocks(stored)[0]]
    if not any(weighted.scope == "batch" for weighted in rewards):
        groups = list(dict.fromkeys(conversation.group for conversation in first))
        sizes = accumulate(sum(conversation.group == group for conversation in first) for group in groups)
        kept = {group for group, before in zip(groups, [0, *sizes], strict=False) if before < NUM_TRIED}
        first = [conversation for conversation in first if conversation.group in kept]
    failed = [one.conversation for one in score(first, rewards, timeout_seconds=timeout_seconds)]
    failed = [conversation for conversation in failed if has_failed(conversation)]
    if failed:
        raise UserError(
            f"{len(failed)} of the first {len(first)} conversations could not be scored, so nothing was; "
            f"the first, {failed[0].id}: {failed[0].error}"
        )


class ScoreWriter:
    """Appends new scores to the annotations of a run, which nobody else may write meanwhile.

    Raises UserError if the run is being written, or cannot be; what was appended before stays.
    """

    def __init__(self, run: Path, rewards: Sequence[WeightedReward]) -> None:
        self._path = run / f"{ANNOTATIONS}.jsonl"
        self._terms = {weighted.name: weighted.term for weighted in rewards}
        self._file: LineFile | None = None  # opened with the first score
        self.num = 0  # scores appended so far
        try:
            self._lock = RunLock.take(run)
        except OSError as error:
            raise UserError(f"cannot write to folder {run}: {reason(error)}") from error

    def append(self, rescored: Iterable[Rescored]) -> None:
        """Add the new scores; conversations that failed have none."""
        for one in rescored:
            block = None if has_failed(one.new.conversation) else rewards_to_json(one.new, terms=self._terms)
            if block is None:
                continue
            record = annotation_to_json(one.id, by=BY, kind=KIND, data=_brief(block, one.new), turn=None, at=now())
            try:
                self._file = self._file or LineFile(self._path)
                self._file.append(line_from_json(record))
            except OSError as error:
                raise UserError(
                    f"cannot write {self._path}: {reason(error)}; {self.num} new scores are kept"
                ) from error
            self.num += 1

    def close(self) -> None:
        """Let others write the run again."""
        if self._file is not None:
            self._file.close()
        self._lock.release()


def changes(rescored: Sequence[Rescored]) -> list[Change]:
    """Return how the whole reward moved, then every part that is in either score."""
    names = dict.fromkeys(name for one in rescored for side in (one.old, one.new) if side for name in side.parts)
    return [_change(name, rescored) for name in ("", *names)]


def moved_most(rescored: Sequence[Rescored], num: int) -> list[tuple[Rescored, float, float]]:
    """Return the conversations whose place moved most, with the old and the new place; 1 is the best."""
    known = [one for one in rescored if math.isfinite(one.old_mean) and math.isfinite(one.new_mean)]
    if not known:
        return []
    places = [average_ranks([-getattr(one, side) for one in known]).tolist() for side in ("old_mean", "new_mean")]
    rows = list(zip(known, *places, strict=True))
    return [row for row in sorted(rows, key=lambda row: -abs(row[1] - row[2]))[:num] if row[1] != row[2]]


def mean_reward(scored: ScoredConversation) -> float:
    """Return the reward of a turn of the trained roles, or of everybody if none is trained; NaN: it has none."""
    return _mean_over_turns(scored.conversation, scored.rewards)


def _change(name: str, rescored: Sequence[Rescored]) -> Change:
    old = [_mean_of_part(one.old, name) for one in rescored]
    new = [_mean_of_part(one.new, name) for one in rescored]
    return Change(name=name, old=_mean(old), new=_mean(new), order=spearman(old, new))


def _mean_of_part(scored: ScoredConversation | None, name: str) -> float:
    if scored is None or (name and name not in scored.parts):
        return math.nan
    return _mean_over_turns(scored.conversation, scored.parts[name].values if name else scored.rewards)


def _mean_over_turns(conversation: Conversation, values: Floats) -> float:
    trained = {role for role, player in conversation.players.items() if player.trained}
    own = [
        value
        for turn, value in zip(conversation.turns, values.tolist(), strict=True)
        if not trained or turn.role in trained
    ]
    return _mean(own)


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def _brief(block: Mapping[str, Any], scored: ScoredConversation) -> dict[str, Any]:
    """Return a `rewards` block with a row of raw numbers for each part, instead of a record for each turn."""
    weights = {part["name"]: "gate" if part.get("gate") else part["weight"] for part in block["parts"]}
    raw = {
        name: [None if np.isnan(value) else value for value in part.values.tolist()]
        for name, part in scored.parts.items()
    }
    kept = {key: block[key] for key in ("set", "sources", "per_turn", "per_role") if key in block}
    return {**kept, "weights": weights, "raw": raw}
