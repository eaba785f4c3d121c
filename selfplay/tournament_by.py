"""Which entries are preferred, where nothing is paid: talks on the same scenarios compared two by two, as Elo points.

Every entry has all roles of one talk on each held-out scenario.  A judge or a reward model compares the talks of two
entries on one scenario, once from the view of each role.  What people said of stored talks is
`selfplay.tournament_labels`'s.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.bradley_terry import EloTable, PairResult, connected, fit_elo
from selfplay.dialog import Conversation, conversation_id
from selfplay.errors import UserError
from selfplay.interfaces import Env
from selfplay.judge.measures import Measures, measure
from selfplay.judge.pairs import PairVerdict
from selfplay.label_by import TIE, AutoLabel, AutoLabeller
from selfplay.pair_sampling import Members, PairToLabel, dialogs_of
from selfplay.play import Match, make_group
from selfplay.preferences import Preference, append_entries
from selfplay.reward_model.examples import Example
from selfplay.run_folder import now
from selfplay.score import has_failed

__all__ = [
    "EloTournament",
    "EntryPair",
    "JudgedPair",
    "OnProgress",
    "RewardModelLabeller",
    "Said",
    "check_connected",
    "elo_tournament_of",
    "judge_measures",
    "pair_result",
    "pairs_of",
    "said_of",
    "scenario_of",
    "store_said",
    "talk_matches",
]

LETTER = "p"  # in the ids of conversations
SAMPLER = "tournament"
BLOCK = 8  # pairs that are asked about together
ID_DIGITS = 12
MOST_SHOWN = 6  # names in a message

OnProgress = Callable[[int, int], None]  # pairs done, of how many


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryPair:
    """Talks of two entries on one scenario, and whose part in them is compared."""

    first: str  # whose talk is the left one
    second: str
    pair: PairToLabel

    @property
    def scenario(self) -> str:
        """What belongs together in resampling."""
        return scenario_of(self.pair.left)

    @property
    def is_same(self) -> bool:
        """Whether both read the same to the role: such a pair is a tie, and nobody need be asked."""
        one, other = dialogs_of(self.pair)
        return one == other


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """A pair and what was said of it."""

    pair: EntryPair
    label: AutoLabel

    @property
    def result(self) -> PairResult:
        """What it is worth to the two entries: a probability counts as such, not as a win."""
        return pair_result(self.pair.first, self.pair.second, self.pair.scenario, self.label.probability)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedPair:
    """Two stored talks that were compared, and what was said of them: what one comparison of the table rests on.

    Example: ``JudgedPair(first="chat@30", second="base", first_id="000000-p00-1", second_id="000000-p00-0",
    role="host", scenario="chitchat/held_out/7", probability_first=0.81, by="judge:smollm2-135m",
    question="Which follows the principle better?", principle="listens")``
    """

    first: str  # an entry
    second: str
    first_id: str  # of its conversation
    second_id: str
    role: str  # whose part in them was compared
    scenario: str
    probability_first: float  # that the first is preferred; even odds are a tie
    by: str
    question: str = ""
    principle: str | None = None  # id of what it was judged by
    detail: Mapping[str, Any] = field(default_factory=dict)  # what else was measured, of left and right as stored
    run: str = ""  # where the conversations are; "": the tournament's own run

    @property
    def preferred(self) -> str | None:
        """The entry that is preferred; None: a tie."""
        if abs(self.probability_first - 0.5) <= TIE:
            return None
        return self.first if self.probability_first > 0.5 else self.second

    @property
    def filter(self) -> str:
        """What finds both conversations in their run."""
        return f"id={self.first_id},{self.second_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EloTournament:
    """All that was found."""

    by: str  # who or what compared: "judge:smollm2-135m", "rm:chat", "person"
    table: EloTable
    judged: tuple[JudgedPair, ...] = ()  # what its comparisons rest on
    # Entry -> the ids of its talks; empty where nothing was played.
    talks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # Why comparisons are not in the table -> how many.
    left_out: Mapping[str, int] = field(default_factory=dict)
    num_same: int = 0  # ties because both talks read the same


# ----- what is played and compared -----


def talk_matches(env: Env, names: Sequence[str], *, seed: int, num_scenarios: int) -> list[Match]:
    """Return matches in which each entry has all roles, one on each held-out scenario; scenarios are those of `eval`.

    Each entry has draws of its own: with the same ones, entries that hardly differ would say the same nearly always,
    and what is left would make them look far apart.
    """
    found: list[Match] = []
    for group in range(num_scenarios):
        drawn = make_group(env, {}, seed=seed, split="held_out", place=(0, group), size=len(names))
        for number, name in enumerate(sorted(names)):
            id = conversation_id(step=0, letter=LETTER, group=group, index=number)
            found.append(replace(drawn[number], id=id, players=dict.fromkeys(env.roles, name)))
    return found


def pairs_of(talks: Mapping[str, Sequence[Conversation]]) -> list[EntryPair]:
    """Return what can be compared: entry -> its talks; those on one scenario, two by two, from each role that speaks.

    Talks that failed are left out, and with them the pairs they would be in.
    """
    by_scenario: dict[str, list[tuple[str, Conversation]]] = {}
    for name, own in talks.items():
        for talk in own:
            if not has_failed(talk):
                by_scenario.setdefault(scenario_of(talk), []).append((name, talk))
    return [
        EntryPair(first=first, second=second, pair=PairToLabel(left=left, right=right, focus=role, sampler=SAMPLER))
        for found in by_scenario.values()
        for (first, left), (second, right) in combinations(found, 2)
        for role in left.scenario.roles
        if first != second and left.turns_of(role) and right.turns_of(role)
    ]


# ----- who compares -----


class RewardModelLabeller:
    """Prefers what a reward model values more: the mean of its members' probabilities, as it was trained to say them.

    A difference of one in what it was trained on is 173.7 points.  Reward models overstate what people find (Bai et al.
    2022, arXiv:2204.05862), the more so for a policy that was trained on them.
    """

    needs_tokens = False
    question = "Which does the reward model value more?"

    def __init__(self, model: Members, *, name: str) -> None:
        self.by = f"rm:{name}"
        self._model = model

    def label(self, pairs: Sequence[PairToLabel]) -> list[AutoLabel | None]:
        """Return labels; None: the model's number is none."""
        examples = [
            Example(dialogs=dialogs_of(pair), kind="pair", targets=(0.5,), judged=pair.judged) for pair in pairs
        ]
        found = np.asarray(self._model.probabilities(examples), dtype=np.float64).mean(axis=1)  # [P]
        return [_label_of(probability) for probability in found.tolist()]

    def finish(self) -> None:
        """Do nothing: it has an answer to everything."""


def _label_of(probability: float) -> AutoLabel | None:
    if not math.isfinite(probability):
        return None
    if abs(probability - 0.5) <= TIE:
        return AutoLabel(probability=0.5, choice="tie")
    return AutoLabel(probability=probability, choice="left" if probability > 0.5 else "right")


def said_of(
    pairs: Sequence[EntryPair], labeller: AutoLabeller, *, on_progress: OnProgress | None = None
) -> list[Said | None]:
    """Return what a judge or a reward model says of each pair; None: it has no answer.

    What reads the same is a tie, and not asked about.  Raises UserError if the labeller proves to be of no use.
    """
    tie = AutoLabel(probability=0.5, choice="tie", detail={"is_same": True})
    labels: dict[int, AutoLabel | None] = {place: tie for place, pair in enumerate(pairs) if pair.is_same}
    asked = [place for place in range(len(pairs)) if place not in labels]
    for start in range(0, len(asked), BLOCK):
        block = asked[start : start + BLOCK]
        labels |= dict(zip(block, labeller.label([pairs[place].pair for place in block]), strict=True))
        if on_progress is not None:
            on_progress(start + len(block), len(asked))
    labeller.finish()
    found = [(pair, labels[place]) for place, pair in enumerate(pairs)]
    return [None if label is None else Said(pair=pair, label=label) for pair, label in found]


def elo_tournament_of(
    talks: Mapping[str, Sequence[Conversation]],
    labeller: AutoLabeller,
    said: Sequence[Said | None],
    *,
    seed: int,
    anchor: str = "",
) -> EloTournament:
    """Return the table of entries from what was `said_of` the `pairs_of` their talks.

    Raises UserError if entries cannot be compared, as where all talks of one failed.
    """
    known = [one for one in said if one is not None]
    num_failed = sum(has_failed(talk) for own in talks.values() for talk in own)
    failed = f"{num_failed} conversations failed" if num_failed else ""
    results = [one.result for one in known]
    check_connected(results, list(talks), why=failed or f"{labeller.by} had no answer")
    left_out = {"talk failed": num_failed, "without an answer": len(said) - len(known)}
    return EloTournament(
        by=labeller.by,
        table=fit_elo(results, seed=seed, anchor=anchor),
        judged=tuple(_judged(one, labeller) for one in known),
        talks={name: tuple(talk.id for talk in own) for name, own in talks.items()},
        left_out={why: num for why, num in left_out.items() if num},
        num_same=sum(one.pair.is_same for one in known),
    )


def _judged(said: Said, labeller: AutoLabeller) -> JudgedPair:
    pair, label = said.pair, said.label
    return JudgedPair(
        first=pair.first,
        second=pair.second,
        first_id=pair.pair.left.id,
        second_id=pair.pair.right.id,
        role=pair.pair.focus,
        scenario=pair.scenario,
        probability_first=label.probability,
        by=labeller.by,
        question=labeller.question,
        principle=label.principle,
        detail=label.detail,
    )


def judge_measures(pairs: Sequence[EntryPair], said: Sequence[Said | None]) -> Measures:
    """Return how far a judge can be trusted by what it `said_of` pairs: what position and length do to it."""
    asked = [(pair, one) for pair, one in zip(pairs, said, strict=True) if not pair.is_same]
    return measure(
        [dialogs_of(pair.pair) for pair, _ in asked],
        [None if one is None else _verdict_of(one.label) for _, one in asked],
        groups=[pair.scenario for pair, _ in asked],
    )


def _verdict_of(label: AutoLabel) -> PairVerdict:
    return PairVerdict(
        probability_first=label.probability,
        principle=label.principle or "",
        first_order=label.detail.get("first_order"),
        second_order=label.detail.get("second_order"),
        is_truncated=bool(label.detail.get("is_truncated", False)),
    )


def store_said(folder: Path, said: Sequence[Said | None], labeller: AutoLabeller) -> None:
    """Add what was said to the preferences of the run that holds the talks; UserError: it cannot be written."""
    at = now()
    append_entries(folder, [_preference(one, labeller, at) for one in said if one is not None])


def _preference(said: Said, labeller: AutoLabeller, at: str) -> Preference:
    pair, label = said.pair.pair, said.label
    # A person's lines are told apart by time; these are written at once.
    content = json.dumps([at, labeller.by, pair.left.id, pair.right.id, pair.focus])
    return Preference(
        at=at,
        left=pair.left.id,
        right=pair.right.id,
        focus=pair.focus,
        question=labeller.question,
        choice=label.choice,
        by=labeller.by,
        probability=label.probability,
        principle=label.principle,
        sampler=SAMPLER,
        detail=label.detail,
        stored_id=hashlib.sha256(content.encode("ascii")).hexdigest()[:ID_DIGITS],
    )


def pair_result(first: str, second: str, scenario: str, probability: float) -> PairResult:
    """Return a result from how likely the first is preferred; even odds are a tie."""
    if abs(probability - 0.5) <= TIE:
        return PairResult(first=first, second=second, scenario=scenario, tied=1.0)
    return PairResult(
        first=first, second=second, scenario=scenario, first_won=probability, second_won=1.0 - probability
    )


def scenario_of(conversation: Conversation) -> str:
    """Return what tells a conversation's scenario from all others."""
    scenario = conversation.scenario
    return f"{scenario.env}/{scenario.split}/{scenario.seed}"


def check_connected(results: Sequence[PairResult], names: Sequence[str], *, why: str) -> None:
    """Raise UserError if nothing says how some entries compare with others; names: who must be among them."""
    groups = connected(results)
    known = {name for group in groups for name in group}
    groups += [[name] for name in names if name not in known]
    if len(groups) < 2:
        return
    one, other = (_listed(group) for group in groups[:2])
    raise UserError(f"entries are not connected, so they have no common scale: {one} and {other}; {why}")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more
