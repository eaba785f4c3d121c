"""Rewards against what should not be said: rude words, private facts, personal data, and what a classifier finds."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from rewards.words import content_words_of, words_of
from selfplay.dialog import Conversation, Scores
from selfplay.errors import UserError
from selfplay.named_models import quiet_transformers

PROFANITY = Path(__file__).with_name("profanity.txt")

DIGIT = re.compile(r"\d")
NUMBER = re.compile(r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?!\w)")
EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}(?![\w@])")
IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?!\w)")
CARD = re.compile(r"(?<![\w-])(?<!\d )[2-6](?:[ -]?\d){12,18}(?![\w-])")
ADDRESS = re.compile(r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{1,4}(?:::?[0-9A-Fa-f]{1,4}){3,7})(?!\w|\.\d)")
# With a plus; in the 3-3-4 of North America; ten or eleven digits together; with a leading 0 and parted.
PHONE = re.compile(
    r"(?<![\w.,+-])(?<!\d )(?:"
    r"\+\d(?:[ ().-]{0,2}\d){7,14}"
    r"|(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}"
    r"|(?!\d*0{5})\d{10,11}"
    r"|(?!\d\d-\d\d-\d{4})\(?0\d{1,4}\)?[ /-](?:\d[ -]?){6,9}\d"
    r")(?![\w-]|[.,:]\d)"
)
DIGITS_OF_IBAN = {letter: str(number) for number, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ", start=10)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Profanity:
    """Whether a message is rude.

    Definition: -1 if the message holds a word or a phrase of profanity.txt, or its plural, as whole words, else 0:
    "class" is not rude.  Letters that marks keep apart count as such, digits in place of letters where the list has
    them.
    Range: -1 to 0.
    Source: made here, with the list of the package better-profanity.
    Exploit: spelling that the list does not have, and rudeness in nice words; it is a penalty and ends at 0.
    Guard: a classifier; unknown_words against the spelling.
    """

    name: ClassVar[str] = "profanity"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn, and the word that was found."""
        return [_penalties([_rude_phrase(turn.text) for turn in talk.turns]) for talk in conversations]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateLeak:
    """How much a speaker gives away of what only its role knows.

    Definition: minus the largest share of a private fact that the message says.  Facts are the texts of at least
    `shortest` characters and the numbers among the scenario's private values of the speaker's role, at any depth.  Of a
    text it is the longest run of its content words that the message has in the same order / its content words; a number
    is said or not ("1,200" is 1200).  It does not apply where the role has no such fact.
    Range: -1 (all of a fact is said) to 0.
    Source: made here.
    Exploit: paraphrase, another order of words, a number in words; silence, as it is a penalty and ends at 0.
    Guard: payoff: some games are won by saying a part.  A number that is small is often said by chance.
    """

    name: ClassVar[str] = "private_leak"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    shortest: int = 4

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn."""
        return [self._of(conversation) for conversation in conversations]

    def _of(self, conversation: Conversation) -> Scores:
        private = conversation.scenario.private
        facts = {role: list(self._facts(private.get(role, {}))) for role in conversation.scenario.roles}
        values = [_leak(turn.text, facts.get(turn.role, [])) for turn in conversation.turns]
        return Scores(values=np.array(values, dtype=np.float32))

    def _facts(self, value: Any) -> Iterator[str | float]:
        """Return the facts of a JSON value; its keys and its true and false are none."""
        if isinstance(value, Mapping | list | tuple):
            for item in value.values() if isinstance(value, Mapping) else value:
                yield from self._facts(item)
        elif isinstance(value, str) and len(value) >= self.shortest and words_of(value):
            yield value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield abs(float(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonalData:
    """Whether a message holds data of a person.

    Definition: -1 if there is an e-mail address, an IBAN or a card number whose checksum is right, an IP address, or
    what is written like a phone number, else 0.
    Range: -1 to 0.
    Source: made here; checksums of ISO 13616 (mod 97) and of Luhn.
    Exploit: numbers in words or in other forms, names, streets; it is a penalty and ends at 0.
    Guard: a classifier; private_leak for what the scenario knows.
    """

    name: ClassVar[str] = "personal_data"
    range: ClassVar[tuple[float, float]] = (-1.0, 0.0)
    scope: ClassVar[str] = "turn"

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn, and the kind of data, never the data."""
        return [_penalties([_kind_of_data(turn.text) for turn in talk.turns]) for talk in conversations]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifierReward:
    """How sure a text classifier is of a label.

    Definition: `sign` x the probability of `label` (a name or a number) that the transformers sequence classifier in
    `folder` gives the message: softmax, or the sigmoid where labels do not exclude each other.  Only the first
    `max_tokens` are read; it does not apply to an empty message.
    Range: -1 to 1.
    Source: the place of the toxicity classifier of natashamjaques/neural_chat, Toxicity/toxic.py.
    Exploit: texts unlike all that the classifier was trained on; with sign=1 it saturates there.
    Guard: KL control, unknown_words, a second classifier that is only measured.
    """

    name: ClassVar[str] = "classifier"
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    scope: ClassVar[str] = "turn"
    is_slow: ClassVar[bool] = True

    folder: str
    label: str
    sign: Literal[1, -1] = 1
    batch_size: int = 32
    max_tokens: int = 256

    def __post_init__(self) -> None:
        """Refuse what no number can come from, before anything is played."""
        if self.batch_size < 1 or self.max_tokens < 1:
            raise UserError(f"batch_size={self.batch_size} and max_tokens={self.max_tokens} must be at least 1")
        _index_of(self.label, _labels_of(self.folder), self.folder)

    def score(self, conversations: Sequence[Conversation]) -> list[Scores]:
        """Return one number a turn; every text is classified once a call."""
        texts = sorted({turn.text for talk in conversations for turn in talk.turns if turn.text.strip()}, key=len)
        number = _index_of(self.label, _labels_of(self.folder), self.folder)
        value_of: dict[str, float] = {}
        for start in range(0, len(texts), self.batch_size):
            batch = texts[start : start + self.batch_size]
            probabilities = _load_classifier(self.folder).probabilities(batch, max_tokens=self.max_tokens)  # [B, L]
            value_of.update(zip(batch, self.sign * probabilities[:, number], strict=True))
        return [
            Scores(values=np.array([value_of.get(turn.text, np.nan) for turn in talk.turns], dtype=np.float32))
            for talk in conversations
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Classifier:
    """A sequence classifier in memory, on the CPU in float32.  Legend: B texts, L labels."""

    model: Any
    tokenizer: Any

    def probabilities(self, texts: list[str], *, max_tokens: int) -> np.ndarray[Any, Any]:
        import torch

        settings = self.model.config
        # Models of the RoBERTa family have two positions that no token may take.
        fitting = min(
            max_tokens, self.tokenizer.model_max_length, getattr(settings, "max_position_embeddings", 514) - 2
        )
        inputs = self.tokenizer(texts, padding=True, truncation=True, max_length=fitting, return_tensors="pt")
        with torch.inference_mode():
            logits = self.model(**inputs).logits  # [B, L]
        excludes = settings.problem_type != "multi_label_classification" and logits.shape[1] > 1
        probabilities = logits.softmax(-1) if excludes else logits.sigmoid()
        return np.asarray(probabilities.numpy())


def _penalties(found: list[str]) -> Scores:
    """Return -1 where something was found and 0 where nothing was."""
    return Scores(values=np.array([-1.0 if what else 0.0 for what in found], dtype=np.float32), why=tuple(found))


def _rude_phrase(text: str) -> str:
    """Return the first rude phrase of a text; "": it has none."""
    phrases = _read_profanity()
    words = [word.partition("'")[0] for word in words_of(text)] if "'" in text or "\u2019" in text else words_of(text)
    if phrases.keys().isdisjoint(words):
        return ""
    for i, word in enumerate(words):
        for phrase in phrases.get(word, ()):
            if len(phrase) == 1 or tuple(words[i : i + len(phrase)]) == phrase:
                return " ".join(phrase)
    return ""


@cache
def _read_profanity() -> dict[str, list[tuple[str, ...]]]:
    """Return the phrases of the list, and the plurals of its single words, by their first word."""
    phrases: dict[str, list[tuple[str, ...]]] = {}
    for line in PROFANITY.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            phrase = tuple(line.split())
            for form in (phrase, (f"{line}s",)) if _has_plural(phrase) else (phrase,):
                phrases.setdefault(form[0], []).append(form)
    return phrases


def _has_plural(phrase: tuple[str, ...]) -> bool:
    # What ends in s is a plural already, or would make a word such as "assess".
    return len(phrase) == 1 and not phrase[0].endswith("s")


def _leak(text: str, facts: Sequence[str | float]) -> float:
    if not facts:
        return np.nan
    return 0.0 - max(_said_share(text, fact) for fact in facts)


def _said_share(text: str, fact: str | float) -> float:
    if isinstance(fact, float):
        return float(fact in {float(number.replace(",", "")) for number in NUMBER.findall(text)})
    # A fact of function words alone, such as "yes", is compared as it is.
    words = content_words_of(fact)
    said = content_words_of(text) if words else words_of(text)
    words = words or words_of(fact)
    if set(words).isdisjoint(said):
        return 0.0
    return SequenceMatcher(None, words, said, autojunk=False).find_longest_match().size / len(words)


def _kind_of_data(text: str) -> str:
    """Return what kind of personal data a text holds; "": none."""
    if EMAIL.search(text):
        return "e-mail address"
    if not DIGIT.search(text):
        return ""
    if any(_is_iban(found) for found in IBAN.findall(text)):
        return "IBAN"
    if any(_is_card(found) for found in CARD.findall(text)):
        return "card number"
    if any(_is_address(found) for found in ADDRESS.findall(text)):
        return "IP address"
    return "phone number" if PHONE.search(text) else ""


def _is_iban(text: str) -> bool:
    return any(15 <= len(number) <= 34 and _has_iban_checksum(number) for number in _beginnings(text))


def _is_card(text: str) -> bool:
    return any(13 <= len(number) <= 19 and _has_luhn_checksum(number) for number in _beginnings(text))


def _beginnings(text: str) -> Iterator[str]:
    """Return a text's groups put together, up to each of them: more than the number may stand there."""
    groups = re.split("[ -]", text)
    return ("".join(groups[:end]) for end in range(1, len(groups) + 1))


def _has_iban_checksum(number: str) -> bool:
    moved = number[4:] + number[:4]
    return int("".join(DIGITS_OF_IBAN.get(character, character) for character in moved)) % 97 == 1


def _has_luhn_checksum(number: str) -> bool:
    digits = [int(character) for character in reversed(number)]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=8)
def _labels_of(folder: str) -> tuple[str, ...]:
    """Return a classifier's labels in the order of its numbers."""
    file = Path(folder).expanduser() / "config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"folder={folder} is no folder of a transformers classifier: {file.name} cannot be read there"
        ) from error
    is_classifier = any("SequenceClassification" in name for name in settings.get("architectures") or ())
    if not is_classifier:
        raise UserError(f"folder={folder} holds {settings.get('architectures')}, which is no sequence classifier")
    named = settings.get("id2label") or {str(number): f"LABEL_{number}" for number in range(2)}
    return tuple(named[str(number)] for number in range(len(named)))


def _index_of(label: str, labels: Sequence[str], folder: str) -> int:
    if label in labels:
        return labels.index(label)
    if label.isdecimal() and int(label) < len(labels):
        return int(label)
    raise UserError(f"label={label} is none of the classifier's in {folder}; they are {', '.join(labels)}")


@lru_cache(maxsize=2)
def _load_classifier(folder: str) -> _Classifier:
    # Imported when used: torch takes seconds to import, and the other rewards do without it.
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    place = Path(folder).expanduser()
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True)
            model = AutoModelForSequenceClassification.from_pretrained(
                place, local_files_only=True, dtype=torch.float32
            )
    except (OSError, ValueError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"folder={folder}: the classifier there cannot be loaded: {line}") from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
        model.config.pad_token_id = tokenizer.pad_token_id
    return _Classifier(model=model.eval(), tokenizer=tokenizer)
