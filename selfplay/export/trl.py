"""Data sets for TRL, of its conversational types; every prompt is exactly what the role knew before it spoke.

supervised   {"prompt", "completion"}: each turn of a role, after the messages that it had seen; cut turns are left out,
             for nobody should learn to stop where a limit struck.  source=labels: only of conversations that people
             chose more often than not.
preference   {"prompt", "chosen", "rejected"}: two conversations on one scenario, at the role's first turn in which they
             differ.  The prompt is all that the role knew before that turn, and must be the same in both: two that
             differ in what the role heard give no pair.  Which is better is said of the whole conversations: by people
             (source=labels; ties and both-bad give no pair) or by the role's reward, the best against the worst of a
             group (source=rewards).
unpaired     {"prompt", "completion", "label"}: each turn of a role, with whether it is good: its reward is above the
             threshold (source=rewards), or people chose its conversation more often than not (source=labels).

Lost: tokens, sizes of rewards, and of preferences everything after the first difference.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.export.chosen import Chosen, Played
from selfplay.export.openai import failed_note, roles_of
from selfplay.export.request import Kind, Request, Result, Source
from selfplay.preferences import Preference, read_preferences
from selfplay.records_json import chat_messages

__all__ = ["OwnTurn", "own_turns", "pair_of", "write_trl"]

Messages = list[dict[str, str]]
Line = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnTurn:
    """One turn of a role, after all that the role knew before it."""

    number: int  # of the turn in its conversation
    prompt: Messages  # ends with a message of the user
    completion: Messages  # one message of the assistant
    is_cut: bool


@dataclass(slots=True)
class _Tally:
    """Why something gives no line."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str) -> None:
        self.counts[what] += 1

    def notes(self) -> tuple[str, ...]:
        return tuple(f"{num} {what}" for what, num in self.counts.items())


def write_trl(chosen: Chosen, draft: Path, request: Request) -> Result:
    """Write the lines of one kind; raises UserError if there would be none."""
    tally, num = _Tally(), 0
    with draft.open("w", encoding="utf-8", newline="\n") as file:
        for line in _LINES[request.kind, request.source](chosen, request, tally):
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
            num += 1
    if not num:
        why = "; ".join(tally.notes()) or _why_nothing(chosen, request)
        raise UserError(f"run {chosen.name} gives no line of kind={request.kind} source={request.source}: {why}")
    return Result(path=draft, num=num, noun="line", notes=tally.notes())


def _why_nothing(chosen: Chosen, request: Request) -> str:
    if request.source == "rewards" and not request.roles and not any(played.trained for played in chosen.played()):
        return "no role was trained; choose with roles=" + ",".join(chosen.info.roles)
    if (request.kind, request.source) == ("preference", "rewards"):
        return "no group has two conversations that did not fail"
    return "nothing in it says what is good"


def own_turns(conversation: Conversation, role: str) -> Iterator[OwnTurn]:
    """Yield the turns of a role that answer something, in order."""
    messages = chat_messages(conversation, role)
    places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    numbers = [number for number, turn in enumerate(conversation.turns) if turn.role == role]
    for number, place in zip(numbers, places, strict=True):
        prompt = messages[:place]
        if prompt and prompt[-1]["role"] == "user":
            is_cut = conversation.turns[number].is_cut
            yield OwnTurn(number=number, prompt=prompt, completion=[messages[place]], is_cut=is_cut)


def pair_of(better: Conversation, worse: Conversation, role: str) -> Line | str:
    """Return the pair at the first turn of a role in which two conversations differ, or why there is none."""
    for chosen, rejected in zip(own_turns(better, role), own_turns(worse, role), strict=False):
        if chosen.prompt != rejected.prompt:
            return "pairs differ in what the role heard before it said anything else"
        if chosen.completion == rejected.completion and chosen.is_cut == rejected.is_cut:
            continue
        if chosen.is_cut or rejected.is_cut:
            return "pairs differ first in a turn that a limit cut"
        return {"prompt": chosen.prompt, "chosen": chosen.completion, "rejected": rejected.completion}
    return "pairs say the same"


def _supervised(chosen: Chosen, request: Request, tally: _Tally) -> Iterator[Line]:
    for _, turn in _turns(chosen, request, tally):
        yield {"prompt": turn.prompt, "completion": turn.completion}


def _turns(chosen: Chosen, request: Request, tally: _Tally) -> Iterator[tuple[Played, OwnTurn]]:
    """Yield the turns of the roles that are asked for, without those that were cut."""
    num = 0
    for played in chosen.played():
        num += 1
        for role in _roles(played, request):
            for turn in own_turns(played.conversation, role):
                if turn.is_cut:
                    tally.add("turns that a limit cut are left out")
                else:
                    yield played, turn
    tally.counts.update({note.partition(" ")[2]: len(chosen.ids) - num for note in failed_note(len(chosen.ids) - num)})


def _roles(played: Played, request: Request) -> list[str]:
    return roles_of(played, request.roles) if request.roles else played.trained


# ----- by rewards -----


def _pairs_by_reward(chosen: Chosen, request: Request, tally: _Tally) -> Iterator[Line]:
    for _, group in groupby(chosen.played(), key=lambda played: played.conversation.group):
        siblings = list(group)
        if len(siblings) < 2:
            continue
        found = [_pair_of_group(siblings, role, request) for role in _roles(siblings[0], request)]
        # A group counts once, however many of its roles give no pair for the same reason.
        for why in dict.fromkeys(pair for pair in found if isinstance(pair, str)):
            tally.add(why)
        yield from (pair for pair in found if not isinstance(pair, str))


def _pair_of_group(siblings: Sequence[Played], role: str, request: Request) -> Line | str:
    """Return the pair of a group, or why there is none."""
    rewarded = [(reward, played) for played in siblings if math.isfinite(reward := _reward(played, role))]
    if len(rewarded) < 2:
        return "groups have no two rewarded conversations"
    best, worst = max(rewarded, key=lambda pair: pair[0]), min(rewarded, key=lambda pair: pair[0])
    if not best[0] - worst[0] > 0 or best[0] - worst[0] < request.gap:
        return "groups are too even in their rewards"
    return pair_of(best[1].conversation, worst[1].conversation, role)


def _reward(played: Played, role: str) -> float:
    """Return what a role's turns add up to; NaN: they have no rewards."""
    if played.scored is None:
        return math.nan
    turns = played.conversation.turns
    return math.fsum(
        value for turn, value in zip(turns, played.scored.rewards.tolist(), strict=True) if turn.role == role
    )


def _unpaired_by_reward(chosen: Chosen, request: Request, tally: _Tally) -> Iterator[Line]:
    threshold = request.threshold
    if threshold is None:
        rewards = [
            reward for played, turn in _turns(chosen, request, _Tally()) if _is_known(reward := _of(played, turn))
        ]
        threshold = statistics.median(rewards) if rewards else 0.0
    for played, turn in _turns(chosen, request, tally):
        reward = _of(played, turn)
        if _is_known(reward):
            is_good = reward > threshold
            tally.add(f"lines are good, with a reward above {threshold:g}" if is_good else "lines are bad")
            yield {"prompt": turn.prompt, "completion": turn.completion, "label": is_good}
        else:
            tally.add("turns have no reward")


def _is_known(reward: float) -> bool:
    return math.isfinite(reward)


def _of(played: Played, turn: OwnTurn) -> float:
    return math.nan if played.scored is None else float(played.scored.rewards[turn.number])


# ----- by labels -----


def _pairs_by_label(chosen: Chosen, request: Request, tally: _Tally) -> Iterator[Line]:
    by_id = _labelled(chosen)
    for preference in _preferences(chosen):
        better, worse = by_id.get(preference.chosen or ""), by_id.get(_other(preference))
        if preference.chosen is None:
            tally.add("choices are ties, or find both bad")
        elif better is None or worse is None:
            tally.add("choices are about conversations that failed, or do not fit the filter")
        elif not request.roles or preference.focus in request.roles:
            found = pair_of(better.conversation, worse.conversation, preference.focus)
            if isinstance(found, str):
                tally.add(found)
            else:
                yield found


def _supervised_by_label(chosen: Chosen, request: Request, tally: _Tally) -> Iterator[Line]:
    """Yield the turns of what people chose more often than not."""
    for turn, is_good in _labelled_turns(chosen, request, tally):
        if is_good:
            yield {"prompt": turn.prompt, "completion": turn.completion}
        else:
            tally.add("turns are of conversations that people did not choose")


def _unpaired_by_label(chosen: Chosen, request: Request, tally: _Tally) -> Iterator[Line]:
    for turn, is_good in _labelled_turns(chosen, request, tally):
        yield {"prompt": turn.prompt, "completion": turn.completion, "label": is_good}


def _labelled_turns(chosen: Chosen, request: Request, tally: _Tally) -> Iterator[tuple[OwnTurn, bool]]:
    """Yield the uncut turns of the roles that people judged, with whether what they judged was good."""
    by_id = _labelled(chosen)
    # A choice between two turns says nothing of the others.
    preferences = [preference for preference in _preferences(chosen) if preference.turns is None]
    for (id, role), votes in _votes(preferences).items():
        if id not in by_id or (request.roles and role not in request.roles):
            continue
        if votes == 0:
            tally.add("labelled conversations are neither good nor bad: as often chosen as not, or tied")
            continue
        yield from ((turn, votes > 0) for turn in own_turns(by_id[id].conversation, role) if not turn.is_cut)


def _preferences(chosen: Chosen) -> list[Preference]:
    preferences = read_preferences(chosen.folder).preferences
    if not preferences:
        raise UserError(f"run {chosen.name} has no labels; `label {chosen.name}` makes some, or take source=rewards")
    # A repeat with sides swapped asks nothing new.
    return [preference for preference in preferences if preference.swap_of is None]


def _labelled(chosen: Chosen) -> dict[str, Played]:
    named = {id for preference in _preferences(chosen) for id in (preference.left, preference.right)}
    return {played.conversation.id: played for played in chosen.played() if played.conversation.id in named}


def _votes(preferences: Sequence[Preference]) -> Counter[tuple[str, str]]:
    """Count, by conversation and role, how often it was chosen more than not; of two bad ones neither was."""
    votes: Counter[tuple[str, str]] = Counter()
    for preference in preferences:
        for id in (preference.left, preference.right):
            won = preference.chosen == id
            lost = preference.choice == "both_bad" or (preference.chosen is not None and not won)
            votes[id, preference.focus] += int(won) - int(lost)
    return votes


def _other(preference: Preference) -> str:
    return preference.right if preference.chosen == preference.left else preference.left


_LINES: Mapping[tuple[Kind, Source], Callable[[Chosen, Request, _Tally], Iterator[Line]]] = {
    ("supervised", "rewards"): _supervised,
    ("supervised", "labels"): _supervised_by_label,
    ("preference", "rewards"): _pairs_by_reward,
    ("preference", "labels"): _pairs_by_label,
    ("unpaired", "rewards"): _unpaired_by_reward,
    ("unpaired", "labels"): _unpaired_by_label,
}
