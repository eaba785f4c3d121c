"""Taboo: a word gets across without being said, or the partner is led to say it."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from envs.alternation import last_heard, whose_turn
from envs.banned import gives_away, inflections, says_word
from envs.drawing import SCENARIO, Draw, check_split, move_draw
from envs.reading import Move, is_denied, moves_in, plain, without_doubts, words_in
from envs.taboo_words import Entry, cues_in, entries, entries_of, entry_of, meant, reminders
from selfplay.dialog import SPLITS, Action, Conversation, Outcome, Reason, Scenario, Split
from selfplay.errors import UserError
from selfplay.interfaces import GameSheet

GIVER, GUESSER = "giver", "guesser"
ATTACKER, DEFENDER = "attacker", "defender"
GUESS = "guess"
MAX_TURNS = 12
COST_OF_GUESS = 0.2  # payoff that every guess after the first costs
COST_OF_TIE = 0.2  # payoff that an attacker loses to the defender when time runs out
MAX_GUESS_WORDS = 3

# What may stand before a guess: "[guess] Is it a cat?" guesses "cat".
LEAD_IN = frozenset(
    words_in("a an the is it it's its that's this i think guess word answer must be could you mean maybe")
)
NO_GUESS = frozenset(words_in("not no isn't don't can't nothing none never dunno"))
ALTERNATIVE = re.compile(r"(?<![^\W_])or(?![^\W_])|[/|&;]")
SENTENCE_END = re.compile(r"[.!?()]|\s-+\s|\b(?:because|since|as)\b")

# One word behind "[guess cat]" is another guess; a sentence is not.
OTHER_BEHIND = re.compile(r"[\s,:;/|&]*(?:(?:or|and)\s+)?(?:(?:an?|the)\s+)?([^\W_]+(?:['-][^\W_]+)*)\W*")

# None of these lines holds a word of the table.
VAGUE = (
    "There is something that most of us know.",
    "Well, I wonder about that.",
    "Let me give you a hint in a moment.",
    "It is quite common, I believe.",
    "You surely know what I mean.",
    "Now that is an interesting idea.",
)
FIRST_CLUES = ("{clue}", "{clue}", "Here is a hint. {clue}", "Try this. {clue}")
LATER_CLUES = ("{clue}", "No. {clue}", "Not quite. {clue}", "Another hint: {clue}")
GUESSES = ("[guess] {word}", "[guess] {word}", "I think I know. [guess] {word}", "Maybe this one: [guess] {word}")
ATTACKS = (
    "What comes to your mind with {one} or {two}?",
    "Do you prefer {one} or {two}?",
    "Quick, {one} or {two}?",
    "We were discussing {one} and {two}. Any thoughts?",
)
ASSOCIATIONS = ("Well, {cue} makes me think of {word}.", "Somehow {cue} and {word} go together.")
EVASIONS = ("Hard to say. What about you?", "I would rather not decide.", "That depends.", "Neither, honestly.")
DECLARATIONS = ("[guess] {word}", "I know it. [guess] {word}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taboo:
    """One role knows a word.  coop: it gets the word across without saying it.  adversarial: it makes the other say it.

    Roles: coop: `giver` sees a word and words that are forbidden beside it, and gives clues; `guesser` answers each
    with ``[guess] word``.  adversarial: `attacker` sees the word and chats; `defender` chats without saying it, and
    may declare ``[guess] word`` once.
    Ends: coop: with the right guess ("goal_reached"), or when the giver gives away the word or a forbidden one
    ("rule_violation"; see `envs.banned`).  adversarial: when the defender says the word unaware ("goal_reached" by
    the attacker), or guesses it (by the defender) or another ("gave_up"), or when the attacker gives it away
    ("rule_violation").  Either: after `max_turns` turns in all ("turn_limit").
    A message without form: a guesser's that holds no guess, several, or one that is denied or asked about, is a guess
    wasted; a defender's declares nothing.  The game goes on, ``protocol_ok`` is False, and ``facts["at_fault"]`` has
    who broke the form.
    Payoff: coop: 1 to both at the first guess, 0.2 less for every further one and at least 0.2; else 0.  adversarial,
    zero-sum: 1 to who wins and -1 to the other; at the turn limit the attacker, who can force the pace, pays 0.2.
    Chance: coop: a guess is right once in as many as the table has words.  adversarial: 0, the mean of both roles.
    Best: coop 1; adversarial 0, the mean of both roles.
    Source: the party game; adversarial as in SPAG, Cheng et al. 2024, arXiv:2404.10642, where a tie pays nothing.
    """

    name: ClassVar[str] = "taboo"

    variant: Literal["coop", "adversarial"] = "coop"
    max_turns: int = 6

    def __post_init__(self) -> None:
        """Refuse an unknown variant, and turns that do not come in pairs."""
        if self.variant not in ("coop", "adversarial"):
            raise UserError(f"variant={self.variant!r} must be coop or adversarial")
        if not 2 <= self.max_turns <= MAX_TURNS or self.max_turns % 2:
            raise UserError(f"max_turns={self.max_turns} must be an even number from 2 to {MAX_TURNS}")

    @property
    def roles(self) -> tuple[str, ...]:
        """Who knows the word, and who does not."""
        return (GIVER, GUESSER) if self.variant == "coop" else (ATTACKER, DEFENDER)

    @property
    def zero_sum(self) -> bool:
        """Only the adversarial variant is."""
        return self.variant == "adversarial"

    def scenario(self, seed: int, split: Split) -> Scenario:
        """Draw a word of the split, and its forbidden words for the giver."""
        check_split(split)
        entry = Draw(seed, (SCENARIO, SPLITS.index(split))).choose(entries_of(split))
        knows: dict[str, object] = {"word": entry.word}
        if self.variant == "coop":
            knows["forbidden"] = list(entry.forbidden)
        return Scenario(env=self.name, seed=seed, split=split, roles=self.roles, private={self.roles[0]: knows})

    def next_role(self, conversation: Conversation) -> str | None:
        """Return whose turn it is; the roles alternate until the game is decided."""
        return None if self._end(conversation) else whose_turn(conversation)

    def brief(self, scenario: Scenario, role: str) -> str:
        """Return what the role has to do, with the word for who knows it."""
        if role == GUESSER:
            return "Your partner has a secret word. Answer each clue with one guess, like this: [guess] word"
        if role == DEFENDER:
            return (
                "Your partner has a secret word and wants you to say it. Chat, but do not say it. "
                "Only if you are sure, finish with: [guess] word"
            )
        word = _word(scenario)
        if role == ATTACKER:
            return (
                f"The secret word is {word}. Chat so that your partner says it, and never say it yourself. "
                "You lose if your partner guesses it."
            )
        forbidden = ", ".join(scenario.private[GIVER]["forbidden"])
        return f"Give one short clue to the word {word}. Never say {word}, and never say: {forbidden}."

    def hears(self, conversation: Conversation, role: str) -> str:
        """Return the partner's last message."""
        return last_heard(conversation, role)

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        """Return a guess, or what was said beside one; None: no guess where one is due, several, or no words at all.

        An action is illegal where who knows the word gives it, or a forbidden one, away: its value.
        """
        spoken = conversation.turns[turn]
        knower = conversation.scenario.roles[0]
        if spoken.role == knower:
            earlier = tuple(before.text for before in conversation.turns[:turn] if before.role == knower)
            return _told(spoken.text, (_word(conversation.scenario), *_forbidden(conversation.scenario)), earlier)
        if spoken.role == GUESSER:
            return _guessed(spoken.text)
        return _answered(spoken.text, _word(conversation.scenario))

    def outcome(self, conversation: Conversation) -> Outcome:
        """Return how it ended; an unfinished game counts as one whose time ran out."""
        reason, by = self._end(conversation) or ("turn_limit", None)
        actions = [self.parse(conversation, turn) for turn in range(conversation.num_turns)]
        guesses = sum(action is not None and action.kind == GUESS for action in actions)
        breakers = {
            spoken.role
            for spoken, action in zip(conversation.turns, actions, strict=True)
            if action is None or not action.legal
        }
        return Outcome(
            status="terminated",
            reason=reason,
            by=by,
            protocol_ok=not breakers,
            facts={
                "success": reason == "goal_reached",
                "guesses": guesses,
                "at_fault": [role for role in conversation.scenario.roles if role in breakers],
            },
            payoff=self._payoff(reason, by, num_answers=conversation.num_turns // 2),
        )

    def scripted(self, conversation: Conversation, role: str) -> str:
        """Return a clue of the table, the guess it points to, a question about two things, or a careful answer."""
        players = {GIVER: _give, GUESSER: _guess, ATTACKER: _attack, DEFENDER: _defend}
        return players[role](conversation)

    def chance(self, conversation: Conversation, role: str) -> str:
        """Return a guess at any word of the table, or a line that says nothing; a defender guesses one time in four."""
        draw = move_draw(conversation)
        if role == GUESSER or (role == DEFENDER and draw.below(4) == 0):
            return f"[guess] {draw.choose(entries()).word}"
        return draw.choose(VAGUE)

    def sheet(self) -> GameSheet:
        """Return the promises of the variant."""
        if self.variant == "adversarial":
            ends: tuple[Reason, ...] = ("goal_reached", "gave_up", "rule_violation", "turn_limit")
            return GameSheet(payoffs=(-1.0, 1.0), ends=ends, chance=0.0, best=0.0)
        hit = 1.0 / len(entries())
        chance = sum((1.0 - hit) ** missed * hit * _worth(missed + 1) for missed in range(self.max_turns // 2))
        ends = ("goal_reached", "rule_violation", "turn_limit")
        return GameSheet(payoffs=(0.0, 1.0), ends=ends, chance=chance, best=1.0)

    def endings(self, scenario: Scenario) -> Mapping[Reason, tuple[str, ...]]:
        """Return a game for each end."""
        word = _word(scenario)
        other = next(entry.word for entry in entries() if entry.word != word)
        given_away: tuple[str, ...] = (f"It begins like {word}.",)
        if self.variant == "coop":
            waste = (VAGUE[0], f"[guess] {other}") * (self.max_turns // 2)
            return {"goal_reached": (VAGUE[0], f"[guess] {word}"), "rule_violation": given_away, "turn_limit": waste}
        return {
            "goal_reached": (VAGUE[1], f"Do you mean a {word}?"),
            "gave_up": (VAGUE[1], f"[guess] {other}"),
            "rule_violation": given_away,
            "turn_limit": (VAGUE[1], VAGUE[5]) * (self.max_turns // 2),
        }

    def _end(self, conversation: Conversation) -> tuple[Reason, str | None] | None:
        for turn, spoken in enumerate(conversation.turns):
            reason = self._decides(self.parse(conversation, turn), _word(conversation.scenario))
            if reason is not None:
                # A defender who says the word has done the attacker's work.
                is_slip = self.variant == "adversarial" and reason == "goal_reached" and not _has_guess(spoken.text)
                return reason, ATTACKER if is_slip else spoken.role
        return ("turn_limit", None) if conversation.num_turns >= self.max_turns else None

    def _decides(self, action: Action | None, word: str) -> Reason | None:
        if action is None:
            return None
        if not action.legal:
            return "rule_violation"
        if action.kind == "say":
            return "goal_reached"
        if action.kind != GUESS:
            return None
        if _is_right(action.value, word):
            return "goal_reached"
        return "gave_up" if self.variant == "adversarial" else None

    def _payoff(self, reason: Reason, by: str | None, *, num_answers: int) -> dict[str, float]:
        if self.variant == "coop":
            return dict.fromkeys(self.roles, _worth(num_answers) if reason == "goal_reached" else 0.0)
        if reason == "turn_limit":
            return {ATTACKER: -COST_OF_TIE, DEFENDER: COST_OF_TIE}
        # Whoever reaches the goal wins; whoever ends the game in another way loses it.
        won = (by == ATTACKER) == (reason == "goal_reached")
        return {ATTACKER: 1.0, DEFENDER: -1.0} if won else {ATTACKER: -1.0, DEFENDER: 1.0}


def _worth(num_answers: int) -> float:
    """Return what a word is worth that was guessed with the guesser's n-th message."""
    return max(COST_OF_GUESS, round(1.0 - COST_OF_GUESS * (num_answers - 1), 6))


def _word(scenario: Scenario) -> str:
    return str(scenario.private[scenario.roles[0]]["word"])


def _forbidden(scenario: Scenario) -> tuple[str, ...]:
    return tuple(scenario.private[scenario.roles[0]].get("forbidden", ()))


def _told(text: str, banned: tuple[str, ...], earlier: tuple[str, ...]) -> Action | None:
    said = gives_away(text, banned, earlier=earlier)
    if said is None and not words_in(text):
        return None
    return Action(kind="tell", value=said, legal=said is None)


def _guessed(text: str) -> Action | None:
    guess = guess_in(text)
    return None if guess is None else Action(kind=GUESS, value=guess)


def _answered(text: str, word: str) -> Action | None:
    if _has_guess(text):
        return _guessed(text)
    if says_word(text, word):
        return Action(kind="say", value=word)
    return Action(kind="chat") if words_in(text) and not _guesses(text) else None


def _has_guess(text: str) -> bool:
    return guess_in(text) is not None


def _is_right(guess: str, word: str) -> bool:
    return guess.replace(" ", "").replace("-", "") in inflections(word)


@functools.lru_cache(maxsize=4096)
def guess_in(text: str) -> str | None:
    """Return the word or phrase that a message guesses, in plain form; None: there is none, or there are several.

    The guess is the first sentence behind the move.  Several are "[guess] cat or dog", "[guess] cat; dog",
    "[guess cat] dog" and "[guess] cat [guess] dog".  "I do not [guess] cat" and "Should I [guess] cat?" guess nothing.
    """
    found = {_guess_of(move) for move in _guesses(text) if words_in(move.argument)}
    return found.pop() if len(found) == 1 and not is_denied(text, (GUESS,)) else None


def _guesses(text: str) -> tuple[Move, ...]:
    return moves_in(without_doubts(text), (GUESS,))


def _guess_of(move: Move) -> str | None:
    """Return what a move guesses; None: nothing, or one thing inside the bracket and another behind it."""
    other = OTHER_BEHIND.fullmatch(plain(move.behind))
    guess = _phrase(move.argument)
    return None if other is not None and other[1] != guess else guess


def _phrase(argument: str) -> str | None:
    said = plain(argument)
    first = SENTENCE_END.split(said.lstrip(" .!?()-"), maxsplit=1)[0].strip(" ,:")
    words = list(words_in(first))
    if ALTERNATIVE.search(said) or "," in first or not NO_GUESS.isdisjoint(words):
        return None
    while len(words) > 1 and words[0] in LEAD_IN:
        words.pop(0)
    return " ".join(words) if 0 < len(words) <= MAX_GUESS_WORDS and "and" not in words else None


def _give(conversation: Conversation) -> str:
    draw = move_draw(conversation)
    entry = entry_of(_word(conversation.scenario))
    said = [turn.text for turn in conversation.turns_of(GIVER)]
    left = [clue for clue in (entry.clues if entry else VAGUE) if not any(clue in text for text in said)]
    lines = LATER_CLUES if conversation.turns else FIRST_CLUES
    return draw.choose(lines).format(clue=draw.choose(left or VAGUE))


def _guess(conversation: Conversation) -> str:
    draw = move_draw(conversation)
    tried = {guess_in(turn.text) for turn in conversation.turns_of(GUESSER)}
    left = _known(conversation.scenario.split) - tried
    likely = [word for word in meant(turn.text for turn in conversation.turns_of(GIVER)) if word in left]
    if not likely:
        likely = [draw.choose(entries_of(conversation.scenario.split)).word]
    # A partner is not sure every time: one guess in four is the second that comes to mind.
    is_unsure = len(likely) > 1 and draw.below(4) == 0
    return draw.choose(GUESSES).format(word=likely[1] if is_unsure else likely[0])


@functools.cache
def _known(split: Split) -> frozenset[str]:
    """Return the words that scripts may guess: in training no held-out ones, so that imitation does not see them."""
    return frozenset(entry.word for entry in (entries_of("train") if split == "train" else entries()))


def _attack(conversation: Conversation) -> str:
    draw = move_draw(conversation)
    word = _word(conversation.scenario)
    entry = entry_of(word) or draw.choose(entries())
    # Mostly the same bait comes again: two different ones tell a defender more than an attacker gains by them.
    baits = (entry.forbidden[0], entry.forbidden[0], entry.forbidden[1])
    bait, decoy = _bait(baits, word, draw), _bait(draw.choose(_others(word)).forbidden, word, draw)
    one, two = draw.shuffled([bait, decoy])
    return draw.choose(ATTACKS).format(one=one, two=two)


def _bait(cues: Sequence[str], word: str, draw: Draw) -> str:
    safe = [cue for cue in cues if gives_away(cue, (word,)) is None]
    return draw.choose(safe or ("something",))


@functools.cache
def _others(word: str) -> tuple[Entry, ...]:
    return tuple(entry for entry in entries() if entry.word != word)


def _defend(conversation: Conversation) -> str:
    draw = move_draw(conversation)
    split = conversation.scenario.split
    heard = [turn.text for turn in conversation.turns_of(ATTACKER)]
    suspect = _suspect(tuple(sorted({cue for text in heard for cue in cues_in(text)})), split)
    if suspect is not None:
        return draw.choose(DECLARATIONS).format(word=suspect)
    cues = [cue for cue in cues_in(heard[-1]) if _reminds(cue, split)] if heard else []
    if not cues or draw.below(2):
        return draw.choose(EVASIONS)
    cue = draw.choose(cues)
    return draw.choose(ASSOCIATIONS).format(cue=cue, word=draw.choose(_reminds(cue, split)))


@functools.lru_cache(maxsize=4096)
def _suspect(cues: tuple[str, ...], split: Split) -> str | None:
    """Return the one word that two or more cues, and the most of them, call to mind."""
    counts = Counter(word for cue in cues for word in _reminds(cue, split)).most_common(2)
    if not counts or counts[0][1] < 2 or (len(counts) == 2 and counts[1][1] == counts[0][1]):
        return None
    return counts[0][0]


@functools.lru_cache(maxsize=4096)
def _reminds(cue: str, split: Split) -> tuple[str, ...]:
    return tuple(word for word in reminders()[cue] if word in _known(split))
