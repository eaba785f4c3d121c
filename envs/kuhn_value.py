"""What strategies of Kuhn poker are worth, exactly: its equilibria, and how far a strategy can be exploited.

A strategy says for each of the 12 information sets how likely it is to bet.  A set is the player's own card and what
was done before, a letter each: "Q" is the first player with the queen, "Qb" the second with the queen after a bet,
"Qpb" the first again after a pass and a bet.  To bet after a bet is to call, to pass after one is to fold.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from selfplay.errors import UserError

CARDS = ("J", "Q", "K")  # the least first
PASS, BET = "p", "b"
DEALS = tuple(itertools.permutations(CARDS, 2))  # the first player's card, the second's
BEFORE = (("", "pb"), ("p", "b"))  # what was done before a decision of the first player, and of the second
SETS = tuple(card + done for player in BEFORE for done in player for card in CARDS)
STAKES = {"pp": 1, "pbp": 1, "pbb": 2, "bp": 1, "bb": 2}  # how a round ends -> what the loser has put in, antes
UNIT = 0.5  # env units: what an ante is, so that payoffs lie in -1 to 1


def equilibrium(alpha: float = 1 / 3) -> dict[str, float]:
    """Return the equilibrium in which the first player bets with the jack with probability alpha, 0 to 1/3.

    There is no other for the first player, and but one strategy for the second.
    Source: Kuhn, A simplified two-person poker (1950).
    """
    if not 0.0 <= alpha <= 1 / 3:
        raise UserError(f"alpha={alpha} must be from 0 to 1/3")
    first = {"J": alpha, "Q": 0.0, "K": 3 * alpha, "Jpb": 0.0, "Qpb": alpha + 1 / 3, "Kpb": 1.0}
    second = {"Jp": 1 / 3, "Qp": 0.0, "Kp": 1.0, "Jb": 0.0, "Qb": 1 / 3, "Kb": 1.0}
    return first | second


def won_by_first(deal: tuple[str, str], done: str) -> float | None:
    """Return what the first player has won, env units; None: the round is not over."""
    if done not in STAKES:
        return None
    is_higher = CARDS.index(deal[0]) > CARDS.index(deal[1])
    # Whoever passed after a bet has folded: the second, as the second move, or the first, as the third.
    has_won = len(done) == 2 if done.endswith("bp") else is_higher
    return UNIT * (STAKES[done] if has_won else -STAKES[done])


def value(strategy: Mapping[str, float]) -> float:
    """Return what the first player wins on average, env units, if both play the strategy.

    In an equilibrium it is -1/36: -1/18 of an ante.
    """
    return sum(_expected(deal, _checked(strategy)) for deal in DEALS) / len(DEALS)


def exploitability(strategy: Mapping[str, float]) -> float:
    """Return what the best answer to a strategy wins above the game's value, mean over both roles, env units.

    0 for an equilibrium and above 0 for all else: 11/48 for chance, 1/2 for who always passes, at most 17/24.  What is
    called NashConv is twice this; in antes everything is twice as much again.  The best answer to a strategy that was
    estimated makes use of the errors too: with few conversations the number is too high.
    """
    strategy = _checked(strategy)
    # What the first player can hope for more than the value, the second loses: the value cancels.
    return sum(_best_answer(strategy, player) for player in range(2)) / 2


def _checked(strategy: Mapping[str, float]) -> Mapping[str, float]:
    wrong = [name for name in SETS if not 0.0 <= strategy.get(name, -1.0) <= 1.0]
    if wrong or len(strategy) != len(SETS):
        problem = f"{wrong[0]} is {strategy.get(wrong[0], 'missing')}" if wrong else "it has others"
        raise UserError(
            f"a strategy has a probability to bet for each of {', '.join(SETS)} and nothing else; {problem}"
        )
    return strategy


def _expected(deal: tuple[str, str], strategy: Mapping[str, float], done: str = "") -> float:
    won = won_by_first(deal, done)
    if won is not None:
        return won
    bets = strategy[deal[len(done) % 2] + done]
    passed, bet = (
        _expected(deal, strategy, done + move) if share else 0.0 for move, share in ((PASS, 1 - bets), (BET, bets))
    )
    return (1 - bets) * passed + bets * bet


def _best_answer(strategy: Mapping[str, float], player: int) -> float:
    """Return what the player, 0 or 1, wins on average by its best answer to the other's part of the strategy."""
    total = 0.0
    for card in CARDS:
        # A player has two decisions a card, and one card's do not touch another's: four plans are all there are.
        plans = itertools.product((0.0, 1.0), repeat=2)
        answers = [
            {**strategy, **{card + done: bets for done, bets in zip(BEFORE[player], plan, strict=True)}}
            for plan in plans
        ]
        deals = [deal for deal in DEALS if deal[player] == card]
        won = [sum(_expected(deal, answer) for deal in deals) for answer in answers]
        total += max(-one if player else one for one in won)
    return total / len(DEALS)
