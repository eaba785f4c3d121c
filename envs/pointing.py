"""Pointing: two players find the one entry that counts, by describing it or by comparing what they know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from envs.alternation import last_heard, whose_turn
from envs.drawing import move_draw
from envs.pointing_positions import MAX_OPTIONS, Difficulty, friends_of, objects_of
from envs.pointing_scripts import (
    FIRST_KNOWN,
    FOUND,
    KNOWN,
    best_matches,
    by_match,
    describe,
    description_of,
    is_confirmed,
    named,
    question_about,
    tell_names,
    tell_rows,
)
from envs.pointing_selection import CHOSEN, has_selection, heard_of, selection_in, tokens_of
from selfplay.dialog import Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.errors import UserError
from selfplay.interfaces import GameSheet

Variant = Literal["target", "mutual_friend"]
GUIDE, PICKER = "guide", "picker"
FIRST, SECOND = "first", "second"
LEAST_TURNS: Mapping[Variant, int] = {"target": 2, "mutual_friend": 4}
USUAL_TURNS: Mapping[Variant, int] = {"target": 2, "mutual_friend": 6}
FREE_WORDS = 12  # of each message; those beyond cost word_cost each
LEAST_WIN = 0.5  # env units: a long way to the goal is still worth more than none


@dataclass(frozen=True, slots=True, kw_only=True)
class Pointing:
    """Two players with the same aim find the one entry that counts.

    Roles: target: `guide` and `picker` see the same K objects, each in an order of its own, and the guide knows the
    target; it describes, and the picker selects.  mutual_friend: `first` and `second` each know K people, exactly one
    person is the same in both tables, and both must select that one.  A selection is ``[select] 2`` of objects,
    ``[select] Anna`` of people, or a description that fits one entry of the own list alone.
    Secrecy: mutual_friend: both select as if at once.  The partner hears the words around a selection, and in its
    place "(has chosen)"; the game goes on, right or wrong, until both have selected.  What was selected stands.
    Ends: when all who must select have done so ("goal_reached" if all are right, else "gave_up" by the first who is
    wrong); with a selection that names no entry, or more than one, or is denied or asked about, or differs from the
    role's earlier one, or is the guide's ("rule_violation"); after `max_turns` turns ("turn_limit", and the form is
    broken: whoever must select does so in its last message at the latest).
    Payoff: the same for both: 1 if the goal is reached, less word_cost for each word of a message beyond the twelfth,
    at least 0.5; else 0.
    Chance: target 1/K.  mutual_friend 1/K^2: both draw a name of their own, without regard to the other.  Words are
    free, so that two who agree on a name without comparing, as when one follows what the other says, have 1/K: compare
    players that talk with that.  Of a selection itself there is nothing to follow.
    Best: 1.
    Source: target after the reference game of clembench (Chalamalasetti et al. 2023, arXiv:2305.13455),
    mutual_friend after MutualFriends (He et al. 2017, arXiv:1704.07130); objects, people and the price of words are
    our own.
    """

    name: ClassVar[str] = "pointing"
    zero_sum: ClassVar[bool] = False

    variant: Variant = "target"
    options: int = 4  # K: entries of each list, 2 to 8
    # easy: one word singles out any object, or one name the friend.  hard: no word singles out an object, and every
    # name is in both tables, so that the details must be compared.
    difficulty: Difficulty = "hard"
    max_turns: int = 0  # turns of both roles together, even; 0: 2 for target, 6 for mutual_friend
    word_cost: float = 0.0  # payoff that each word of a message beyond the twelfth costs, 0 to 0.1

    def __post_init__(self) -> None:
        """Refuse settings that cannot be played."""
        if self.variant not in get_args(Variant):
            raise UserError(f"variant={self.variant!r} is none of {', '.join(get_args(Variant))}")
        if self.difficulty not in get_args(Difficulty):
            raise UserError(f"difficulty={self.difficulty!r} is none of {', '.join(get_args(Difficulty))}")
        least = 4 if self.variant == "target" and self.difficulty == "hard" else 2
        if not least <= self.options <= MAX_OPTIONS:
            few = "; for fewer objects set difficulty=easy" if 2 <= self.options < least else ""
            raise UserError(f"options={self.options} must be from {least} to {MAX_OPTIONS}{few}")
        least = LEAST_TURNS[self.variant]
        if self.max_turns and (self.max_turns < least or self.max_turns % 2):
            raise UserError(f"max_turns={self.max_turns} must be even and at least {least} for {self.variant}")
        if not 0.0 <= self.word_cost <= 0.1:
            raise UserError(f"word_cost={self.word_cost} must be from 0 to 0.1")

    @property
    def roles(self) -> tuple[str, str]:
        """The roles of the variant."""
        return (GUIDE, PICKER) if self.variant == "target" else (FIRST, SECOND)

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw the lists; the two splits have no set of objects, and no two tables of people, in common."""
        draw_entries = objects_of if self.variant == "target" else friends_of
        position = draw_entries(seed, split, options=self.options, difficulty=self.difficulty)
        private: dict[str, dict[str, object]] = {
            role: {"list": list(entries)} for role, entries in zip(self.roles, position.lists, strict=True)
        }
        public = {}
        if self.variant == "target":
            private[GUIDE]["target"] = position.answer
            public["objects"] = sorted(position.lists[0])
        return Scenario(env=self.name, seed=seed, split=split, roles=self.roles, public=public, private=private)

    def next_role(self, conversation: Conversation) -> str | None:
        """Return whose turn it is; the roles alternate."""
        return whose_turn(conversation) if self._end(conversation) is None else None

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return the role's own list and what to do with it."""
        own = _list_of(scenario, role)
        if role == GUIDE:
            return (
                f"You and your partner see these objects: {', '.join(own)}. Your partner's list has another order. "
                f"In one short sentence, describe the {scenario.private[GUIDE]['target']}, so that no other fits."
            )
        if role == PICKER:
            numbered = ", ".join(f"{number}. {entry}" for number, entry in enumerate(own, start=1))
            asking = "You may ask first. " if self._turns > 2 else ""
            return (
                f"Your partner describes one of these objects: {numbered}. {asking}Answer with its number: [select] 1"
            )
        people = "; ".join("{} ({}, {}, {})".format(*entry.split()) for entry in own)
        return (
            f"You know {people}. Your partner knows {len(own)} people too, and one of yours is the same person, with "
            f"the same details. Compare in short sentences. Within {self._turns // 2} messages, name the person, which "
            f"your partner cannot hear: [select] {own[0].split()[0]}"
        )

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return the partner's last message; of a friend's that selects, the words around the selection."""
        heard = last_heard(conversation, role)
        return heard if self.variant == "target" else heard_of(heard)

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return "say", or "select" with the entry; None: nothing was selected by the role's last message."""
        role, text = conversation.turns[turn].role, conversation.turns[turn].text
        if not has_selection(text):
            is_due = role != GUIDE and self._is_last(turn) and not _selected_before(conversation, turn)
            return None if is_due else Action(kind="say")
        entry = None if role == GUIDE else _selection(conversation, turn)
        earlier = {_selection(conversation, before) for before in _selected_before(conversation, turn)}
        return Action(kind="select", value=entry, legal=entry is not None and earlier <= {entry})

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return what was selected and what it is worth; an unfinished game is worth nothing yet."""
        end = self._end(conversation)
        success = end is not None and end[0] == "goal_reached"
        at_fault = self._at_fault(conversation)
        extra = sum(max(0, len(tokens_of(turn.text)) - FREE_WORDS) for turn in conversation.turns)
        payoff = max(LEAST_WIN, 1.0 - self.word_cost * extra) if success else 0.0
        return Outcome(
            status="terminated",
            reason=end[0] if end else "turn_limit",
            by=end[1] if end else None,
            protocol_ok=not at_fault,
            facts={
                "success": success,
                "answer": _answer(conversation.scenario),
                "words_beyond": extra,
                "at_fault": at_fault,
            },
            payoff=dict.fromkeys(self.roles, payoff),
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return a short true message, and the selection once it is certain, or due."""
        if role == GUIDE:
            return self._guide(conversation)
        return self._picker(conversation) if role == PICKER else self._friend(conversation, role)

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return a description of any object, or a selection of any entry; what was selected is repeated."""
        draw, own = move_draw(conversation), _list_of(conversation.scenario, role)
        if role == GUIDE:
            return describe(draw.choose(own).split(), draw)
        mine = [turn.text for turn in conversation.turns_of(role) if has_selection(turn.text)]
        return mine[-1] if mine else self._select(own, draw.choose(own), "[select] {0}")

    def sheet(self) -> GameSheet:
        """Return the promises for K entries."""
        ends: tuple[Reason, ...] = ("goal_reached", "gave_up", "rule_violation", "turn_limit")
        num_choices = 1 if self.variant == "target" else 2
        return GameSheet(payoffs=(0.0, 1.0), ends=ends, chance=(1.0 / self.options) ** num_choices, best=1.0)

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return a game that is won, one with a wrong selection, one with two at once and one with none."""
        answer, selector = _answer(scenario), PICKER if self.variant == "target" else FIRST
        own = _list_of(scenario, selector)
        other = next(entry for entry in own if entry != answer)
        before = ("It is one of those.",) if self.variant == "target" else ()
        behind = () if before else (self._select(_list_of(scenario, SECOND), answer, "[select] {0}"),)
        right, wrong = (self._select(own, entry, "[select] {0}") for entry in (answer, other))
        return {
            "goal_reached": (*before, right, *behind),
            "gave_up": (*before, wrong, *behind),
            "rule_violation": (*before, f"{right} {wrong}"),
            "turn_limit": ("I cannot say.",) * self._turns,
        }

    @property
    def _turns(self) -> int:
        return self.max_turns or USUAL_TURNS[self.variant]

    def _end(self, conversation: Conversation) -> tuple[Reason, str | None] | None:
        """Return why the game is over and who brought it about; None: it is not over."""
        answer, waiting, wrong = _answer(conversation.scenario), set(self.roles) - {GUIDE}, []
        for turn in range(conversation.num_turns):
            action, role = self.parse(conversation, turn), conversation.turns[turn].role
            if action is None or action.kind == "say":
                continue
            if not action.legal:
                return "rule_violation", role
            waiting.discard(role)
            if action.value != answer:
                wrong.append(role)
            if not waiting:
                return ("gave_up", wrong[0]) if wrong else ("goal_reached", None)
        if conversation.num_turns < self._turns:
            return None
        return "turn_limit", waiting.pop() if len(waiting) == 1 else None

    def _at_fault(self, conversation: Conversation) -> list[str]:
        actions = [self.parse(conversation, turn) for turn in range(conversation.num_turns)]
        broken = {
            turn.role
            for turn, action in zip(conversation.turns, actions, strict=True)
            if action is None or not action.legal
        }
        return [role for role in self.roles if role in broken]

    def _guide(self, conversation: Conversation) -> str:
        scenario, draw = conversation.scenario, move_draw(conversation)
        target = str(scenario.private[GUIDE]["target"])
        if conversation.turns:  # the picker asked: now everything is said
            return describe(target.split(), draw)
        return description_of(target, _list_of(scenario, GUIDE), draw)

    def _picker(self, conversation: Conversation) -> str:
        own = _list_of(conversation.scenario, PICKER)
        matches = best_matches([turn.text for turn in conversation.turns_of(GUIDE)], own)
        if len(matches) > 1 and not self._is_last(conversation.num_turns):
            return question_about(matches)
        return self._select(own, matches[0], move_draw(conversation).choose(FOUND))

    def _friend(self, conversation: Conversation, role: str) -> str:
        own, draw = _list_of(conversation.scenario, role), move_draw(conversation)
        heard = [heard_of(turn.text) for turn in conversation.turns if turn.role != role]
        said = [turn.text for turn in conversation.turns_of(role)]
        sure, told = self._sure(own, said, heard), named(own, said)
        left = [row for row in by_match(own, heard) if row not in told]
        is_decided = len(sure) == 1 or (self.difficulty == "hard" and len(left) <= 1)
        if is_decided or self._is_last(conversation.num_turns):
            forms = KNOWN if any(CHOSEN in text for text in heard) else FIRST_KNOWN
            return self._select(own, [*sure, *left, *own][0], draw.choose(forms))
        if self.difficulty == "easy":
            return tell_names(own, draw)
        # All but one have to be told before the two last messages.
        at_once = -(-(len(own) - 1) // (self._turns - 2))
        return tell_rows(left[:at_once], draw, is_answer=bool(heard))

    def _sure(self, own: tuple[str, ...], said: list[str], heard: list[str]) -> list[str]:
        """Return whom the role selected, or whom the partner named as it selected; else who must be the one."""
        mine = next((selection_in(text, own, numbered=False) for text in said if has_selection(text)), None)
        theirs = next((named(own, [text]) for text in heard if CHOSEN in text), [])
        if mine or len(theirs) == 1:
            return [mine] if mine else theirs
        return named(own, heard) if self.difficulty == "easy" else [row for row in own if is_confirmed(row, heard)]

    def _is_last(self, turn: int) -> bool:
        return turn >= self._turns - 2

    def _select(self, own: tuple[str, ...], entry: str, template: str) -> str:
        return template.format(own.index(entry) + 1 if self.variant == "target" else entry.split()[0])


def _list_of(scenario: Scenario, role: str) -> tuple[str, ...]:
    return tuple(scenario.private[role]["list"])


def _selection(conversation: Conversation, turn: int) -> str | None:
    role = conversation.turns[turn].role
    own = _list_of(conversation.scenario, role)
    return selection_in(conversation.turns[turn].text, own, numbered=role == PICKER)


def _selected_before(conversation: Conversation, turn: int) -> list[int]:
    role, earlier = conversation.turns[turn].role, enumerate(conversation.turns[:turn])
    return [before for before, spoken in earlier if spoken.role == role and has_selection(spoken.text)]


def _answer(scenario: Scenario) -> str:
    if GUIDE in scenario.private:
        return str(scenario.private[GUIDE]["target"])
    first, second = (set(_list_of(scenario, role)) for role in scenario.roles)
    return str((first & second).pop())
