"""What a message says, read on word boundaries: words, inflections and bracketed moves.

Games read moves such as ``[offer] 120`` out of free text.  The reading is forgiving about form (case, brackets or
parentheses, a colon, where the argument stands, Markdown around it) and never guesses between two meanings: a message
with two different moves has none.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201b": "'", "\u02bc": "'", "\u201c": '"', "\u201d": '"'})
WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")
VOWELS = "aeiou"
# Nothing in the pattern can match the same blanks twice: ten thousand of them take no longer than other characters.
MOVE = r"[\[(<{{][^\S\n]{{0,9}}(?P<kind>{kinds})(?P<inside>[^\[\](){{}}<>\n]*)[\])>}}]"
BRACKETS = str.maketrans(dict.fromkeys("[](){}<>", " "))
AROUND = " \t*_:=\"'"  # what may stand around an argument
MARKS = str.maketrans(dict.fromkeys('*_`"', " "))  # of emphasis and of quotation
CONDITIONS = frozenset(("if", "unless", "only", "except", "provided"))
BUT = re.compile(r"(?<![^\W_])but(?![^\W_])")
# Behind a refusal a "not" confirms it: "[reject] not for me".  Behind an agreement it may: "[accept] not a bad deal".
# Of every other move it stands before the argument, and denies it: "[guess] not a cat".
REFUSALS = frozenset(("reject", "walk"))
AGREEMENTS = frozenset(("accept",))
LOOK_BEHIND = 90  # characters before a move that say whether it is meant

# What may stand between a word that denies or asks, and the move; each text is made of these in one way only.
_READY = "able|willing|ready|prepared|happy|going"
_TO = rf"(?:want|wish|like|love|need|have|try|dare|plan|intend|agree|{_READY})(?: (?:me|us|you))? to"
_FILL = rf"{_TO}|to|just|ever|even|really|simply|now|then|also|maybe|perhaps|please|kindly|already|yet|still|always"
_AUXILIARY = "can|could|will|would|shall|should|may|might|must|do|does|did"
_NOT = rf"(?:(?<!why )not|never|nor|cannot|(?:{_AUXILIARY}|ca|wo|sha|ai|is|are|was|were|need|have|has|had)n'?t)"
_UNSURE = (
    r"sure(?= (?:if|whether|that|i|we|to) )|(?:want|like)(?! (?:(?:me|us|you) )?to )|if|whether|that|think|believe"
)
# "I can't yet [accept]", "I refuse to [accept]": what is said right before a move that is not made.
DENIES_BEFORE = re.compile(
    rf"(?<!\w)(?:{_NOT}(?:\s+(?:{_FILL}|{_UNSURE}|say|mean|a|an|the|any|i|we|be|{_AUXILIARY}))*"
    rf"|(?:refuse|decline|unable|unwilling) to(?:\s+(?:{_FILL}))*|instead of|rather than)[\s']*$"
)
# "should I [guess]", "if you [accept]", "you could [accept]", "please [accept]".
ASKS_BEFORE = re.compile(
    rf"(?<!\w)(?:(?:{_AUXILIARY}|am|are|if|whether|when|unless|until|once|before|after|hope|wish|let) (?:i|we|you|they)"
    rf"(?:\s+(?:{_AUXILIARY}))?|you (?:{_AUXILIARY}|to)|(?:want|need|like|ask|beg) you|whether to|please|kindly)"
    rf"(?:\s+(?:{_FILL}|be(?= (?:{_READY}) )))*[\s']*$"
)
_NOT_NOW = r"(?:really|yet|now|today|that|it)(?!\w)(?! bad)|at all(?!\w)(?! bad)|a chance|interested|(?:good )?enough"
_ALONE = r"(?= ?(?:[^\w ]|$))"  # what follows is punctuation, or nothing
_NO = r"no,? (?:deal|wait|way|thanks|thank you|chance|sorry|sale)(?!\w)"
NEGATED_BEHIND = re.compile(r"[^\w?]*(?:not|never)(?!\w)")
REVOKED_BEHIND = re.compile(rf"[^\w?]*(?:not|never)(?:{_ALONE}| (?:{_NOT_NOW}))")
REFUSED_BEHIND = re.compile(rf"[^\w?]*(?:no{_ALONE}|{_NO})")
REFUSED_LATER = re.compile(rf"[^\w?] ?{_NO}{_ALONE}")  # "[accept] 120, no wait"
# "cat, not", "cat not", "I do not": never "why not", "or not", and "is it not?".
REVOKED_AT_END = re.compile(r"[^\w? ] ?not[^\w?]*$")
REVOKED_IN_SHORT = re.compile(r"[^\w?]*[^\W_]+(?: [^\W_]+)? (?<!why )(?<!or )(?<!if )not[^\w?]*$")
ASKED_BEHIND = re.compile(r"[ ,:=\])}>'.!-]*\?")
# What says behind a move no more than how sure one is of it.
DOUBTS = re.compile(
    r"[^\w\s] ?(?:(?:but|though) )?(?:(?:(?:i am|i'm) )?not (?:(?:100 ?%|quite|very|really|too|so|entirely|totally) )?"
    r"(?:sure|certain)|(?:right|correct|isn't it|is it not) ?(?=\?)|no doubt)(?= ?(?:[^\w\s]|$))",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A bracketed move in a message.

    Example: "I can do [Offer] $120." has ``Move(kind="offer", argument="$120.")``
    """

    kind: str  # as the game writes it, in lower case
    argument: str  # what stands inside the bracket behind the kind, or else behind the bracket on its line; may be ""
    behind: str = ""  # what stands behind the bracket on its line where the argument is inside: "[offer 120] or 130"


@functools.lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """Return a text in one form: compatibility characters, quotes and case do not matter any more."""
    return unicodedata.normalize("NFKC", text).translate(QUOTES).casefold()


@functools.lru_cache(maxsize=4096)
def words_in(text: str) -> tuple[str, ...]:
    """Return the words of a text in plain form; "don't" and "well-known" are one word each."""
    return tuple(WORD.findall(plain(text)))


@functools.lru_cache(maxsize=4096)
def forms_of(word: str) -> frozenset[str]:
    """Return an English word with its regular inflections: plural, possessive, -ed, -ing, -er and -est, -ly.

    The table is small on purpose: it takes "dogs", "dog's" and "running" for "dog" and "run", and never "dogma".
    """
    stem = plain(word).strip()
    if not stem:
        return frozenset()
    endings = {stem, f"{stem}s", f"{stem}'s", f"{stem}s'", f"{stem}es", f"{stem}ed", f"{stem}ing"}
    endings |= {f"{stem}er", f"{stem}ers", f"{stem}est", f"{stem}ly"}
    if stem.endswith("e"):
        endings |= {f"{stem}d", f"{stem}r", f"{stem}rs", f"{stem}st", f"{stem[:-1]}ing"}
    if stem.endswith("y") and stem[-2:-1] not in VOWELS:
        endings |= {f"{stem[:-1]}{ending}" for ending in ("ies", "ied", "ier", "iers", "iest", "ily")}
    if len(stem) > 2 and stem[-1] not in f"{VOWELS}wxy" and stem[-2] in VOWELS and stem[-3] not in VOWELS:
        endings |= {f"{stem}{stem[-1]}{ending}" for ending in ("ed", "ing", "er", "ers", "est")}
    return frozenset(endings)


def says(text: str, phrase: str, *, inflected: bool = True) -> bool:
    """Whether a text holds a word or phrase on word boundaries, the last word in any regular inflection.

    A phrase of several words is found across spaces, hyphens and line breaks.
    """
    return _pattern(phrase, inflected).search(plain(text)) is not None


@functools.lru_cache(maxsize=4096)
def _pattern(phrase: str, inflected: bool) -> re.Pattern[str]:
    *first, last = plain(phrase).replace("-", " ").split() or [""]
    if not last:
        return re.compile(r"(?!)")
    forms = sorted(forms_of(last) if inflected else {last}, key=len, reverse=True)
    parts = [*map(re.escape, first), f"(?:{'|'.join(map(re.escape, forms))})"]
    return re.compile(r"(?<![^\W_])" + r"[\s_-]+".join(parts) + r"(?![^\W_])")


def moves_in(text: str, kinds: Sequence[str]) -> tuple[Move, ...]:
    """Return the bracketed moves of a message, in order, each as often as it stands there.

    Read are ``[offer] 120``, ``[offer 120]``, ``[Offer: 120]``, ``(offer) 120``, ``[offer] [120]`` and
    ``**[offer]** 120``.  Whether a move is meant says `is_denied`.
    """
    return _moves_in(text, tuple(kinds))


def only_move(text: str, kinds: Sequence[str]) -> Move | None:
    """Return the one move of a message; None: it has none, or two that differ.

    The same move said twice is one; ``[offer] 120 ... [accept]`` and ``[offer] 120 ... [offer] 130`` are none.  Use
    `moves_in` to tell no move from too many.
    """
    moves = moves_in(text, kinds)
    different = {(move.kind, plain(move.argument).strip(" .,!;")) for move in moves}
    return moves[0] if len(different) == 1 else None


def is_denied(text: str, kinds: Sequence[str]) -> bool:
    """Whether a bracketed move of a message is negated, taken back at once, or asked about instead of made.

    Negated: "I do not [guess] cat", "I can't **[accept]** that", "I am not sure I can [accept]", "I refuse to
    [accept]".  Asked about, or asked of the other: "Should I [guess] cat?", "May I [offer] 120?", "will you [accept]?",
    "if you [accept]", "you could [accept]", "please [accept]", "[accept]?".

    Taken back is any move but a refusal (`REFUSALS`) by "not" or "never" right behind its bracket, if that stands alone
    or before one of a few words ("[accept] not", "[accept] not yet", "[guess cat], not really"), and by "not" at the
    end of the line behind punctuation or behind one or two words ("[guess] cat, not", "[guess] cat not", "[accept] I do
    not").  "not" or "never" right before an argument denies it whatever follows ("[guess] not a cat"), but not behind
    an agreement (`AGREEMENTS`), which needs no argument.  An agreement is taken back by "no" as well: by one that
    stands alone right behind it, and by "no way", "no deal", "no thanks", "no, wait" and the like right behind it or
    set apart by punctuation later on its line.

    Not taken back are refusals, and whatever a "not" elsewhere says: "[reject] not for me", "[accept] not a bad deal",
    "[accept] OK, why not", "[offer] 120. That is fair, is it not?", "[guess] cat, I am not sure".

    Made are moves whose argument is a question or part of one ("[guess] is it a cat?", "[guess] cat?", "Would you take
    [offer] 120?", "Is it [guess] cat?"), proposals ("Why not [guess] cat?"), and whatever a comma or a full stop parts
    from the word that denies or asks ("I am not sure, [guess] cat").  One denied move denies the message.
    """
    return _is_denied(text, tuple(kinds))


def has_condition(text: str) -> bool:
    """Whether a text says "if", "unless", "only", "except" or "provided"; "not" and "but" alone are no condition."""
    return not CONDITIONS.isdisjoint(words_in(text))


def behind_but(text: str) -> str:
    """Return what stands behind the first "but" of a text, in plain form; "": there is none."""
    return (*BUT.split(plain(text), maxsplit=1), "")[1]


def without_doubts(text: str) -> str:
    """Return a text without what says how sure one is: of "cat, I am not sure" and "cat, right?" is left the cat."""
    return DOUBTS.sub("", text.translate(QUOTES))


def is_taken_back(text: str) -> bool:
    """Whether a text that stands behind an agreement takes it back: "not", "not yet", "no, wait"."""
    text = " ".join(plain(text).split())
    return bool(REVOKED_BEHIND.match(text) or REFUSED_BEHIND.match(text))


@functools.lru_cache(maxsize=8192)
def _is_denied(text: str, kinds: tuple[str, ...]) -> bool:
    lines = (" ".join(line.split()) for line in plain(text).translate(MARKS).splitlines())
    line = "\n".join(filter(None, lines))
    matches = list(_move_pattern(kinds).finditer(line))
    starts, ends = [match.start() for match in matches], [match.end() for match in matches]
    spans = zip(matches, [0, *ends[:-1]], [*starts[1:], len(line)], strict=False)
    return any(
        _is_unmeant(line[max(start, match.start() - LOOK_BEHIND) : match.start()])
        or _is_undone(match["kind"], match["inside"], line[match.end() : end].partition("\n")[0])
        for match, start, end in spans
    )


def _is_unmeant(before: str) -> bool:
    return bool(DENIES_BEFORE.search(before) or ASKS_BEFORE.search(before))


def _is_undone(kind: str, inside: str, behind: str) -> bool:
    argument = inside if inside.strip(AROUND) else behind
    if ASKED_BEHIND.match(argument):
        return True
    if kind in REFUSALS:
        return False
    if kind in AGREEMENTS:
        return _is_agreement_undone(inside) or _is_agreement_undone(behind)
    return bool(NEGATED_BEHIND.match(argument) or REVOKED_BEHIND.match(behind) or _is_undone_at_end(behind))


def _is_agreement_undone(text: str) -> bool:
    return is_taken_back(text) or bool(REFUSED_LATER.search(text)) or _is_undone_at_end(text)


def _is_undone_at_end(text: str) -> bool:
    return bool(REVOKED_AT_END.search(text) or REVOKED_IN_SHORT.match(text))


@functools.lru_cache(maxsize=4096)
def _moves_in(text: str, kinds: tuple[str, ...]) -> tuple[Move, ...]:
    text = text.translate(QUOTES)
    matches = list(_move_pattern(kinds).finditer(text))
    ends = [*(match.start() for match in matches[1:]), len(text)]
    found = []
    for match, end in zip(matches, ends, strict=False):  # without a match there is an end all the same
        # An argument behind the bracket ends with its line, or where the next move begins.
        after = text[match.end() : end].partition("\n")[0].translate(BRACKETS).strip(AROUND)
        inside = match["inside"].strip(AROUND)
        argument, behind = (inside, after) if inside else (after, "")
        found.append(Move(kind=match["kind"].casefold(), argument=argument, behind=behind))
    return tuple(found)


@functools.cache
def _move_pattern(kinds: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(map(re.escape, sorted(kinds, key=len, reverse=True)))
    return re.compile(MOVE.format(kinds=rf"(?:{names})(?![^\W_])"), re.IGNORECASE)
