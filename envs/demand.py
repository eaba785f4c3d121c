"""The Nash demand game in letters: two ask for shares of a pie at once, and get them if the pie is large enough."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from envs.alternation import whose_turn
from envs.drawing import HELD_OUT_EVERY, SCENARIO, Draw, check_split, move_draw
from envs.signal import LETTERS, NUM_ROUNDS, letter_in
from selfplay.dialog import SPLITS, Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.interfaces import GameSheet

FIRST, SECOND = "first", "second"
PIE = 10
FAIR = PIE // 2
# Letters in their order: eleven for 0 to 10, and for the five that are left the middle again, so that every letter is a
# demand.
DEMANDS = (*range(PIE + 1), *range(3, 8))
DEMAND_OF = dict(zip(LETTERS, DEMANDS, strict=True))
FIRST_SAID = "(has asked)"  # what is heard in the place of the first demand


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Two who cannot hear each other ask for shares of one pie: any split is an equilibrium, greed for greed is none.

    Roles: `first` and `second` ask for 0 to 10 of a pie of 10 by a letter: B C D F G H J K L M N stand for 0 to 10, and
    P Q R S T for 3 to 7 again, so that each letter is a demand.  Both see the same sign, one of the 16 letters, which
    means nothing: a convention may depend on it, and on who is first.
    Secrecy: both ask as if at once; the second hears "(has asked)".
    Ends: after the second demand ("agreement" if both together are at most 10, else "no_deal", by the one who asked
    for more than half, if only one did), or with a message that holds no letter, or several ("rule_violation").
    Payoff: what was asked for, divided by 10, if both together are at most 10; else 0 for both.
    Chance: 0.197: both say any letter; the exact mean over the 256 pairs.
    Best: 0.5, the mean of all splits that leave nothing.  The script asks for 5.
    Source: Nash, Two-person cooperative games (1953).  The held-out split has other rounds under the same signs: a
    convention is learnt, not generalised.
    """

    name: ClassVar[str] = "demand"
    roles: ClassVar[tuple[str, str]] = (FIRST, SECOND)
    zero_sum: ClassVar[bool] = False

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw the sign, and a number of the round, which nobody is told."""
        check_split(split)
        draw = Draw(seed, (SCENARIO, SPLITS.index(split)))
        number = draw.below(NUM_ROUNDS) * HELD_OUT_EVERY + (0 if split == "held_out" else 1 + draw.below(4))
        public = {"round": number, "sign": draw.choose(LETTERS)}
        return Scenario(env=self.name, seed=seed, split=split, roles=self.roles, public=public)

    def next_role(self, conversation: Conversation) -> str | None:
        """Return the first, then the second if the first has asked for something."""
        if conversation.num_turns == 2 or (conversation.turns and _demand(conversation, 0) is None):
            return None
        return whose_turn(conversation)

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return the sign, and how to ask."""
        # The only capital consonant is the sign: a model that knows nothing but the 16 letters reads that alone.
        return (
            f"You and a partner, who cannot hear you, each ask for a share of {PIE}. If both fit in, each gets what it "
            f"asked for, else nobody gets anything. You are the {role}; both see the sign {scenario.public['sign']}. "
            "Answer with one letter: b c d f g h j k l m n ask for 0 to 10, p q r s t for 3 to 7."
        )

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return that the first has asked, and not for what."""
        return FIRST_SAID if conversation.turns and conversation.turns[-1].role != role else ""

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return the demand; None: no letter, or several."""
        demand = _demand(conversation, turn)
        return None if demand is None else Action(kind="ask", value=demand)

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return who gets what; an unfinished game is worth nothing yet."""
        asked = {turn.role: _demand(conversation, index) for index, turn in enumerate(conversation.turns)}
        at_fault = [role for role, demand in asked.items() if demand is None]
        demands = {role: demand for role, demand in asked.items() if demand is not None}
        is_whole = len(demands) == len(self.roles)
        total = sum(demands.values())
        is_agreed = is_whole and total <= PIE
        greedy = [role for role, demand in demands.items() if demand > FAIR] if is_whole and not is_agreed else []
        by = at_fault[0] if at_fault else greedy[0] if len(greedy) == 1 else None
        reason: Reason = "rule_violation" if at_fault else "agreement" if is_agreed else "no_deal"
        return Outcome(
            status="terminated",
            reason=reason,
            by=by,
            protocol_ok=not at_fault,
            facts={
                "success": is_agreed,
                "agreement": is_agreed,
                "demands": demands,
                "efficiency": total / PIE if is_agreed else 0.0,
                "fairness": 1.0 - abs(demands[FIRST] - demands[SECOND]) / PIE if is_agreed else None,
                "at_fault": at_fault,
            },
            payoff={role: demands[role] / PIE if is_agreed else 0.0 for role in self.roles},
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return a letter for half of the pie."""
        return move_draw(conversation).choose([letter for letter, demand in DEMAND_OF.items() if demand == FAIR])

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return any letter."""
        return move_draw(conversation).choose(LETTERS)

    def sheet(self) -> GameSheet:
        """Return the promises; chance by counting all pairs of letters."""
        totals = [sum(pair) for pair in itertools.product(DEMANDS, repeat=2)]
        chance = sum(total for total in totals if total <= PIE) / len(totals) / PIE / len(self.roles)
        ends: tuple[Reason, ...] = ("agreement", "no_deal", "rule_violation")
        return GameSheet(payoffs=(0.0, 1.0), ends=ends, chance=chance, best=1.0 / len(self.roles))

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return a fair split, two who ask for all and a message with two demands."""
        fair, all_of_it = LETTERS[DEMANDS.index(FAIR)], LETTERS[DEMANDS.index(PIE)]
        return {
            "agreement": (fair, fair),
            "no_deal": (all_of_it, all_of_it),
            "rule_violation": (f"{fair} or {all_of_it}",),
        }


def _demand(conversation: Conversation, turn: int) -> int | None:
    letter = letter_in(conversation.turns[turn].text)
    return DEMAND_OF[letter] if letter else None
