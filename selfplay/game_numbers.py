"""What the outcomes of games say of those who played: payoff, success, the form, whose fault, turns.

Only outcomes with payoffs say anything: an environment without a ground truth has none, and neither has a
conversation that failed or that a limit of the engine cut.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping

from selfplay.dialog import Conversation, Outcome

__all__ = ["GAME", "Sums", "add_up", "breakers", "game_sums", "is_scored", "trained_roles"]

GAME = "game/"  # what the paths of these numbers begin with
SUCCESS = "success"  # the fact in which a game says whether the aim was reached

# Name -> what is summed, and what the sum is divided by to give a mean.
Sums = Mapping[str, tuple[float, float]]


def game_sums(conversation: Conversation, roles: Collection[str]) -> Sums:
    """Return the numbers of one conversation for those who filled some of its roles; empty where nothing was paid.

    - `game/payoff`: the mean over these roles, in env units; `game/payoff/ROLE`: of one, where the game has several;
      `game/opponent_payoff`: the mean over the other roles, if there are any.
    - `game/success`: whether the aim was reached; `game/turns`: turns of all roles.
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

    Surest are refused moves, and whom the game names for ending by a breach.  Without these it is whom the game blames
    for reaching the turn limit, and else whose turns have no move, in a conversation where others have: in some games
    a turn without a move is a breach, in others mere talk, so that it blames nobody beside surer signs.
    """
    outcome = conversation.outcome
    if outcome is None or outcome.protocol_ok:
        return set()
    refused = {turn.role for turn in conversation.turns if turn.action is not None and not turn.action.legal}
    named = set() if outcome.by is None else {outcome.by}
    if outcome.reason == "rule_violation":
        refused |= named
    return refused or (named if outcome.reason == "turn_limit" else set()) or _moveless(conversation)


def trained_roles(conversation: Conversation) -> list[str]:
    """Return the roles that trained players filled."""
    return [role for role, player in conversation.players.items() if player.trained]


def _moveless(conversation: Conversation) -> set[str]:
    has_moves = any(turn.action is not None for turn in conversation.turns)
    return {turn.role for turn in conversation.turns if turn.action is None} if has_moves else set()


def _payoffs(outcome: Outcome, roles: Collection[str], others: Collection[str]) -> dict[str, tuple[float, float]]:
    sums = {"game/payoff": _mean_over(outcome, roles)}
    if len(roles) + len(others) > 1:
        sums |= {f"game/payoff/{role}": (outcome.payoff[role], 1.0) for role in roles if role in outcome.payoff}
    if others:
        sums["game/opponent_payoff"] = _mean_over(outcome, others)
    return sums


def _mean_over(outcome: Outcome, roles: Collection[str]) -> tuple[float, float]:
    paid = [outcome.payoff[role] for role in roles if role in outcome.payoff]
    return (math.fsum(paid) / len(paid), 1.0) if paid else (0.0, 0.0)
