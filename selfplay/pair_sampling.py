"""Which two conversations are compared next: drawn uniformly, or those that a reward model's members dispute.

Legend: P pairs, M members of a reward model.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.preferences import Preference
from selfplay.reward_model.dialogs import Dialog, Judged, dialog_of
from selfplay.reward_model.examples import Example

__all__ = [
    "Members",
    "PairKey",
    "PairToLabel",
    "Sampler",
    "Sampling",
    "dialogs_of",
    "key_of_pair",
    "key_of_preference",
    "sample_pairs",
]

Sampler = Literal["uniform", "disagreement"]
# Who is judged, and the two conversations with the turn that is: the sides do not matter.
PairKey = tuple[str, frozenset[tuple[str, int]]]

UNIFORM = "uniform-same-scenario"
WHOLE = -1  # in place of a turn, where whole conversations are compared
MOST_LISTED = 256  # conversations of a scenario whose pairs are all listed
NUM_DRAWS = 20_000  # of pairs, where a scenario has more conversations than that
DRAW_SCENARIO, DRAW_PAIR = 2301, 2302  # first parts of the spawn keys


class Members(Protocol):
    """What a reward model says pair by pair."""

    def probabilities(self, examples: Sequence[Example]) -> npt.NDArray[np.floating]:
        """Return how likely each member finds it that the first of two is preferred [P, M]."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PairToLabel:
    """Two conversations on one scenario, and whose part in them is judged."""

    left: Conversation
    right: Conversation
    focus: str  # the role that is judged
    turns: tuple[int, int] | None = None  # the turn that is judged in left and right; None: all of the conversations
    sampler: str = UNIFORM  # how it was drawn: "disagreement-10x" is the most disputed tenth
    disagreement: float | None = None  # variance of the members' probabilities; None: nobody was asked

    @property
    def judged(self) -> Judged:
        """What a verdict is about."""
        return "conversation" if self.turns is None else "turn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How pairs are drawn.

    Example: ``Sampling(sampler="disagreement", model=load(Path("reward_models/chat")))``
    """

    sampler: Sampler = "uniform"
    unit: Judged = "conversation"
    model: Members | None = None  # whose members should disagree
    candidates: int = 10  # pairs drawn for each that is kept, where they should
    focus: str = ""  # the role that is judged; "": a trained one that speaks in both
    scenarios: frozenset[int] | None = None  # seeds of those whose conversations are compared; None: all
    seed: int = 0


def sample_pairs(
    conversations: Sequence[Conversation], *, n: int, sampling: Sampling, exclude: Collection[PairKey] = ()
) -> list[PairToLabel]:
    """Return n pairs without any twice, fewer where there are no more.

    A pair's conversations are on one scenario and read differently for the role that is judged.  First the scenario is
    drawn, then the pair and the role, then who stands left.  With unit "turn" the role's first different turn after
    one and the same past is judged.  exclude: pairs that were labelled before.

    With sampler "disagreement" candidates x n pairs are drawn so, and those are kept, first the most disputed, about
    whose preference the members' probabilities vary most (Christiano et al. 2017, arXiv:1706.03741, section 2.2.4);
    of equals the one drawn first.  Where there are fewer candidates, `sampler` says of how many times as many each was
    the most disputed.  Raises UserError if there is no model, or it has a single member.
    """
    if sampling.sampler == "uniform":
        return list(itertools.islice(_drawn(conversations, sampling, exclude), n))
    if sampling.model is None:
        raise UserError("sampler=disagreement needs a reward model whose members can disagree: rm=PATH")
    candidates = list(itertools.islice(_drawn(conversations, sampling, exclude), n * sampling.candidates))
    return _most_disputed(candidates, sampling.model, n)


def dialogs_of(pair: PairToLabel) -> tuple[Dialog, Dialog]:
    """Return both sides as the role that is judged saw them; a judged turn is the last one."""
    through = pair.turns or (None, None)
    return (
        dialog_of(pair.left, pair.focus, through=through[0]),
        dialog_of(pair.right, pair.focus, through=through[1]),
    )


def key_of_pair(pair: PairToLabel) -> PairKey:
    """Return what tells a pair from any other."""
    return _key(pair.focus, (pair.left.id, pair.right.id), pair.turns)


def key_of_preference(preference: Preference) -> PairKey:
    """Return the key of the pair that a preference is about."""
    return _key(preference.focus, (preference.left, preference.right), preference.turns)


def _key(focus: str, ids: tuple[str, str], turns: tuple[int, int] | None) -> PairKey:
    return focus, frozenset(zip(ids, turns or (WHOLE, WHOLE), strict=True))


def _most_disputed(candidates: Sequence[PairToLabel], model: Members, n: int) -> list[PairToLabel]:
    if not candidates:
        return []
    examples = [
        Example(dialogs=dialogs_of(pair), kind="pair", targets=(0.5,), judged=pair.judged) for pair in candidates
    ]
    probabilities = np.asarray(model.probabilities(examples), dtype=np.float64)  # [P, M]
    if probabilities.shape[1] < 2:
        raise UserError(
            "sampler=disagreement needs a reward model with several members, and this one has 1; "
            "train it with ensemble=3, or write sampler=uniform"
        )
    variances = probabilities.var(axis=1)  # [P]
    kept = np.argsort(-variances, kind="stable")[:n].tolist()
    name = f"disagreement-{len(candidates) / len(kept):.3g}x"
    return [replace(candidates[place], sampler=name, disagreement=float(variances[place])) for place in kept]


# ----- drawing -----


def _drawn(
    conversations: Sequence[Conversation], sampling: Sampling, exclude: Collection[PairKey]
) -> Iterator[PairToLabel]:
    """Yield pairs, the scenario of each drawn anew, until no scenario has any left."""
    generator = np.random.default_rng(np.random.SeedSequence(sampling.seed, spawn_key=(DRAW_SCENARIO,)))
    known = frozenset(exclude)
    waiting = [
        _pairs_of_scenario(group, sampling, known, number)
        for number, group in enumerate(_by_scenario(conversations))
        if sampling.scenarios is None or group[0].scenario.seed in sampling.scenarios
    ]
    while waiting:
        number = int(generator.integers(len(waiting)))
        pair = next(waiting[number], None)
        if pair is None:
            del waiting[number]
        else:
            yield pair


def _by_scenario(conversations: Sequence[Conversation]) -> list[list[Conversation]]:
    found: dict[tuple[str, int, str], list[Conversation]] = {}
    for conversation in conversations:
        scenario = conversation.scenario
        found.setdefault((scenario.env, scenario.seed, scenario.split), []).append(conversation)
    return [group for group in found.values() if len(group) > 1]


def _pairs_of_scenario(
    group: Sequence[Conversation], sampling: Sampling, exclude: frozenset[PairKey], number: int
) -> Iterator[PairToLabel]:
    generator = np.random.default_rng(np.random.SeedSequence(sampling.seed, spawn_key=(DRAW_PAIR, number)))
    roles = (sampling.focus,) if sampling.focus else group[0].scenario.roles
    for first, second, role in _places(len(group), len(roles), generator):
        one, other = group[first], group[second]
        if generator.random() < 0.5:
            one, other = other, one
        pair = _pair(one, other, roles[role], sampling)
        if pair is not None and key_of_pair(pair) not in exclude:
            yield pair


def _places(num: int, num_roles: int, generator: np.random.Generator) -> Iterator[tuple[int, int, int]]:
    """Yield two of `num` and a role in uniformly random order, none twice; of very many not all."""
    if num <= MOST_LISTED:
        listed = [(*two, role) for two in itertools.combinations(range(num), 2) for role in range(num_roles)]
        yield from (listed[place] for place in generator.permutation(len(listed)).tolist())
        return
    seen = set[tuple[int, int, int]]()
    for _ in range(NUM_DRAWS):
        first, second = sorted(generator.choice(num, size=2, replace=False).tolist())
        place = (first, second, int(generator.integers(num_roles)))
        if place not in seen:
            seen.add(place)
            yield place


def _pair(left: Conversation, right: Conversation, focus: str, sampling: Sampling) -> PairToLabel | None:
    """Return a pair; None: the role is not to be judged there, or both read the same to it."""
    if focus not in _roles_to_judge(left, right, wanted=sampling.focus):
        return None
    pair = PairToLabel(left=left, right=right, focus=focus)
    if sampling.unit == "turn":
        turns = _first_difference(left, right, focus)
        return None if turns is None else replace(pair, turns=turns)
    one, other = dialogs_of(pair)
    return None if one == other else pair


def _roles_to_judge(left: Conversation, right: Conversation, *, wanted: str) -> list[str]:
    """Return the roles that speak in both: the one that is wanted, or the trained ones if there are any."""
    both = [role for role in left.scenario.roles if _speaks_in_both(role, left, right)]
    if wanted:
        return [role for role in both if role == wanted]
    return [role for role in both if all(_is_trained(one, role) for one in (left, right))] or both


def _speaks_in_both(role: str, left: Conversation, right: Conversation) -> bool:
    return all(any(turn.role == role for turn in one.turns) for one in (left, right))


def _is_trained(conversation: Conversation, role: str) -> bool:
    player = conversation.players.get(role)
    return player is not None and player.trained


def _first_difference(left: Conversation, right: Conversation, focus: str) -> tuple[int, int] | None:
    """Return the role's first turns that differ after one and the same past; None: the pasts differ first."""
    places = [[number for number, turn in enumerate(one.turns) if turn.role == focus] for one in (left, right)]
    for one, other in zip(*places, strict=False):
        mine, its = left.turns[one], right.turns[other]
        if mine.heard_text != its.heard_text:
            return None
        if mine.text != its.text:
            return one, other
    return None
