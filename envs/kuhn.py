"""Kuhn poker in letters: three cards, one bet, and every letter is a legal move."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from envs.alternation import whose_turn
from envs.drawing import HELD_OUT_EVERY, SCENARIO, Draw, check_split, move_draw
from envs.kuhn_value import BET, CARDS, DEALS, PASS, SETS, equilibrium, won_by_first
from envs.signal import LETTERS, NUM_ROUNDS, letter_in
from selfplay.dialog import SPLITS, Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.interfaces import GameSheet

FIRST, SECOND = "first", "second"
HALF = len(LETTERS) // 2
PASSES, BETS = LETTERS[:HALF], LETTERS[HALF:]
KINDS = {PASS: "pass", BET: "bet"}
# What is heard of a move: its outermost letter, which is no card.
HEARD = {PASS: f"pass ({PASSES[0]})", BET: f"bet ({BETS[-1]})"}
SCRIPT = equilibrium()
LOST = -1.0  # env units: what a message without a move costs, as much as a lost bet


@dataclass(frozen=True, slots=True, kw_only=True)
class Kuhn:
    """The smallest poker: whoever never bluffs, or never calls, is exploited.

    Roles: `first` and `second` each hold one of the cards J, Q, K, and have put in 1.  `first` passes or bets 1 more,
    `second` passes or bets, and after a pass and a bet `first` has a last word.  To bet after a bet is to call, to pass
    after one is to fold.  A move is a letter: B to K pass, L to T bet, eight letters each, so that each is legal.
    Secrecy: the partner hears which move it was, as always the same letter of it (B or T), and no other word: which
    of the eight was said tells nothing about the card, and the 12 information sets of `envs.kuhn_value` are all.
    Ends: cards are compared ("goal_reached"), somebody folds ("gave_up" by that role), or a message holds no letter, or
    several ("rule_violation").
    Payoff: what was won, half an ante a unit, so that it lies in -1 to 1: 0.5 without a bet that was called, 1 with
    one.  A message without a move loses 1.  The other gets the opposite; an unfinished round is 0.
    Success: the better card won.
    Chance: 0, as is everything that both get: the game is zero-sum.  The script is the equilibrium that bluffs most.
    Best: 0.  In equilibrium `first` loses 1/36: 1/18 of an ante.
    Source: Kuhn, A simplified two-person poker (1950).  The held-out split has other rounds of the same six deals, for
    there is nothing else to draw.
    """

    name: ClassVar[str] = "kuhn"
    roles: ClassVar[tuple[str, str]] = (FIRST, SECOND)
    zero_sum: ClassVar[bool] = True

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Deal the cards, and draw a number of the round, which nobody is told."""
        check_split(split)
        draw = Draw(seed, (SCENARIO, SPLITS.index(split)))
        number = draw.below(NUM_ROUNDS) * HELD_OUT_EVERY + (0 if split == "held_out" else 1 + draw.below(4))
        deal = draw.choose(DEALS)
        return Scenario(
            env=self.name,
            seed=seed,
            split=split,
            roles=self.roles,
            public={"round": number, "cards": list(CARDS)},
            private={role: {"card": card} for role, card in zip(self.roles, deal, strict=True)},
        )

    def next_role(self, conversation: Conversation) -> str | None:
        """Return whose turn it is; the roles alternate."""
        return whose_turn(conversation) if self._end(conversation) is None else None

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return the role's card and the form of a move."""
        # The only capital consonant is the card: a model that knows nothing but the 16 letters reads that alone.
        return (
            f"You hold {scenario.private[role]['card']}. All cards: a jack, a queen, a king, one each. "
            "Each of you has put in 1; the highest card wins. Answer with one letter: "
            f"{PASSES[0].lower()} to {PASSES[-1].lower()} pass, that is check or fold; "
            f"{BETS[0].lower()} to {BETS[-1].lower()} bet 1 more, or call."
        )

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return the partner's move, as always the same letter of it."""
        if not conversation.turns or conversation.turns[-1].role == role:
            return ""
        done = _done(conversation)
        return HEARD[done[-1]] if len(done) == conversation.num_turns else ""

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return "pass" or "bet" with the letter said; None: no letter, or several."""
        letter = letter_in(conversation.turns[turn].text)
        return Action(kind=KINDS[_move(letter)], value=letter) if letter else None

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return who won what."""
        reason, by = self._end(conversation) or ("turn_limit", None)
        is_broken = reason == "rule_violation"
        done, deal = _done(conversation), _deal(conversation.scenario)
        won = won_by_first(deal, done) or 0.0
        if is_broken:
            won = LOST if by == FIRST else -LOST
        winner = (FIRST if won > 0 else SECOND) if won else None
        better = FIRST if CARDS.index(deal[0]) > CARDS.index(deal[1]) else SECOND
        return Outcome(
            status="terminated",
            reason=reason,
            by=by,
            protocol_ok=not is_broken,
            facts={
                "success": winner == better and not is_broken,
                "winner": winner,
                "moves": done,
                "at_fault": [by] if is_broken else [],
            },
            payoff={FIRST: won, SECOND: -won},
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return a letter of the move that the equilibrium draws."""
        draw = move_draw(conversation)
        bets = SCRIPT[str(conversation.scenario.private[role]["card"]) + _done(conversation)]
        return draw.choose(BETS if draw.below(3) < round(3 * bets) else PASSES)  # all its probabilities are thirds

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return any letter."""
        return move_draw(conversation).choose(LETTERS)

    def sheet(self) -> GameSheet:
        """Return the promises, which are those of any zero-sum game."""
        return GameSheet(
            payoffs=(LOST, -LOST), ends=("goal_reached", "gave_up", "rule_violation"), chance=0.0, best=0.0
        )

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return a round that compares cards, one with a fold and one with two moves at once."""
        passing, betting = PASSES[0], BETS[0]
        return {
            "goal_reached": (passing, betting, betting),
            "gave_up": (betting, passing),
            "rule_violation": (f"{passing} or {betting}",),
        }

    def _end(self, conversation: Conversation) -> tuple[Reason, str | None] | None:
        """Return why the round is over and who brought it about; None: it is not over."""
        done = _done(conversation)
        if len(done) < conversation.num_turns:
            return "rule_violation", conversation.turns[len(done)].role
        if won_by_first(_deal(conversation.scenario), done) is None:
            return None
        return ("gave_up", conversation.turns[-1].role) if done.endswith("bp") else ("goal_reached", None)


def strategy_of(
    conversations: Iterable[Conversation], *, policy: str | None = None
) -> tuple[dict[str, float], dict[str, int]]:
    """Return how often each information set bet, for `envs.kuhn_value.exploitability`, and its number of decisions.

    policy: counts the turns of one player alone, such as "learner" in a league; None: all.  A set without a decision
    has 0.5: how a policy plays where it never came is not known, and with a count of 0 it should be said.
    """
    found = [one for conversation in conversations for one in _decisions(conversation, policy)]
    counts, bets = Counter(name for name, _ in found), Counter(name for name, move in found if move == BET)
    strategy = {name: bets[name] / counts[name] if counts[name] else 0.5 for name in SETS}
    return strategy, {name: counts[name] for name in SETS}


def _decisions(conversation: Conversation, policy: str | None) -> list[tuple[str, str]]:
    """Return the information set and the move of each turn that has one."""
    done, deal = _done(conversation), _deal(conversation.scenario)
    is_counted = {
        role: policy is None or (role in conversation.players and conversation.players[role].policy == policy)
        for role in conversation.scenario.roles
    }
    return [
        (deal[turn % 2] + done[:turn], move)
        for turn, move in enumerate(done)
        if is_counted[conversation.turns[turn].role]
    ]


def _deal(scenario: Scenario) -> tuple[str, str]:
    first, second = (str(scenario.private[role]["card"]) for role in (FIRST, SECOND))
    return first, second


def _done(conversation: Conversation) -> str:
    """Return the moves up to the first message without one."""
    letters = (letter_in(turn.text) for turn in conversation.turns)
    return "".join(_move(letter) for letter in itertools.takewhile(bool, letters) if letter)


def _move(letter: str) -> str:
    return BET if letter in BETS else PASS
