"""What the outcomes of games say of those who played: payoff, success, the form, whose fault, turns.

Only outcomes with payoffs say anything: an environment without a ground truth has none, and neither has a
conversation that failed or that a limit of the engine cut.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from selfplay.dialog import Conversation, Outcome

__all__ = [
    "GAME",
    "Contest",
    "Sums",
    "add_up",
    "breakers",
    "contest_of",
    "game_sums",
    "is_scored",
    "trained_roles",
    "unfitting",
    "unfitting_means",
]

GAME = "game/"  # what the paths of these numbers begin with
SUCCESS = "success"  # the fact in which a game says whether the aim was reached
AT_FAULT = "at_fault"  # the fact in which a game may name the roles that broke the form
PAYOFF_TOLERANCE = 1e-9  # env units: payoffs as near as this are equal
LARGEST = 1e300  # a stored number beyond is none

# Name -> what is summed, and what the sum is divided by to give a mean.
Sums = Mapping[str, tuple[float, float]]
Contest = Literal["none", "general", "zero_sum"]


def game_sums(conversation: Conversation, roles: Collection[str]) -> Sums:
    """Return the numbers of one conversation for those who filled some of its roles; empty where nothing was paid.

    - `game/payoff`: the mean over these roles, in env units; `game/payoff/ROLE`: of one, where the game has several;
      `game/opponent_payoff`: the mean over the other roles, if there are any.
    - `game/win`, where others are paid too: the share of these roles that were paid more than every other one's role,
      a tie with the best of them counting one half.
    - `game/success`: whether the aim was reached, whosever aim the game means; `game/turns`: turns of all roles.
    - `game/protocol_ok`: whether everybody kept the form; `game/fault`: whether one of these roles broke it;
      `game/opponent_fault`: whether another did.
    """
    outcome = conversation.outcome
    if outcome is None or not is_scored(conversation) or not roles:
        return {}
    others = [role for role in conversation.scenario.roles if role not in roles]
    at_fault = breakers(conversation)
    sums = dict(_payoffs(outcome, roles, others))
    if SUCCESS in outcome.facts:
        sums["game/success"] = (float(bool(outcome.facts[SUCCESS])), 1.0)
    sums["game/protocol_ok"] = (float(outcome.protocol_ok), 1.0)
    sums["game/fault"] = (float(any(role in roles for role in at_fault)), 1.0)
    if others:
        sums["game/opponent_fault"] = (float(any(role in others for role in at_fault)), 1.0)
    sums["game/turns"] = (float(conversation.num_turns), 1.0)
    return sums


def contest_of(conversations: Iterable[Conversation]) -> Contest:
    """Return how far roles play against each other, as all that was played of a game shows it.

    "none": in every conversation all roles were paid the same; "zero_sum": payoffs always sum to 0; else "general".
    """
    outcomes = [one.outcome for one in conversations if one.outcome is not None and is_scored(one)]
    payoffs = [list(outcome.payoff.values()) for outcome in outcomes]
    if all(max(values) - min(values) <= PAYOFF_TOLERANCE for values in payoffs):
        return "none"
    return "zero_sum" if all(abs(math.fsum(values)) <= PAYOFF_TOLERANCE for values in payoffs) else "general"


def unfitting(conversations: Iterable[Conversation], *, contest: Contest) -> set[str]:
    """Return which numbers of these conversations tell nothing of the trained players in such a contest.

    Who meets others in a zero-sum game has not won where the aim was reached: it is the aim of one side.  Where all are
    always paid the same, nobody wins.
    """
    has_others = any(len(trained_roles(one)) < len(one.scenario.roles) for one in conversations)
    return _unfit(contest, has_others=has_others)


def unfitting_means(lines: Iterable[Mapping[str, object]]) -> set[str]:
    """Return what `unfitting` would, for readers of stored means alone, as far as these show which contest it is.

    lines: the metrics of each update of a run, or the numbers of each version in an evaluation, by their paths; what is
    no finite number was not measured.  The contest is zero-sum where in every line both sides' payoffs cancel out, and
    none where the means of both are the same and each wins as often as the other.  Of a game of more than two roles
    that is not seen, and where nobody else was paid nothing is unfitting.
    """
    paid = [one for line in lines if math.isfinite((one := _paid(line)).own)]
    has_others = any(one.share > 0.0 for one in paid)
    return _unfit(_contest_of_means(paid), has_others=True) if has_others else set()


def add_up(sums: Iterable[Sums]) -> dict[str, tuple[float, float]]:
    """Return the sums of several conversations together."""
    found: dict[str, list[tuple[float, float]]] = {}
    for one in sums:
        for name, pair in one.items():
            found.setdefault(name, []).append(pair)
    return {name: (math.fsum(top for top, _ in pairs), math.fsum(n for _, n in pairs)) for name, pairs in found.items()}


def is_scored(conversation: Conversation) -> bool:
    """Whether a game paid for the conversation."""
    outcome = conversation.outcome
    return outcome is not None and outcome.status != "failed" and bool(outcome.payoff)


def breakers(conversation: Conversation) -> set[str]:
    """Return the roles that broke the form, as far as that can be told; only where the game finds it broken at all.

    A game may name them itself, in ``facts["at_fault"]``.  Without that, surest are refused moves, and whom the game
    names for ending by a breach.  Without these it is whom the game blames for reaching the turn limit, and else whose
    turns have no move, in a conversation where others have: in some games a turn without a move is a breach, in others
    mere talk, so that it blames nobody beside surer signs.
    """
    outcome = conversation.outcome
    if outcome is None or outcome.protocol_ok:
        return set()
    told = _told_at_fault(conversation, outcome)
    if told is not None:
        return told
    refused = {turn.role for turn in conversation.turns if turn.action is not None and not turn.action.legal}
    named = set() if outcome.by is None else {outcome.by}
    if outcome.reason == "rule_violation":
        refused |= named
    return refused or (named if outcome.reason == "turn_limit" else set()) or _moveless(conversation)


def trained_roles(conversation: Conversation) -> list[str]:
    """Return the roles that trained players filled."""
    return [role for role, player in conversation.players.items() if player.trained]


def _unfit(contest: Contest, *, has_others: bool) -> set[str]:
    if contest == "none":
        return {"game/win"}
    return {"game/success"} if contest == "zero_sum" and has_others else set()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Paid:
    """What one line says of payoffs, in env units; NaN: nothing."""

    own: float  # mean over all conversations
    others: float  # mean over those with others; 0: there were none
    share: float  # of the conversations in which others were paid
    win: float


def _paid(line: Mapping[str, object]) -> _Paid:
    own, others, win = (_number(line.get(name)) for name in ("game/payoff", "game/opponent_payoff", "game/win"))
    if not math.isfinite(others):
        return _Paid(own=own, others=0.0, share=0.0, win=win)
    # Only in a league does the policy meet itself in some conversations and others in the rest.
    games, count = _number(line.get("league/games")), _number(line.get("game/count"))
    share = games / count if games > 0 and count > 0 else 1.0
    return _Paid(own=own, others=others, share=share, win=win)


def _contest_of_means(paid: Sequence[_Paid]) -> Contest:
    met = [one for one in paid if one.share > 0.0]
    is_even = all(_is_equal(one.win, 0.5) for one in met)
    is_nothing = all(_is_equal(payoff, 0.0) for one in paid for payoff in (one.own, one.others))
    if all(_is_equal(one.own, -one.share * one.others) for one in paid) and not (is_even and is_nothing):
        return "zero_sum"
    is_same = all(_is_equal(one.own, one.others) for one in met if one.share == 1.0)
    return "none" if is_even and is_same else "general"


def _is_equal(first: float, second: float) -> bool:
    return math.isclose(first, second, rel_tol=PAYOFF_TOLERANCE, abs_tol=PAYOFF_TOLERANCE)


def _number(value: object) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if is_number else math.nan  # type: ignore[arg-type]  # is_number says so


def _told_at_fault(conversation: Conversation, outcome: Outcome) -> set[str] | None:
    told = outcome.facts.get(AT_FAULT)
    if not isinstance(told, list | tuple) or not all(role in conversation.scenario.roles for role in told):
        return None
    return set(told)


def _moveless(conversation: Conversation) -> set[str]:
    has_moves = any(turn.action is not None for turn in conversation.turns)
    return {turn.role for turn in conversation.turns if turn.action is None} if has_moves else set()


def _payoffs(outcome: Outcome, roles: Collection[str], others: Collection[str]) -> dict[str, tuple[float, float]]:
    sums = {"game/payoff": _mean_over(outcome, roles)}
    if len(roles) + len(others) > 1:
        sums |= {f"game/payoff/{role}": (outcome.payoff[role], 1.0) for role in roles if role in outcome.payoff}
    if others:
        sums["game/opponent_payoff"] = _mean_over(outcome, others)
    theirs = [outcome.payoff[role] for role in others if role in outcome.payoff]
    wins = [_win(outcome.payoff[role], max(theirs)) for role in roles if theirs and role in outcome.payoff]
    if wins:
        sums["game/win"] = (math.fsum(wins) / len(wins), 1.0)
    return sums


def _win(own: float, best_of_others: float) -> float:
    if abs(own - best_of_others) <= PAYOFF_TOLERANCE:
        return 0.5
    return float(own > best_of_others)


def _mean_over(outcome: Outcome, roles: Collection[str]) -> tuple[float, float]:
    paid = [outcome.payoff[role] for role in roles if role in outcome.payoff]
    return (math.fsum(paid) / len(paid), 1.0) if paid else (0.0, 0.0)
