"""Rewards for the tone of a message: laughter, compliments, politeness, support, cheer.

Each looks for phrases of a table as whole words, in any case.  A phrase is written in full: "you are" stands for
"you're", "youre" and "you re" too, and "a", "so", "really" or the like may follow it ("you're really smart").  What a
phrase means where it stands is not seen: "I would not say good job" has "good job".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np

from rewards.words import Of, texts_of
from selfplay.dialog import Conversation, Scores

MOST_LAUGHS = 4

# Laughs as they are typed; "ha" alone is none, "ha ha" is one.
LAUGHS = (
    r"(?:a|ba|bwa|mua|mwa|wa)?ha+(?:[\s,-]{0,2}ha+)+h*",
    r"(?:he){2,}h?",
    r"te+he+",
    r"l(?:o+l)+z?",
    r"lmf?ao+",
    r"rot?fl(?:mf?ao)?",
)

COMPLIMENTS = (
    "you are amazing",
    "you are awesome",
    "you are brilliant",
    "you are clever",
    "you are fantastic",
    "you are funny",
    "you are good at",
    "you are great",
    "you are hilarious",
    "you are impressive",
    "you are incredible",
    "you are smart",
    "you are sweet",
    "you are talented",
    "you are the best",
    "you are wonderful",
    "you look amazing",
    "you look beautiful",
    "you look great",
    "you look lovely",
    "so kind of you",
    "very kind of you",
    "great idea",
    "great job",
    "great point",
    "great question",
    "good job",
    "good point",
    "good question",
    "nice work",
    "well done",
    "i admire your",
    "i am impressed",
    "i enjoy talking to you",
    "i like your",
    "i love your",
)

POLITENESS = (
    "excuse me",
    "good afternoon",
    "good evening",
    "good morning",
    "have a good day",
    "have a lovely day",
    "have a nice day",
    "i apologise",
    "i apologize",
    "i appreciate",
    "i am sorry",
    "i beg your pardon",
    "if i may",
    "if you do not mind",
    "if you don't mind",
    "may i ask",
    "my apologies",
    "my pleasure",
    "nice to meet you",
    "pardon me",
    "please",
    "pleased to meet you",
    "thank you",
    "thanks",
    "with pleasure",
    "would you like",
    "would you mind",
    "you are welcome",
)

SUPPORTIVE = (
    "congratulations",
    "do not give up",
    "don't give up",
    "do not worry",
    "don't worry",
    "good luck",
    "hang in there",
    "i am here for you",
    "i am on your side",
    "i am proud of you",
    "i am happy for you",
    "i am rooting for you",
    "i am sorry to hear",
    "i believe in you",
    "i have been there",
    "i've been there",
    "i hear you",
    "i know how you feel",
    "i understand how",
    "it is not your fault",
    "it will be all right",
    "it will be alright",
    "it will be fine",
    "it will be okay",
    "it will get better",
    "keep going",
    "take your time",
    "that makes sense",
    "that is understandable",
    "that must be hard",
    "that must be tough",
    "that sounds difficult",
    "that sounds hard",
    "that sounds tough",
    "things will get better",
    "you are doing great",
    "you are doing well",
    "you are not alone",
    "you are right",
    "you can do it",
    "you can do this",
    "you will be fine",
    "you will be okay",
    "you will do great",
    "you will get there",
)

CHEERFUL = (
    "cheers",
    "glad to hear",
    "good news",
    "great news",
    "had a great time",
    "happy to hear",
    "have a great time",
    "have fun",
    "hooray",
    "how exciting",
    "how lovely",
    "how wonderful",
    "hurray",
    "i am delighted",
    "i am excited",
    "i am feeling great",
    "i am glad",
    "i am happy",
    "i am looking forward",
    "i am thrilled",
    "i can't wait to",
    "i feel great",
    "i love it",
    "it is fun",
    "lots of fun",
    "lovely to hear",
    "made my day",
    "nice to hear",
    "so much fun",
    "sounds amazing",
    "sounds fantastic",
    "sounds fun",
    "sounds great",
    "sounds lovely",
    "sounds wonderful",
    "that is amazing",
    "that is awesome",
    "that is fantastic",
    "that is great",
    "that is lovely",
    "that is wonderful",
    "what a beautiful",
    "what a great",
    "what a lovely",
    "what a wonderful",
    "woohoo",
    "yay",
    "yippee",
)

_LETTER = r"[^\W_]"
_APOSTROPHE = "['\u2019]"
_CONTRACTED = {"am": "m", "are": "re", "is": "s", "will": "ll"}
_STRESS = "(?:an?|just|quite|really|so|such an?|truly|very)"


def _whole_words(patterns: Sequence[str]) -> re.Pattern[str]:
    """Return one pattern of lower-case text that finds any of the given ones between word boundaries.

    An apostrophe joins letters: "i like you" is not in "I like you're".
    """
    before = rf"(?<!{_LETTER})(?<!{_LETTER}{_APOSTROPHE})"
    return re.compile(rf"{before}(?:{'|'.join(patterns)})(?!{_APOSTROPHE}?{_LETTER})")


def _phrases(phrases: Sequence[str]) -> re.Pattern[str]:
    return _whole_words([_phrase(phrase) for phrase in phrases])


def _phrase(phrase: str) -> str:
    """Return a phrase as a pattern: free spaces, either apostrophe or none, contracted verbs, a word of stress."""
    first, *rest = (word.replace("'", f"{_APOSTROPHE}?") for word in phrase.split())
    return first + "".join(_verb(word) if word in _CONTRACTED else rf"\s+{word}" for word in rest)


def _verb(word: str) -> str:
    return rf"(?:\s+{word}|(?:{_APOSTROPHE}|\s)?{_CONTRACTED[word]})(?:\s+{_STRESS})?"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Matches:
    """Counts what a pattern finds in a message, up to `most`, and divides by `most`; says what it found."""

    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    scope: ClassVar[str] = "turn"
    pattern: ClassVar[re.Pattern[str]]
    most: ClassVar[int] = 1

    of: Of = "own"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn, and what was found."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        found = [None if text is None else self._find(text) for text in texts_of(conversation, self.of)]
        values = [np.nan if matches is None else len(matches) / self.most for matches in found]
        return Scores(
            values=np.array(values, dtype=np.float32), why=tuple(", ".join(matches or ()) for matches in found)
        )

    def _find(self, text: str) -> list[str]:
        return [match[0] for match in islice(self.pattern.finditer(text.lower()), self.most)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Laughter(_Matches):
    """How often a message laughs, or makes its partner laugh.

    Definition: laughs typed as words in the next message of somebody else, at most 4, divided by 4; with of="own", in
    the message itself.  Laughs: haha and longer, ha ha, hehe, teehee, lol, lmao, rofl, as whole words (the original
    counts "ha" anywhere and finds it in "that" and "what"); "ha" alone is none.  It does not apply where nobody
    answers.
    Range: 0 to 1.
    Source: natashamjaques/neural_chat, BatchRL/rewards.py.
    Exploit: "haha lol haha lol", once the partner laughs back at it; it saturates at 4.
    Guard: a partner that is not trained; coherence, the repetition rewards.
    """

    name: ClassVar[str] = "laughter"
    pattern: ClassVar[re.Pattern[str]] = _whole_words(LAUGHS)
    most: ClassVar[int] = MOST_LAUGHS

    of: Of = "next"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compliments(_Matches):
    """Whether a message pays a compliment.

    Definition: 1 if a phrase of the table COMPLIMENTS is in the message as whole words ("you're so funny", "great
    idea"), else 0; with of="next", in the next message of somebody else.
    Range: 0 to 1.
    Source: natashamjaques/neural_chat, BatchRL/rewards.py, with a table of its own.
    Exploit: "Great question!" before every message; it saturates there.
    Guard: the repetition rewards; coherence; KL control.
    """

    name: ClassVar[str] = "compliments"
    pattern: ClassVar[re.Pattern[str]] = _phrases(COMPLIMENTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Politeness(_Matches):
    """Whether a message is polite.

    Definition: 1 if a phrase of the table POLITENESS is in the message as whole words ("please", "thank you"; not
    "pleased"), else 0; with of="next", in the next message of somebody else.
    Range: 0 to 1.
    Source: natashamjaques/neural_chat, BatchRL/rewards.py, with a table of its own.
    Exploit: "Thanks." behind every message, or two models that only thank each other; it saturates there.
    Guard: the repetition rewards; words_elicited; KL control.
    """

    name: ClassVar[str] = "politeness"
    pattern: ClassVar[re.Pattern[str]] = _phrases(POLITENESS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Supportive(_Matches):
    """Whether a message supports its partner.

    Definition: 1 if a phrase of the table SUPPORTIVE is in the message as whole words ("you can do it", "that must be
    hard"), else 0; with of="next", in the next message of somebody else.
    Range: 0 to 1.
    Source: natashamjaques/neural_chat, BatchRL/rewards.py, with a table of its own.
    Exploit: "You are right." to whatever was said: it pays for agreeing with anything; it saturates there.
    Guard: coherence, the repetition rewards, and a reward for what is true where the environment has one.
    """

    name: ClassVar[str] = "supportive"
    pattern: ClassVar[re.Pattern[str]] = _phrases(SUPPORTIVE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheerful(_Matches):
    """Whether a message is cheerful.

    Definition: 1 if a phrase of the table CHEERFUL is in the message as whole words ("I'm so happy", "sounds great";
    not "unhappy"), else 0; with of="next", in the next message of somebody else.
    Range: 0 to 1.
    Source: natashamjaques/neural_chat, BatchRL/rewards.py, with a table of its own.
    Exploit: "That's great!" to bad news too; it saturates there.
    Guard: coherence, the repetition rewards, KL control.
    """

    name: ClassVar[str] = "cheerful"
    pattern: ClassVar[re.Pattern[str]] = _phrases(CHEERFUL)
