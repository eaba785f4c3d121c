"""What a reward model has to beat: length alone, and the best single reward that needs no training.

Legend: P pairs, K turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from selfplay.dialog import Conversation, Floats, Outcome, PlayerInfo, Scenario, Turn
from selfplay.interfaces import Reward
from selfplay.reward_model.accuracy import CHANCE, Column, PairCounts, Share, clear_pairs, of_both
from selfplay.reward_model.dialogs import Dialog, Judged, count_words
from selfplay.reward_model.examples import Example
from selfplay.reward_model.judged_pairs import JudgedPair
from selfplay.score import WeightedReward, parts_of

__all__ = [
    "FOCUS",
    "LENGTH",
    "Baseline",
    "Choice",
    "Heuristic",
    "baselines_of",
    "choose_baselines",
    "conversation_of",
    "length_gap",
    "means_of",
    "num_words",
]

FOCUS, OTHER = "focus", "other"  # the roles of a dialog as a conversation
PLAYER = "scripted"
LENGTH = "length alone"
MOST_CHOOSING = 2000  # training pairs that the best heuristic is chosen on
DRAW_CHOOSING = 2122  # first part of the spawn key

# Gives each dialog's number; NaN where it has none.
Heuristic = Callable[[Sequence[Dialog]], list[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which simple scores a model is compared with; chosen and signed on examples that are not those it is tested on.

    Example: ``Choice(length_sign=1, heuristic="politeness", heuristic_sign=1, chosen_on="1600 training pairs")``
    """

    length_sign: int  # 1: the longer one is preferred more often; -1: the shorter one is
    heuristic: str  # "": there is none
    heuristic_sign: int
    chosen_on: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What a score that was not trained gets on the pairs that a model is tested on."""

    name: str
    sign: int
    accuracy: Share  # equal scores count half
    difference: Share  # the model's accuracy minus this one's

    @property
    def standing(self) -> Literal["model", "alike", "baseline"]:
        """Which of the two the paired interval shows to be better; alike: neither."""
        if self.difference.low > 0.0:
            return "model"
        return "baseline" if self.difference.high < 0.0 else "alike"


def choose_baselines(
    examples: Sequence[Example], heuristics: Mapping[str, Heuristic], *, seed: int = 0, what: str = "training pairs"
) -> Choice:
    """Return which way length counts, and which heuristic, either way round, is right most often on these examples.

    what: how the choice calls them.
    """
    pairs = clear_pairs(examples, seed=seed)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(DRAW_CHOOSING,)))
    drawn = sorted(generator.permutation(len(pairs))[:MOST_CHOOSING].tolist())
    counts = PairCounts([pairs[number] for number in drawn], seed=seed)
    by_length = _mean(_right(counts, _by_length))
    shares = {name: _mean(_right(counts, _by(heuristic))) for name, heuristic in heuristics.items()}
    best = max(sorted(shares), key=lambda name: abs(shares[name] - CHANCE), default="")
    return Choice(
        length_sign=1 if by_length >= CHANCE else -1,
        heuristic=best,
        heuristic_sign=1 if shares.get(best, CHANCE) >= CHANCE else -1,
        chosen_on=f"{len(drawn)} {what}",
    )


def baselines_of(
    counts: PairCounts, right: Column, choice: Choice, heuristics: Mapping[str, Heuristic]
) -> Iterator[Baseline]:
    """Yield what the chosen scores get; right [P] is the model's."""
    readings: list[tuple[str, int, _Reading]] = [(LENGTH, choice.length_sign, _by_length)]
    if choice.heuristic in heuristics:
        readings.append((choice.heuristic, choice.heuristic_sign, _by(heuristics[choice.heuristic])))
    for name, sign, reading in readings:
        simple = _right(counts, reading)
        simple = simple if sign > 0 else 1.0 - simple
        yield Baseline(
            name=name, sign=sign, accuracy=counts.share(simple), difference=counts.difference(right - simple)
        )


def num_words(dialog: Dialog, judged: Judged) -> int:
    """Return the words of what is judged: the focus role's last message, or all of its messages."""
    own = [message.text for message in dialog.messages if message.is_focus]
    return sum(count_words(text) for text in (own[-1:] if judged == "turn" else own))


def conversation_of(dialog: Dialog, *, number: int = 0) -> Conversation:
    """Return a dialog as a finished conversation of two roles without tokens, a turn for each message."""
    starts = bool(dialog.messages) and dialog.messages[0].is_focus
    roles = (FOCUS, OTHER) if starts else (OTHER, FOCUS)
    waiting: dict[str, list[str]] = {FOCUS: [], OTHER: []}  # what each role has heard since it last spoke
    turns = []
    for message in dialog.messages:
        role, partner = (FOCUS, OTHER) if message.is_focus else (OTHER, FOCUS)
        turns.append(Turn(role=role, text=message.text, heard_text="\n".join(waiting[role]), player=PLAYER))
        waiting[role] = []
        waiting[partner].append(message.text)
    return Conversation(
        id=f"000000-g{number:02d}-0",
        scenario=Scenario(env="dialog", seed=number, split="train", roles=roles),
        players={role: PlayerInfo(policy=PLAYER, brief=dialog.system if role == FOCUS else "") for role in roles},
        turns=tuple(turns),
        outcome=Outcome(status="terminated", reason="turn_limit"),
    )


def means_of(reward: Reward) -> Heuristic:
    """Return what gives a reward's mean over the focus role's turns, clipped to its range; NaN: it applies to none."""
    weighted = WeightedReward(reward=reward)

    def means(dialogs: Sequence[Dialog]) -> list[float]:
        conversations = [conversation_of(dialog, number=number) for number, dialog in enumerate(dialogs)]
        found = [parts.scores.get(weighted.name) for parts in parts_of(conversations, [weighted])]
        return [
            math.nan if scores is None else _mean_of_focus(conversation, scores.values, weighted.range)
            for conversation, scores in zip(conversations, found, strict=True)
        ]

    return means


def _mean_of_focus(conversation: Conversation, values: Floats, bounds: tuple[float, float]) -> float:
    is_own = np.array([turn.role == FOCUS for turn in conversation.turns], dtype=bool)  # [K]
    known = values[is_own & np.isfinite(values)]
    return float(np.clip(known, *bounds).mean(dtype=np.float64)) if known.size else math.nan


_Reading = Callable[[Sequence[Dialog], Judged], Sequence[float]]


def _by_length(dialogs: Sequence[Dialog], judged: Judged) -> list[float]:
    return [float(num_words(dialog, judged)) for dialog in dialogs]


def _by(heuristic: Heuristic) -> _Reading:
    def read(dialogs: Sequence[Dialog], judged: Judged) -> list[float]:
        return heuristic(dialogs)

    return read


def _right(counts: PairCounts, reading: _Reading) -> Column:
    scores = of_both(counts.pairs, reading)
    return counts.right([one for one, _ in scores], [other for _, other in scores])


def _mean(right: Column) -> float:
    return float(right.mean()) if right.size else CHANCE


def length_gap(pair: JudgedPair) -> float:
    """Return by how much the preferred one is longer, as a share of the longer one's words, in [-1, 1]."""
    first, second = num_words(pair.first, pair.judged), num_words(pair.second, pair.judged)
    gap = (first - second) / max(first, second, 1)
    return gap if pair.target > CHANCE else -gap
