"""Twenty questions: find the object that is meant by asking what can be answered with yes or no."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from envs.drawing import Draw, draw_position, move_draw
from envs.reading import plain, without_doubts, words_in
from envs.twenty_questions_table import (
    Question,
    guess_in,
    has_guess,
    has_question_mark,
    question_in,
    table,
)
from selfplay.dialog import Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.errors import UserError
from selfplay.interfaces import GameSheet

Variant = Literal["oracle", "free_answerer"]
ASKER, ANSWERER = "asker", "answerer"
MAX_CANDIDATES, MAX_QUESTIONS = 12, 20
PRICE = 0.5  # env units: what all the questions together cost
NUM_CARDS = 1_000_000

ANYTHING = "Find out what is meant: an animal, a plant, food, something in nature or an everyday thing."
YES, NO, UNKNOWN, NO_GUESS = "Yes.", "No.", "I cannot say.", "Guess one object by its name."
AFFIRMING = "yes yeah yep yup yea aye correct indeed true affirmative sure certainly absolutely"
DENYING = "no nope nah false negative"
ALSO_DENYING = "not never incorrect wrong cannot neither nor"  # beside one of the others; alone they answer nothing
DOUBTING = "idea clue know maybe perhaps possibly depends unsure unknown sometimes partly either guess"
LEADING = "well hmm hm oh ah um so ok okay the answer is it's"
YES_WORDS, NO_WORDS = frozenset(AFFIRMING.split()), frozenset(DENYING.split())
NOT_WORDS, DOUBTS, LEADS = frozenset(ALSO_DENYING.split()), frozenset(DOUBTING.split()), frozenset(LEADING.split())

ASKS = ("{}", "{}", "{}", "Okay. {}", "Let me ask: {}", "Next: {}", "Tell me: {}")
GUESSES = (
    "[guess] {}",
    "I know it. [guess] {}",
    "It must be this: [guess] {}",
    "My answer: [guess] {}",
    "Got it! [guess] {}",
)
YES_SCRIPTS = ("Yes.", "Yes, it is so.", "Yes, that is right.", "Yeah.", "Well, yes.")
NO_SCRIPTS = ("No.", "No, it is not so.", "No, that is wrong.", "Nope.", "Well, no.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TwentyQuestions:
    """One object of a few is meant; every question that helps to find it costs something.

    Roles: `asker` sees the candidates, and asks yes-or-no questions until it guesses: ``[guess] cat``.  oracle: there
    is no other role, and the environment answers from a table of objects and attributes.  free_answerer: `answerer`
    knows the object and answers; the asker hears only which of yes and no it was.  A question that the table does not
    have (it names two things, or denies, or says more than `envs.twenty_questions_table` understands) is answered
    "I cannot say." by the environment in both variants, and counts as a question.
    Ends: with a guess of a candidate ("goal_reached" if it is the object, else "gave_up"); when the last message, one
    after the last question, is no guess ("turn_limit"); free_answerer: with an answer that is neither yes nor no, or
    both ("rule_violation" by the answerer).  All others are brought about by the asker.
    Payoff: asker: 1 - 0.5 * asked / questions if it finds the object, else 0; every message but the guess has asked.
    answerer: the share of its answers that were true by the table; 0 without answers and with a rule violation.
    Form: a message that guesses no candidate, or two, or denies or asks a guess ("Should I [guess] cat?"), and one
    that asks nothing count as questions too and get no answer: stalling costs.  They break the form, and so does a
    game without a guess.  A guess counts whatever is asked beside it.
    Chance: exactly 1/N for the asker, who guesses at once (N candidates); the answerer is then never asked and has 0.
    Best: an upper bound, of a table in which any question could be asked: k of N objects are told apart by a tree of
    binary questions, and the k with the greatest mean counts.  free_answerer: the mean with 1 for the answerer.
    Source: after the game of LMRL-Gym (Abdulhai et al. 2023, arXiv:2311.18232), with a table in place of a model as
    the oracle, a short list of candidates, and a price within 0 to 1.  The splits have no set of candidates in common;
    without a list (candidates=0), no object.
    """

    name: ClassVar[str] = "twenty_questions"
    zero_sum: ClassVar[bool] = False

    variant: Variant = "oracle"
    candidates: int = 8  # objects in the list, 2 to 12; 0: any object of the table, and no list
    questions: int = 6  # that may be asked before the guess

    def __post_init__(self) -> None:
        """Refuse settings that cannot be played."""
        if self.variant not in get_args(Variant):
            raise UserError(f"variant={self.variant!r} is none of {', '.join(get_args(Variant))}")
        if self.candidates and not 2 <= self.candidates <= MAX_CANDIDATES:
            raise UserError(f"candidates={self.candidates} must be 0, for all objects, or from 2 to {MAX_CANDIDATES}")
        if not 1 <= self.questions <= MAX_QUESTIONS:
            raise UserError(f"questions={self.questions} must be from 1 to {MAX_QUESTIONS}")

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of the variant."""
        return (ASKER,) if self.variant == "oracle" else (ASKER, ANSWERER)

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw the candidates, and a card that says which of them is meant."""
        names = table().names

        def position(draw: Draw) -> tuple[tuple[str, ...], int]:
            return tuple(draw.some(names, self.candidates)) if self.candidates else names, draw.below(NUM_CARDS)

        def key(drawn: tuple[tuple[str, ...], int]) -> str:
            return ", ".join(sorted(drawn[0])) if self.candidates else drawn[0][drawn[1] % len(names)]

        chosen, card = draw_position(seed, split, position, key=key)
        public: dict[str, Any] = {"objects": list(chosen)} if self.candidates else {}
        private: dict[str, dict[str, Any]] = {}
        if self.variant == "oracle":
            # No role knows the object.  A number that names it only through a division gives nothing away at a glance.
            public["card"] = card
        else:
            private[ANSWERER] = {"object": chosen[card % len(chosen)]}
        return Scenario(env=self.name, seed=seed, split=split, roles=self.roles, public=public, private=private)

    def next_role(self, conversation: Conversation) -> str | None:
        """Return the asker, or the answerer after a question that has an answer."""
        if self._end(conversation) is not None:
            return None
        last = conversation.turns[-1] if conversation.turns else None
        is_asked = last is not None and last.role == ASKER and _question(last.text) is not None
        return ANSWERER if is_asked and self.variant == "free_answerer" else ASKER

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return the candidates and how to ask, or the object."""
        if role == ANSWERER:
            return (
                f"You have this in mind: {_target(scenario)}. Your partner asks about it. "
                "Answer truthfully, with yes or no."
            )
        objects = scenario.public.get("objects")
        among = f"Find out which of these is meant: {', '.join(objects)}." if objects else ANYTHING
        example = objects[0] if objects else "name"
        return (
            f"{among} In each message ask one question for yes or no, such as: Is it alive? Ask at most "
            f"{self.questions}, the fewer the better. Then name it once: [guess] {example}"
        )

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return the question to the answerer, and to the asker nothing but yes, no or that there is no answer."""
        last = conversation.turns[-1] if conversation.turns else None
        if last is None or (last.role == role and role == ANSWERER):
            return ""
        if role == ANSWERER:
            return last.text
        if last.role == ANSWERER:
            is_yes = answer_in(last.text)
        elif has_guess(last.text):
            return NO_GUESS
        else:
            question = _question(last.text)
            is_yes = question.truth_of(_target(conversation.scenario)) if question else None
        return UNKNOWN if is_yes is None else YES if is_yes else NO

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return the guess, what was asked (null: nothing that has an answer) or the answer; None: none of these."""
        role, text = conversation.turns[turn].role, conversation.turns[turn].text
        if role == ANSWERER:
            is_yes = answer_in(text)
            return None if is_yes is None else Action(kind="answer", value="yes" if is_yes else "no")
        if has_guess(text):
            guessed = _guessed_in(text, conversation.scenario)
            return Action(kind="guess", value=guessed, legal=guessed is not None)
        question = _question(text)
        if question is not None:
            return Action(kind="ask", value=f"not {question.attribute}" if question.opposite else question.attribute)
        return Action(kind="ask") if has_question_mark(text) else None

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return whether the object was found, at what price, and how truly the questions were answered."""
        end, target = self._end(conversation), _target(conversation.scenario)
        success = end is not None and end[0] == "goal_reached"
        asked = sum(turn.role == ASKER for turn in conversation.turns) - (
            end is not None and end[0] in ("goal_reached", "gave_up")
        )
        truths = _truths(conversation)
        payoff = {ASKER: 1.0 - PRICE * asked / self.questions if success else 0.0}
        facts: dict[str, Any] = {
            "success": success,
            "answer": target,
            "asked": asked,
            "understood": _understood(conversation),
        }
        if self.variant == "free_answerer":
            is_broken = end is not None and end[0] == "rule_violation"
            payoff[ANSWERER] = sum(truths) / len(truths) if truths and not is_broken else 0.0
            facts |= {"answered": len(truths), "true_answers": sum(truths)}
        actions = [self.parse(conversation, turn) for turn in range(conversation.num_turns)]
        broken = {
            turn.role
            for turn, action in zip(conversation.turns, actions, strict=True)
            if action is None or not action.legal
        }
        if end is not None and end[0] == "turn_limit":
            broken.add(ASKER)
        facts["at_fault"] = [role for role in self.roles if role in broken]
        return Outcome(
            status="terminated",
            reason=end[0] if end else "turn_limit",
            by=end[1] if end else None,
            protocol_ok=not broken,
            facts=facts,
            payoff=payoff,
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return the question that halves what is left best, the guess when one is left, or the true answer."""
        draw = move_draw(conversation)
        if role == ANSWERER:
            question = _question(conversation.turns[-1].text)
            is_yes = question is not None and question.truth_of(_target(conversation.scenario))
            return draw.choose(YES_SCRIPTS if is_yes else NO_SCRIPTS)
        left = _left(conversation)
        asked = sum(turn.role == ASKER for turn in conversation.turns)
        attribute = _halving(left, draw) if asked < self.questions else None
        if attribute is not None:
            return draw.choose(ASKS).format(draw.choose(table().wordings[attribute]))
        names = [name for name in _objects(conversation.scenario) if table().bits[name] & left]
        return draw.choose(GUESSES).format(draw.choose(names))

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return a guess of any candidate, or any answer."""
        draw = move_draw(conversation)
        if role == ANSWERER:
            return draw.choose((YES, NO))
        return f"[guess] {draw.choose(_objects(conversation.scenario))}"

    def sheet(self) -> GameSheet:
        """Return the promises for N candidates and so many questions."""
        num = self.candidates or len(table().names)
        ends: tuple[Reason, ...] = ("goal_reached", "gave_up", "turn_limit")
        best = best_mean(num, self.questions)
        if self.variant == "oracle":
            return GameSheet(payoffs=(0.0, 1.0), ends=ends, chance=1.0 / num, best=best)
        return GameSheet(payoffs=(0.0, 1.0), ends=(*ends, "rule_violation"), chance=0.5 / num, best=(best + 1.0) / 2.0)

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return a guess that is right, one that is wrong, a game of small talk and an answer that is none."""
        target = _target(scenario)
        other = next(name for name in _objects(scenario) if name != target)
        ends: dict[Reason, tuple[str, ...]] = {
            "goal_reached": (f"[guess] {target}",),
            "gave_up": (f"[guess] {other}",),
            "turn_limit": ("I wonder.",) * (self.questions + 1),
        }
        return ends if self.variant == "oracle" else {**ends, "rule_violation": ("Is it alive?", "Maybe.")}

    def _end(self, conversation: Conversation) -> tuple[Reason, str] | None:
        """Return why the game is over and who brought it about; None: it is not over."""
        if not conversation.turns:
            return None
        last = conversation.turns[-1]
        if last.role == ANSWERER:
            return ("rule_violation", ANSWERER) if answer_in(last.text) is None else None
        guessed = _guessed_in(last.text, conversation.scenario) if has_guess(last.text) else None
        if guessed is not None:
            return "goal_reached" if guessed == _target(conversation.scenario) else "gave_up", ASKER
        asked = sum(turn.role == ASKER for turn in conversation.turns)
        return ("turn_limit", ASKER) if asked > self.questions else None


@functools.lru_cache(maxsize=4096)
def answer_in(text: str) -> bool | None:
    """Return whether a message says yes; None: it does not begin with either, says both or doubts."""
    words = words_in(plain(text).replace("-", " "))
    first = next((word for word in words if word not in LEADS), "")
    if first not in YES_WORDS | NO_WORDS or not DOUBTS.isdisjoint(words):
        return None
    is_yes = not YES_WORDS.isdisjoint(words)
    is_no = any(word in NO_WORDS | NOT_WORDS or word.endswith("n't") for word in words)
    return None if is_yes and is_no else is_yes


@functools.cache
def best_mean(num: int, questions: int) -> float:
    """Return the greatest mean payoff of an asker of `num` objects that may ask anything.

    To tell k objects apart takes k * floor(log2 k) + 2 * (k - 2 ** floor(log2 k)) questions in all, the shortest
    external path of a binary tree; the other objects are given up.
    """
    means: list[float] = []
    for k in range(1, min(num, (1 << questions)) + 1):
        depth = k.bit_length() - 1
        total = k * depth + 2 * (k - (1 << depth))
        means.append((k - PRICE * total / questions) / num)
    return max(means)


def _objects(scenario: Scenario) -> tuple[str, ...]:
    return tuple(scenario.public.get("objects") or table().names)


def _guessed_in(text: str, scenario: Scenario) -> str | None:
    return guess_in(without_doubts(text), _objects(scenario))


def _target(scenario: Scenario) -> str:
    if ANSWERER in scenario.private:
        return str(scenario.private[ANSWERER]["object"])
    objects = _objects(scenario)
    return objects[int(scenario.public["card"]) % len(objects)]


def _question(text: str) -> Question | None:
    return None if has_guess(text) else question_in(text)


def _answered(conversation: Conversation) -> list[tuple[Question, bool]]:
    """Return the questions that were answered, with the answers that were given."""
    target, found = _target(conversation.scenario), []
    for number, turn in enumerate(conversation.turns):
        question = _question(turn.text) if turn.role == ASKER else None
        if question is None:
            continue
        if ANSWERER not in conversation.scenario.roles:
            found.append((question, question.truth_of(target)))
        elif number + 1 < conversation.num_turns:
            answer = answer_in(conversation.turns[number + 1].text)
            found += [] if answer is None else [(question, answer)]
    return found


def _truths(conversation: Conversation) -> list[bool]:
    target = _target(conversation.scenario)
    return [question.truth_of(target) == answer for question, answer in _answered(conversation)]


def _understood(conversation: Conversation) -> int:
    return sum(turn.role == ASKER and _question(turn.text) is not None for turn in conversation.turns)


def _left(conversation: Conversation) -> int:
    """Return the mask of the candidates that fit the answers; if none fits all of them, those that fit most."""
    bits, masks = table().bits, table().masks
    left = everything = sum(bits[name] for name in _objects(conversation.scenario))
    fitting = [
        masks[question.attribute] if answer != question.opposite else ~masks[question.attribute]
        for question, answer in _answered(conversation)
    ]
    for mask in fitting:
        left &= mask
    if left:
        return left
    objects = [bits[name] for name in _objects(conversation.scenario)]
    most = max(sum(bool(mask & bit) for mask in fitting) for bit in objects)
    return everything & sum(bit for bit in objects if sum(bool(mask & bit) for mask in fitting) == most)


def _halving(left: int, draw: Draw) -> str | None:
    """Return an attribute that halves a set of objects best; None: no attribute divides it."""
    num = left.bit_count()
    uneven = {attribute: abs(2 * (mask & left).bit_count() - num) for attribute, mask in table().masks.items()}
    least = min(uneven.values())
    return None if least == num else draw.choose([attribute for attribute, value in uneven.items() if value == least])
