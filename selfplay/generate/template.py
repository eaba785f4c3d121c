"""What a chat template puts around messages, read off the template itself; and tokenising what people say.

A template is a program.  It is rendered with marker words as contents, cut at the markers, and what lies between
them is the scaffold.  Templates that change old messages when new ones come are refused: a stream is append-only.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from selfplay.dialog import Tokens
from selfplay.errors import UserError

# A part of a stream before it is tokenised: ids of control tokens, and plain text.
Pieces = tuple[int | str, ...]
Message = dict[str, str]

# Contents that no template contains, put in to see where a template puts them.
BRIEF_MARK = "Qbriefq"
TURN_MARKS = ("Qfirstq", "Qsecondq", "Qthirdq", "Qfourthq", "Qfifthq")  # user, assistant, user, ...
MARGIN = " \t\n \t"  # white space that no template has of its own
# Contents of the final check: punctuation, digits, accents, an emoji, a line break.
PROBES = (
    "You are Ann. Say one thing.",
    "Hi! How's 2024?",
    "Fine, thanks -- a naïve café 😀.",
    "Two lines:\nthis is one",
    "I'd go there; would you?",
    "No.",
)
EMPTY_REASONING = re.compile(r"\s*<([^<>/]+)>\s*</\1>\s*")
# Reasoning off: Qwen's word for it, then DeepSeek's and Granite's.  A fixed day, that of Llama 3.1's template: one that
# asks the clock would give other tokens tomorrow.  Templates ignore what they don't know.
TEMPLATE_WORDS: dict[str, Any] = {"enable_thinking": False, "thinking": False, "date_string": "26 Jul 2024"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaffold:
    """What a template puts around messages."""

    opening: Pieces  # before the brief
    brief_to_user: Pieces  # between the brief and the first user message
    user_to_reply: Pieces  # between a user message and the reply to it
    reasoning: Pieces  # the empty reasoning block of the generation prompt, where there is one
    reply_to_user: Pieces  # between a reply's end-of-turn token and the next user message
    end_of_turn: int  # the token that closes a reply
    reply_lead: str  # white space the template puts before a reply; the model says it itself
    reply_tail: str  # white space the template puts behind a reply; the same
    trims: bool  # whether white space around contents is dropped
    has_system: bool  # False: the brief stands at the start of the first user message

    @property
    def user_can_stop(self) -> bool:
        """Whether the same token closes user messages, so that a model can play the user too."""
        return bool(self.user_to_reply) and self.user_to_reply[0] == self.end_of_turn

    def reply(self, text: str) -> Pieces:
        """Return a reply as the template shows it, up to its end-of-turn token."""
        return self.reply_lead + text + self.reply_tail, self.end_of_turn


class Encoder:
    """Tokenises scaffold and contents apart: control tokens come from the scaffold only."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, controls: Mapping[str, int], prefix: Sequence[int] = ()
    ) -> None:
        """Take the tokenizer apart.

        controls: the text of every control token -> its id; prefix: ids that stand before every stream.
        """
        self.controls = controls
        added = backend(tokenizer).get_added_tokens_decoder()
        self._strips_left = {id for id in controls.values() if id in added and added[id].lstrip}
        self._strips_right = {id for id in controls.values() if id in added and added[id].rstrip}
        self._prefix = tuple(prefix)
        self._first, self._within = _without_controls(backend(tokenizer), frozenset(controls.values()))
        alternatives = "|".join(re.escape(text) for text in sorted(controls, key=len, reverse=True))
        self._pattern = re.compile(f"({alternatives})" if alternatives else r"(?!)")

    def pieces(self, scaffold_text: str) -> Pieces:
        """Split scaffold text at its control tokens."""
        parts = self._pattern.split(scaffold_text)
        return tuple(self.controls.get(part, part) for part in parts if part)

    def encode(self, pieces: Iterable[int | str], *, begins: bool = False) -> Tokens:
        """Return the ids of pieces; neighbouring texts are tokenised as one, as the tokenizer itself would.

        begins: the pieces begin a stream, where some tokenizers put a space before the text.
        """
        ids: list[int] = []
        text = ""
        strips = False
        for piece in (*pieces, -1):
            if isinstance(piece, str):
                text += piece
                continue
            if strips:
                text = text.lstrip()
            if piece in self._strips_left:
                text = text.rstrip()
            if text:
                plain = self._first if begins and not ids else self._within
                ids.extend(plain.encode(text, add_special_tokens=False).ids)
            if piece >= 0:
                ids.append(piece)
            strips = piece in self._strips_right
            text = ""
        return np.array([*self._prefix, *ids] if begins else ids, dtype=np.int32)


def backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return the tokenizers library's object behind a transformers tokenizer."""
    found = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(found, Tokenizer):
        raise UserError(
            f"tokenizer {type(tokenizer).__name__} of {tokenizer.name_or_path!r} is not backed by the tokenizers "
            "library; save it as tokenizer.json first"
        )
    return found


def control_tokens(tokenizer: PreTrainedTokenizerBase, scaffold_text: str = "") -> dict[str, int]:
    """Return text -> id of all special tokens, and of other added tokens that the scaffold uses.

    Added tokens of white space (Gemma has them) are no controls: they mean the same in contents.
    """
    added = backend(tokenizer).get_added_tokens_decoder()
    used = {id for id, token in added.items() if token.content.strip() and token.content in scaffold_text}
    return {token.content: id for id, token in added.items() if token.special or id in used}


def read_scaffold(tokenizer: PreTrainedTokenizerBase, *, model_name: str) -> tuple[Scaffold, Encoder]:
    """Return the scaffold of a tokenizer's chat template, checked token for token against a full render.

    Raises UserError, naming the model and the first differing token, if the template is not append-only.
    """
    try:
        texts, has_system = _texts(tokenizer, has_system=True), True
    except Exception as with_system:  # noqa: BLE001 (a template is a program, and may raise anything)
        try:
            texts, has_system = _texts(tokenizer, has_system=False), False
        except Exception as error:
            reason = error if isinstance(error, _NotAppendOnlyError) else with_system
            raise UserError(f"model {model_name!r} cannot be used for dialog: its chat template {reason}") from error
    encoder = Encoder(tokenizer, controls=control_tokens(tokenizer, "".join(texts.all)))
    closing = texts.reply_to_user.lstrip()
    after_reply = encoder.pieces(closing)
    if not after_reply or not isinstance(after_reply[0], int):
        raise UserError(
            f"model {model_name!r} cannot be used for dialog: its chat template closes a reply with the text "
            f"{texts.reply_to_user[:20]!r}, not with an end-of-turn token"
        )
    scaffold = Scaffold(
        opening=encoder.pieces(texts.opening),
        brief_to_user=encoder.pieces(texts.brief_to_user),
        user_to_reply=encoder.pieces(texts.user_to_reply),
        reasoning=encoder.pieces(texts.reasoning),
        reply_to_user=after_reply[1:],
        end_of_turn=after_reply[0],
        reply_lead=texts.reply_lead,
        reply_tail=texts.reply_to_user.removesuffix(closing),
        trims=texts.trims,
        has_system=has_system,
    )
    _check(tokenizer, scaffold, encoder, model_name)
    return scaffold, encoder


class _NotAppendOnlyError(Exception):
    """A template shows old messages differently once new ones are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texts:
    opening: str
    brief_to_user: str
    user_to_reply: str
    reasoning: str
    reply_to_user: str
    reply_lead: str
    trims: bool

    @property
    def all(self) -> tuple[str, ...]:
        return self.opening, self.brief_to_user, self.user_to_reply, self.reasoning, self.reply_to_user


def _texts(tokenizer: PreTrainedTokenizerBase, *, has_system: bool) -> _Texts:
    messages = _messages(BRIEF_MARK, TURN_MARKS, has_system=has_system)
    first = len(messages) - 4  # messages up to and including the first user message
    prompts = [_render(tokenizer, messages[:end]) for end in (first, first + 2, first + 4)]
    for short, long in pairwise(prompts):
        _check_prefix(tokenizer, short, long)
    marks = (BRIEF_MARK, *TURN_MARKS)
    parts = re.split("|".join(marks), prompts[-1])
    if [prompts[-1].count(mark) for mark in marks] != [1] * len(marks) or len(parts) != len(marks) + 1:
        raise _NotAppendOnlyError("does not show every message exactly once")
    opening, brief_to_user, *turns, prompt = parts
    if turns[0] != turns[2] or turns[1] != turns[3]:
        _raise_difference(tokenizer, turns[0] + turns[1], turns[2] + turns[3])
    user_to_reply, reasoning, lead = _split_prompt(tokenizer, history=turns[0], prompt=prompt)
    wide = MARGIN + TURN_MARKS[0] + MARGIN
    trims = wide not in _render(tokenizer, _messages(BRIEF_MARK, (wide,), has_system=has_system))
    return _Texts(
        opening=opening,
        brief_to_user=brief_to_user,
        user_to_reply=user_to_reply,
        reasoning=reasoning,
        reply_to_user=turns[1],
        reply_lead=lead,
        trims=trims,
    )


def _messages(brief: str, turns: Sequence[str], *, has_system: bool) -> list[Message]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    if has_system:
        return [{"role": "system", "content": brief}, *messages]
    messages[0] = {"role": "user", "content": f"{brief}\n\n{turns[0]}"}
    return messages


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    rendered: Any = tokenizer.apply_chat_template(
        list(messages), tokenize=False, add_generation_prompt=True, **TEMPLATE_WORDS
    )
    return cast(str, rendered)


def _check_prefix(tokenizer: PreTrainedTokenizerBase, short: str, long: str) -> None:
    if long.startswith(short):
        return
    shared = next(i for i in range(len(short) + 1) if i == len(short) or long[i : i + 1] != short[i])
    # The empty reasoning block may start with characters that the longer render has too.
    if not any(EMPTY_REASONING.fullmatch(short[i:]) for i in range(shared + 1)):
        _raise_difference(tokenizer, short, long)


def _split_prompt(tokenizer: PreTrainedTokenizerBase, *, history: str, prompt: str) -> tuple[str, str, str]:
    """Return what stands before a reply, the empty reasoning block, and the white space a reply begins with."""
    if prompt.startswith(history) and (prompt == history or EMPTY_REASONING.fullmatch(prompt[len(history) :])):
        return history, prompt[len(history) :], ""
    if history.startswith(prompt) and not history[len(prompt) :].strip():
        return prompt, "", history[len(prompt) :]
    _raise_difference(tokenizer, history, prompt)
    raise AssertionError("unreachable: equal texts were handled above")


def _raise_difference(tokenizer: PreTrainedTokenizerBase, before: str, after: str) -> None:
    tokens = [
        tokenizer.convert_ids_to_tokens(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in (before, after)
    ]
    raise _NotAppendOnlyError(f"rewrites earlier messages: {_first_difference(*tokens)}")


def _first_difference(before: Sequence[Any], after: Sequence[Any]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    old, new = (tokens[at] if at < len(tokens) else "nothing" for tokens in (before, after))
    return f"token {at} is {old!r} before and {new!r} after"


def _check(tokenizer: PreTrainedTokenizerBase, scaffold: Scaffold, encoder: Encoder, model_name: str) -> None:
    """Compare a stream of ours with the tokenizer's own render of the same messages."""
    rendered = _render(tokenizer, _messages(PROBES[0], PROBES[1:], has_system=scaffold.has_system))
    theirs = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    runs: list[Pieces] = [(*scaffold.opening, PROBES[0], *scaffold.brief_to_user)]
    for user, reply in ((PROBES[1], PROBES[2]), (PROBES[3], PROBES[4])):
        runs[-1] += (user, *scaffold.user_to_reply, *scaffold.reply(reply))
        runs.append((scaffold.end_of_turn, *scaffold.reply_to_user))
    runs[-1] += (PROBES[5], *scaffold.user_to_reply, *scaffold.reasoning)
    # As in a stream, each run is tokenised apart, and knows of those before it only the end-of-turn token.
    ours = encoder.encode(runs[0], begins=True).tolist()
    for run in runs[1:]:
        ours += encoder.encode(run)[1:].tolist()
    if ours != theirs:
        names = [tokenizer.convert_ids_to_tokens(ids) for ids in (theirs, ours)]
        raise UserError(
            f"model {model_name!r} cannot be used for dialog: its chat template, put together from parts, is not what "
            f"its tokenizer makes of the whole: {_first_difference(*names)}"
        )


def _without_controls(tokenizer: Tokenizer, controls: frozenset[int]) -> tuple[Tokenizer, Tokenizer]:
    """Return copies, for the beginning of a stream and for later, that take control tokens for ordinary text.

    Control tokens are renamed, not removed, so that every other token keeps its id.
    """
    description = json.loads(tokenizer.to_str())
    secret = secrets.token_hex(16)
    names = {t["content"]: f"{secret}-{t['id']}" for t in description["added_tokens"] if t["id"] in controls}
    for token in description["added_tokens"]:
        if token["id"] in controls:
            token.update(content=names[token["content"]], lstrip=False, rstrip=False, normalized=False)
    _rename(description["model"], names)
    description.update(post_processor=None, truncation=None, padding=None)
    first = within = Tokenizer.from_str(json.dumps(description))
    starts = [step for step in _steps(description["pre_tokenizer"]) if step.get("prepend_scheme") == "first"]
    if starts:
        for step in starts:
            step["prepend_scheme"] = "never"
        within = Tokenizer.from_str(json.dumps(description))
    for token in description["added_tokens"]:
        if token["id"] not in controls and within.token_to_id(token["content"]) != token["id"]:
            raise UserError(f"the added token {token['content']!r} would change its id if control tokens were split")
    return first, within


def _rename(model: dict[str, Any], names: Mapping[str, str]) -> None:
    """Rename tokens in a vocabulary, and drop the merges that make them: many vocabularies hold control tokens.

    Single characters stay: they may be letters of the alphabet that everything else is made of.
    """
    names = {old: new for old, new in names.items() if len(old) > 1}
    vocab = model["vocab"]
    if isinstance(vocab, list):
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocab]
        return
    model["vocab"] = {names.get(piece, piece): id for piece, id in vocab.items()}
    if "unk_token" in model:
        model["unk_token"] = names.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [(a, b) for a, b in model["merges"] if names.keys().isdisjoint((a, b, a + b))]


def _steps(pre_tokenizer: dict[str, Any] | None) -> list[dict[str, Any]]:
    if pre_tokenizer is None:
        return []
    return cast("list[dict[str, Any]]", pre_tokenizer.get("pretokenizers", [pre_tokenizer]))
