"""The labels of a run as examples: choices between its conversations or turns, rankings and ratings of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from selfplay.dialog import Conversation
from selfplay.line_files import LineIndex, RecordError
from selfplay.preferences import PREFERENCES, Preference, PreferenceLines, Ranking, Rating, read_preferences
from selfplay.records_json import conversation_from_json
from selfplay.reward_model.dialogs import Dialog, dialog_of
from selfplay.reward_model.examples import Example, Kind
from selfplay.reward_model.loaded import Loaded, counted, stop_if_bad
from selfplay.run_folder import CONVERSATIONS
from selfplay.run_reader import RunReader

__all__ = ["run_examples"]

FEWEST_ONE_SIDED = 20  # choices, below which all of them may well be for the same side
DIGITS = 8

Label = Preference | Ranking | Rating


def run_examples(folder: Path, *, by: str = "", ids: Collection[str] | None = None) -> Loaded:
    """Return what was said of a run's conversations.

    by: only what this one said: all of a name as in preferences.jsonl, or what stands before its colon, such as
    "person"; "": everybody.  ids: only what was said of nothing but these conversations; None: of any.
    A repeat with sides swapped asks nothing new and is left out; of two bad ones nothing is learnt.  A ranking with
    one winner, and all others equal, says only which is the best.  Ratings are in deviations from the mean of who
    gave them.  Keys are the conversations and their scenarios.
    Raises UserError if over 5% of the labels cannot be used.
    """
    lines = read_preferences(folder)
    allowed = None if ids is None else frozenset(ids)
    labels = [label for label in _labels(lines, by) if allowed is None or allowed.issuperset(ids_of(label))]
    wanted = {id for label in labels for id in ids_of(label)}
    reading = _Reading(folder=folder, lines=lines, conversations=_conversations(folder, wanted))
    reading.take(labels)
    loaded = Loaded(
        examples=tuple(reading.examples),
        num_lines=len(labels) + len(lines.problems),
        # The store says of each that it is skipped.
        problems=(*(f"{folder.name}/{one.removesuffix(', skipped')}" for one in lines.problems), *reading.problems),
        notes=(*counted(reading.notes), *_one_sided(labels)),
    )
    return stop_if_bad(loaded, f"{folder / PREFERENCES}", place=f"{folder.name}/{PREFERENCES}")


def ids_of(label: Label) -> Sequence[str]:
    """Return the ids of the conversations that a label is about."""
    if isinstance(label, Rating):
        return (label.conversation,)
    return label.ids if isinstance(label, Ranking) else (label.left, label.right)


def _labels(lines: PreferenceLines, by: str) -> list[Label]:
    labels: list[Label] = [*lines.preferences, *lines.rankings, *lines.ratings]
    return [label for label in labels if not by or by in (label.by, label.by.partition(":")[0])]


def _conversations(folder: Path, wanted: Set[str]) -> dict[str, Conversation]:
    def identify(record: dict[str, object]) -> str:
        id = str(record.get("id"))
        # To read a whole conversation takes long, and a run may have many that nobody labelled.
        return conversation_from_json(record).id if id in wanted else id

    index = LineIndex(folder / CONVERSATIONS, identify=identify)
    index.refresh()
    # File by file: a sealed one is unpacked as a whole.
    known = sorted(index.places.keys() & wanted, key=lambda id: (index.places[id].path, index.places[id].offset))
    records = [record for id in known if (record := index.load(id)) is not None]
    return {conversation.id: conversation for conversation in map(conversation_from_json, records)}


def _one_sided(labels: Sequence[Label]) -> list[str]:
    sides = Counter(label.choice for label in labels if isinstance(label, Preference) and label.chosen is not None)
    if len(sides) != 1 or sides.total() < FEWEST_ONE_SIDED:
        return []
    side, num = sides.most_common(1)[0]
    return [f"one-sided: all {num} choices are for the {side} one, as of somebody who does not look"]


@dataclass(slots=True, kw_only=True)
class _Reading:
    """The labels of a run that were read so far."""

    folder: Path
    lines: PreferenceLines
    conversations: Mapping[str, Conversation]
    examples: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def take(self, labels: Sequence[Label]) -> None:
        name = _name_of(self.folder)
        scales = _scales([label for label in labels if isinstance(label, Rating)])
        known = {label.id for label in labels}
        for label in labels:
            where = f"{self.folder.name}/{PREFERENCES}:{self.lines.numbers[label.id]}"
            try:
                if not self._is_left_out(label, known):
                    self._add(label, where, name, scales)
            except RecordError as error:
                self.problems.append(f"{where}: {error}")

    def _is_left_out(self, label: Label, known: Collection[str]) -> bool:
        why = ""
        if isinstance(label, Preference) and label.probability_left is None:
            why = "both-bad left out"
        elif isinstance(label, Preference) and label.swap_of in known:
            why = "repeats with sides swapped left out"
        elif any(_has_failed(self._conversation(id)) for id in ids_of(label)):
            why = "labels of failed conversations left out"
        self.notes[why] += bool(why)
        return bool(why)

    def _add(self, label: Label, where: str, name: str, scales: Mapping[tuple[str, str], tuple[float, float]]) -> None:
        conversations = [self._conversation(id) for id in ids_of(label)]
        turns = label.turns if isinstance(label, Preference) else None
        if turns is None:
            dialogs = [_whole(conversation, label.focus) for conversation in conversations]
        else:
            dialogs = [_upto(one, label.focus, turn) for one, turn in zip(conversations, turns, strict=True)]
        if len(dialogs) > 1 and len({dialog.key for dialog in dialogs}) == 1:
            self.notes["labels of what reads the same left out"] += 1
            return
        scenarios = [conversation.scenario for conversation in conversations]
        keys = [f"conversation:{name}:{id}" for id in ids_of(label)]
        keys += [f"scenario:{one.env}/{one.split}/{one.seed}" for one in scenarios]
        kind, targets = _said(label, scales)
        self.notes["ties"] += kind == "pair" and targets[0] == 0.5
        self.examples.append(
            Example(
                dialogs=tuple(dialogs),
                kind=kind,
                targets=targets,
                judged="conversation" if turns is None else "turn",
                source=label.by,
                keys=tuple(dict.fromkeys(keys)),
                where=where,
            )
        )

    def _conversation(self, id: str) -> Conversation:
        if id not in self.conversations:
            raise RecordError(f"conversation {id[:60]} is not in the run")
        return self.conversations[id]


def _has_failed(conversation: Conversation) -> bool:
    return conversation.outcome is not None and conversation.outcome.status == "failed"


def _whole(conversation: Conversation, focus: str) -> Dialog:
    dialog = dialog_of(conversation, focus)
    if not dialog.focus_places:
        raise RecordError(f"role {focus[:60]!r} says nothing in conversation {conversation.id}")
    return dialog


def _upto(conversation: Conversation, focus: str, turn: int) -> Dialog:
    if turn >= conversation.num_turns or conversation.turns[turn].role != focus:
        raise RecordError(f"turn {turn} of conversation {conversation.id} is none of role {focus[:60]!r}")
    return dialog_of(conversation, focus, through=turn)


def _said(label: Label, scales: Mapping[tuple[str, str], tuple[float, float]]) -> tuple[Kind, tuple[float, ...]]:
    """Return the kind and the targets of an example."""
    if isinstance(label, Preference):
        probability = label.probability_left
        assert probability is not None  # what is both bad was left out
        return "pair", (probability,)
    if isinstance(label, Rating):
        mean, deviation = scales[label.by, label.question]
        return "rating", ((label.value - mean) / deviation,)
    counts = Counter(label.ranks)
    if len(counts) == 2 and counts[min(counts)] == 1 and len(label.ranks) > 2:
        return "best", (float(label.ranks.index(min(counts))),)
    return "ranking", tuple(float(rank) for rank in label.ranks)


def _scales(ratings: Sequence[Rating]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the mean and the deviation of each who rated, by question; a deviation of 0 becomes 1."""
    values: dict[tuple[str, str], list[float]] = {}
    for rating in ratings:
        values.setdefault((rating.by, rating.question), []).append(rating.value)
    return {key: (float(np.mean(own)), float(np.std(own)) or 1.0) for key, own in values.items()}


def _name_of(folder: Path) -> str:
    """Return what tells a run from others with the same name, also after it was moved."""
    created = RunReader(folder).manifest.get("created_at") or str(folder.resolve())
    return hashlib.sha256(json.dumps([folder.resolve().name, created]).encode("ascii")).hexdigest()[:DIGITS]
