"""Lewis signalling: one role sees a symbol, sends a letter, and the other says which symbol it was."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from envs.alternation import last_heard, whose_turn
from envs.drawing import HELD_OUT_EVERY, SCENARIO, Draw, check_split, move_draw
from envs.reading import plain
from selfplay.dialog import SPLITS, Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.errors import UserError
from selfplay.interfaces import GameSheet

# Capital consonants: none of them is an English word, as "a" and "I" are.
LETTERS = "BCDFGHJKLMNPQRST"
LETTER = re.compile(rf"(?<![\w'])[{LETTERS}](?![\w'])", re.IGNORECASE)
SENDER, RECEIVER = "sender", "receiver"
NUM_ROUNDS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A convention has to be found: which letter stands for which symbol.

    Roles: `sender` sees one of K symbols and says one of 16 letters; `receiver` hears the letter and says a symbol.
    Ends: after the receiver's turn ("goal_reached", "gave_up"), or with a message that holds no letter, or several
    ("rule_violation").  The symbols are the first K of the letters, and the others stand for them again in order, so
    that each letter is an answer and all symbols have as many.
    Payoff: 1 to both where the receiver's symbol is the sender's, else 0.
    Chance: exactly 1/K.
    Best: 1.
    Source: Lewis, Convention (1969).  The held-out split has other rounds of the same K symbols, for there is nothing
    else to draw: a convention is learnt, not generalised.
    """

    name: ClassVar[str] = "signal"
    roles: ClassVar[tuple[str, str]] = (SENDER, RECEIVER)
    zero_sum: ClassVar[bool] = False

    symbols: int = 4  # K: 2, 4, 8 or 16

    def __post_init__(self) -> None:
        """Refuse a number of symbols that the letters cannot stand for equally often."""
        if self.symbols not in (2, 4, 8, 16):
            raise UserError(f"symbols={self.symbols} must be 2, 4, 8 or 16")

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw the symbol, and a number of the round, which nobody is told."""
        check_split(split)
        draw = Draw(seed, (SCENARIO, SPLITS.index(split)))
        number = draw.below(NUM_ROUNDS) * HELD_OUT_EVERY + (0 if split == "held_out" else 1 + draw.below(4))
        symbols = list(LETTERS[: self.symbols])
        return Scenario(
            env=self.name,
            seed=seed,
            split=split,
            roles=self.roles,
            public={"round": number, "symbols": symbols},
            private={SENDER: {"symbol": draw.choose(symbols)}},
        )

    def next_role(self, conversation: Conversation) -> str | None:
        """Return the sender, then the receiver if there is a letter to read."""
        if conversation.num_turns == 2 or (conversation.turns and letter_in(conversation.turns[0].text) is None):
            return None
        return whose_turn(conversation)

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return what the role sees."""
        # The only capital consonants are symbols: a model that knows nothing but the 16 letters reads those alone.
        if role == SENDER:
            return f"You see {scenario.private[SENDER]['symbol']}. Answer with one letter."
        return f"Your partner sees one of {', '.join(scenario.public['symbols'])}. Answer with one letter: which?"

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return the sender's message to the receiver."""
        return last_heard(conversation, role)

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return the letter sent, or the symbol it stands for as an answer; None: no letter, or several."""
        letter = letter_in(conversation.turns[turn].text)
        if letter is None:
            return None
        if turn == 0:
            return Action(kind="send", value=letter)
        return Action(kind="answer", value=self._symbol_of(letter))

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return whether the symbol got across."""
        actions = [self.parse(conversation, turn) for turn in range(conversation.num_turns)]
        by = next((conversation.turns[turn].role for turn, action in enumerate(actions) if action is None), None)
        symbol = conversation.scenario.private[SENDER]["symbol"]
        is_right = len(actions) == 2 and actions[1] is not None and actions[1].value == symbol
        reason: Reason = "rule_violation" if by else "goal_reached" if is_right else "gave_up"
        return Outcome(
            status="terminated",
            reason=reason,
            by=by,
            protocol_ok=by is None,
            facts={"success": is_right, "at_fault": [by] if by else []},
            payoff=dict.fromkeys(self.roles, float(is_right)),
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return the symbol itself, and the letter as it was heard."""
        if role == SENDER:
            return str(conversation.scenario.private[SENDER]["symbol"])
        return letter_in(last_heard(conversation, role)) or LETTERS[0]

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return any letter."""
        return move_draw(conversation).choose(LETTERS)

    def sheet(self) -> GameSheet:
        """Return the promises for K symbols."""
        ends: tuple[Reason, ...] = ("goal_reached", "gave_up", "rule_violation")
        return GameSheet(payoffs=(0.0, 1.0), ends=ends, chance=1.0 / self.symbols, best=1.0)

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return a round that is won, one that is lost and one without a letter."""
        symbol = scenario.private[SENDER]["symbol"]
        other = next(letter for letter in scenario.public["symbols"] if letter != symbol)
        return {
            "goal_reached": (symbol, symbol),
            "gave_up": (symbol, other),
            "rule_violation": (f"{symbol} or {other}",),
        }

    def _symbol_of(self, letter: str) -> str:
        return LETTERS[LETTERS.index(letter) % self.symbols]


def letter_in(text: str) -> str | None:
    """Return the one letter that stands alone in a text, in any case; None: there is none, or several different."""
    found = {match.upper() for match in LETTER.findall(plain(text))}
    return found.pop() if len(found) == 1 else None
