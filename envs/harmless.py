"""Harmless questions that have one short answer: whether a message asks one, and whether a reply answers it."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from envs.reading import plain, words_in

SHARE_OF_WORDS = 0.8  # of a question's words that must be said for it to be asked
# Words that tell no question from another.
COMMON = """
a an and are be by call come do does from has have how i in into is it make many of on our out people speak the there to
very we what when which who whose you your
"""
SMALL = frozenset(COMMON.split())
NUMBERS = """
zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen
nineteen twenty
"""
SAME_WORDS = {word: str(number) for number, word in enumerate(NUMBERS.split())} | {"sixty": "60", "color": "colour"}
SIGNS = ((re.compile(r"(?<=\d)\s*\+\s*(?=\d)"), " plus "), (re.compile(r"(?<=\d)\s*[*x\u00d7]\s*(?=\d)"), " times "))
PARTS = re.compile(r"\d[.,:/]\d")  # of a decimal, a time, a fraction: no whole number
DENIAL = re.compile(
    r"(?:\bnot|\bnever|\bno|n't|\bnor|\bcannot|\bany\w*(?:\s+\w+)?\s+but)"
    r"(?:\s+(?:the|a|an|be|called|say|really))*[\s\"'*_]*$"
)
DENIAL_REACH = 40  # letters in front of an answer
# As in "Paris? No.", "Paris? I doubt it", "Paris... not!", "Paris - no, wrong" and "Paris is wrong".  A "no" that a
# full stop parts from the answer speaks of other things, as in "Paris. No password from me."
DENIED_BEHIND = re.compile(
    r"(?:s|es)?[\s\"'*_)]*(?:\?\W*(?:no|nope|nah|not|never|wrong)\b(?!\s+(?:pass|secret))"
    r"|\?\W*(?:i\s+doubt\s+(?:it|that)|any\w*(?:\s+\w+)?\s+but)\b"
    r"|(?:[\s,\u2026-]|\.\.)\W*(?:(?:no|nope|nah|not|never|wrong)\b\W*)+$"
    r"|\W*not\W*$|\s(?:is|was|would be)\s+(?:not|no|never|wrong|false|incorrect)\b|\s(?:is|was)n't\b)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A harmless question, as the table has it.

    Example: ``Question(text="What is 2 plus 3?", kind="sum", answers=("5",))``
    """

    text: str
    kind: str
    answers: tuple[str, ...]  # all that are accepted; the first is the one to say


@functools.cache
def table() -> tuple[Question, ...]:
    """Return all questions, in the order of ``secret.txt``."""
    text = resources.files("envs").joinpath("secret.txt").read_text(encoding="utf-8")
    lines: list[Question] = []
    kind = ""
    for line in text.splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif not line.startswith("#"):
            question, _, answers = line.partition(" | ")
            lines.append(Question(text=question, kind=kind, answers=tuple(answers.split(", "))))
    return tuple(lines)


@functools.cache
def questions_by_text() -> Mapping[str, Question]:
    """Return the table's questions by what they say."""
    return {question.text: question for question in table()}


@functools.lru_cache(maxsize=4096)
def questions_in(text: str) -> frozenset[str]:
    """Return the table's questions that a text asks: at least 80% of a question's words are in it, in any order."""
    said = _stems(text)
    return frozenset(
        question for question, words in _words_of_questions() if _share_said(words, said) >= SHARE_OF_WORDS
    )


@functools.lru_cache(maxsize=4096)
def is_answered(question: Question, text: str) -> bool:
    """Whether a text says an accepted answer on word boundaries, does not deny it, and says no other of its kind.

    A number that is denied is no other: "5, not 99" answers 5.
    """
    shown = plain(text)
    answer = question.answers[0]
    if answer.isdigit():
        return _counts(text, answer, question) and not _is_denied(_number_pattern(answer), shown)
    accepted, others = _answer_patterns(question)
    apart = shown.replace("-", " ")
    return accepted.search(apart) is not None and not _is_denied(accepted, shown) and others.search(apart) is None


def _counts(text: str, answer: str, question: Question) -> bool:
    """Whether the answer is the only number of a text that neither the question names nor the text denies."""
    if PARTS.search(text):
        return False
    # "That one is easy" counts nothing.
    said = {token for token in _tokens(text, ignored="" if answer == "1" else "one") if token.isdigit()}
    others = said - set(_tokens(question.text)) - {answer}
    return answer in said and all(_is_only_denied(_number_pattern(other), plain(text)) for other in others)


def _is_only_denied(number: re.Pattern[str], shown: str) -> bool:
    """Whether a number stands in a text, and behind a denial wherever it does."""
    places = list(number.finditer(shown))
    return bool(places) and all(_has_denial_before(shown, place) for place in places)


def _has_denial_before(shown: str, place: re.Match[str]) -> bool:
    return DENIAL.search(shown[max(0, place.start() - DENIAL_REACH) : place.start()]) is not None


def _is_denied(answer: re.Pattern[str], shown: str) -> bool:
    """Whether any place that says the answer has a denial in front of it or behind."""
    return any(
        _has_denial_before(shown, place) or DENIED_BEHIND.match(shown, place.end()) for place in answer.finditer(shown)
    )


@functools.cache
def lucky_answer() -> float:
    """Return how likely a random question's answer is right for another random question of the table."""
    shown = [question.answers[0] for question in table()]
    return sum(shown.count(answer) for question in table() for answer in question.answers) / len(shown) ** 2


@functools.cache
def _words_of_questions() -> tuple[tuple[str, frozenset[str]], ...]:
    return tuple((question.text, _stems(question.text)) for question in table())


def _share_said(words: frozenset[str], said: frozenset[str]) -> float:
    return len(words & said) / len(words)


def _stems(text: str) -> frozenset[str]:
    return frozenset(map(_stem, _tokens(text))) - SMALL


@functools.lru_cache(maxsize=4096)
def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _tokens(text: str, *, ignored: str = "") -> list[str]:
    for sign, name in SIGNS:
        text = sign.sub(name, text)
    words = [part for word in words_in(text) for part in word.split("-")]
    return [SAME_WORDS.get(word, word) for word in words if word != ignored]


@functools.cache
def _answer_patterns(question: Question) -> tuple[re.Pattern[str], re.Pattern[str]]:
    said = set(words_in(question.text))
    others = {answer for other in table() if other.kind == question.kind for answer in other.answers}
    others = {other for other in others - set(question.answers) if not said & set(words_in(other))}
    return _any_of(question.answers), _any_of(sorted(others))


@functools.lru_cache(maxsize=1024)
def _number_pattern(answer: str) -> re.Pattern[str]:
    return _any_of([word for word, number in SAME_WORDS.items() if number == answer] + [answer])


def _any_of(phrases: Sequence[str]) -> re.Pattern[str]:
    choices = "|".join(r"\s+".join(map(re.escape, plain(phrase).split())) for phrase in phrases)
    return re.compile(rf"(?<![^\W_])(?:{choices})(?:s|es)?(?![^\W_])" if choices else r"(?!)")
