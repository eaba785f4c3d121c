"""A dialog as the tokens that a language model reads, and where each message of the focus role ends.

The focus role is the assistant of the model's chat template, what reached it the user.  The tokens are those of
``tokenizer.apply_chat_template(dialog_to_messages(dialog))``, with these exceptions:
  * control tokens in what people say are split, so nobody can close a message by its text;
  * messages that reached the role one after another are one message of several lines;
  * where the role speaks first, or twice in a row, what plays say stands between: OPENER, or an empty message;
  * what is too long loses its oldest exchanges, and an exchange that alone is too long its beginning; the opening, with
    the instructions in it, stays, up to half of the room;
  * no reasoning block is put in; a reply ends with its end-of-turn token, also where the template, of a last reply,
    leaves that out (GLM), or has more behind it than between messages (Phi 3).
A model without a chat template gets lines of ``User: text`` and ``Assistant: text``.

Legend: N tokens of a dialog.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import numpy as np
from transformers import PreTrainedTokenizerBase

from selfplay.dialog import OPENER, Tokens
from selfplay.errors import UserError
from selfplay.generate.template import (
    TEMPLATE_WORDS,
    Encoder,
    Pieces,
    Scaffold,
    control_tokens,
    read_scaffold,
)
from selfplay.reward_model.dialogs import Dialog, Message
from selfplay.reward_model.settings import Scope

__all__ = ["DialogTokens", "Stream"]

NUM_REMEMBERED = 4096  # dialogs whose tokens stay in memory
# Contents that no template contains, put in to see where a template puts them.
USER_MARK, REPLY_MARK = "Quserq", "Qreplyq"
LINE_BREAKS = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """The tokens of one dialog."""

    tokens: Tokens  # [N]
    places: tuple[int, ...]  # where a number is read: scope "turn": the end of each focus message; else of the dialog
    is_truncated: bool = False  # whether old messages were cut off to fit


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exchange:
    """What reached the focus role, and its reply; the last one of a dialog may have none."""

    heard: str
    reply: str | None


class _Format(Protocol):
    """How exchanges stand in a stream."""

    @property
    def before(self) -> Pieces:
        """What stands before each exchange but the first, and was said in the one before."""
        ...

    @property
    def tail(self) -> Pieces:
        """What stands behind a last reply, and belongs to the next exchange of every other."""
        ...

    def opening(self, system: str) -> Pieces:
        """What stands before the first exchange: instructions, and whatever announces it."""
        ...

    def first(self, exchange: _Exchange, *, system: str) -> Pieces: ...
    def next(self, exchange: _Exchange) -> Pieces: ...


class DialogTokens:
    """Makes tokens of dialogs for one model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, model_name: str, scope: Scope, max_tokens: int) -> None:
        """Derive the format.

        max_tokens: a dialog that has more loses its oldest messages.
        Raises UserError for a chat template that cannot be used for dialog.
        """
        self.scope = scope
        self.max_tokens = max_tokens
        self._format, self._encoder = _choose_format(tokenizer, model_name)
        self._tail: list[int] = self._encode(self._format.tail).tolist()
        # Training reads the same dialogs again in each epoch.
        self._remembered = functools.lru_cache(maxsize=NUM_REMEMBERED)(self._stream)

    def stream(self, dialog: Dialog) -> Stream:
        """Return a dialog's tokens.  Raises UserError if the focus role says nothing in it."""
        return self._remembered(dialog)

    @property
    def final_tokens(self) -> frozenset[int]:
        """Tokens at which a number may be read, as far as a template decides them: never to be taken for padding."""
        replied, heard = (
            self._encode(self._format.next(_Exchange(heard="a", reply=reply))).tolist() for reply in ("a", None)
        )
        return frozenset([*replied[-1:], *heard[-1:], *self._tail[-1:]])

    def _stream(self, dialog: Dialog) -> Stream:
        exchanges = _exchanges(dialog.messages)
        if self.scope == "turn" and exchanges and exchanges[-1].reply is None:
            # What was said later says nothing of a turn.
            del exchanges[-1]
        if not any(exchange.reply is not None for exchange in exchanges):
            raise UserError("a dialog in which the judged role says nothing cannot be scored")
        later = [self._encode(self._format.next(exchange)) for exchange in exchanges[1:]]
        for start in range(len(exchanges)):
            opening = self._format.first(exchanges[start], system=dialog.system)
            runs = [self._encoder.encode(opening, begins=True), *later[start:]]
            num = sum(map(len, runs)) + len(self._tail) * (exchanges[-1].reply is not None)
            if num <= self.max_tokens:
                break
        return self._cut(self._join(runs, exchanges[start:]), system=dialog.system, is_truncated=start > 0)

    def _join(self, runs: Sequence[Tokens], exchanges: Sequence[_Exchange]) -> Stream:
        has_reply = exchanges[-1].reply is not None
        tokens = np.concatenate([*runs, np.array(self._tail if has_reply else [], dtype=np.int32)])
        if self.scope == "conversation":
            return Stream(tokens=tokens, places=(len(tokens) - 1,))
        ends = np.cumsum([len(run) for run in runs]) + len(self._tail) - 1
        return Stream(tokens=tokens, places=tuple(ends.tolist()))

    def _cut(self, stream: Stream, *, system: str, is_truncated: bool) -> Stream:
        """Return a stream whose last exchange alone is too long without that one's beginning."""
        lost = max(len(stream.tokens) - self.max_tokens, 0)
        if not lost:
            return replace(stream, is_truncated=is_truncated)
        opening = self._encoder.encode(self._format.opening(system), begins=True)[: self.max_tokens // 2]
        # Where the text behind it changes its last tokens, those belong to the text.
        kept = next((place for place, token in enumerate(opening) if token != stream.tokens[place]), len(opening))
        return Stream(
            tokens=np.concatenate([stream.tokens[:kept], stream.tokens[kept + lost :]]),
            places=tuple(place - lost for place in stream.places),
            is_truncated=True,
        )

    def _encode(self, pieces: Pieces) -> Tokens:
        before = self._format.before
        # A control token goes along because it may swallow the white space behind it.
        return self._encoder.encode((*before, *pieces))[len(before) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class _TemplateFormat:
    """Messages as the model's chat template shows them."""

    scaffold: Scaffold
    plain_opening: Pieces  # before the first user message, where no instructions stand before it
    user_tail: Pieces  # behind a last user message
    tail: Pieces

    @property
    def before(self) -> Pieces:
        return (self.scaffold.end_of_turn,)

    def first(self, exchange: _Exchange, *, system: str) -> Pieces:
        return (*self.opening(system), self._trim(exchange.heard) or OPENER, *self._reply(exchange))

    def next(self, exchange: _Exchange) -> Pieces:
        return (*self.scaffold.reply_to_user, self._trim(exchange.heard), *self._reply(exchange))

    def opening(self, system: str) -> Pieces:
        if not system:
            return self.plain_opening
        between = self.scaffold.brief_to_user if self.scaffold.has_system else ("\n\n",)
        return (*self.scaffold.opening, self._trim(system), *between)

    def _reply(self, exchange: _Exchange) -> Pieces:
        if exchange.reply is None:
            return self.user_tail
        return (*self.scaffold.user_to_reply, *self.scaffold.reply(self._trim(exchange.reply)))

    def _trim(self, text: str) -> str:
        return text.strip() if self.scaffold.trims else text


class _NameFormat:
    """Lines of ``Name: text`` for models without a chat template."""

    before: Pieces = ()
    tail: Pieces = ()

    def opening(self, system: str) -> Pieces:
        return (f"{system.strip()}\n\n" if system else "",)

    def first(self, exchange: _Exchange, *, system: str) -> Pieces:
        return (*self.opening(system), *self.next(exchange))

    def next(self, exchange: _Exchange) -> Pieces:
        heard = _line("User", exchange.heard) if exchange.heard else ""
        return (heard + ("" if exchange.reply is None else _line("Assistant", exchange.reply)),)


def _line(name: str, text: str) -> str:
    return f"{name}: {LINE_BREAKS.sub(' ', text).strip()}\n"


def _exchanges(messages: Sequence[Message]) -> list[_Exchange]:
    found: list[_Exchange] = []
    heard: list[str] = []
    for message in messages:
        if message.is_focus:
            found.append(_Exchange(heard="\n".join(heard), reply=message.text))
            heard = []
        else:
            heard.append(message.text)
    return [*found, _Exchange(heard="\n".join(heard), reply=None)] if heard else found


def _choose_format(tokenizer: PreTrainedTokenizerBase, model_name: str) -> tuple[_Format, Encoder]:
    if not getattr(tokenizer, "chat_template", None):
        return _NameFormat(), Encoder(tokenizer, controls=control_tokens(tokenizer), prefix=_prefix(tokenizer))
    scaffold, encoder = read_scaffold(tokenizer, model_name=model_name)
    opening, _, user_tail = _render(tokenizer, [("user", USER_MARK)]).partition(USER_MARK)
    end = _render(tokenizer, [("user", USER_MARK), ("assistant", REPLY_MARK)]).partition(REPLY_MARK)[2]
    template = _TemplateFormat(
        scaffold=scaffold,
        plain_opening=encoder.pieces(opening),
        user_tail=encoder.pieces(user_tail),
        tail=_tail(scaffold, encoder, encoder.pieces(end.removeprefix(scaffold.reply_tail))),
    )
    return template, encoder


def _tail(scaffold: Scaffold, encoder: Encoder, end: Pieces) -> Pieces:
    """Return what stands behind the end-of-turn token of a last reply, if it stands there in the middle too."""
    if not end or end[0] != scaffold.end_of_turn:
        return ()
    last, between = (encoder.encode((scaffold.end_of_turn, *pieces)) for pieces in (end[1:], scaffold.reply_to_user))
    return end[1:] if last.tolist() == between[: len(last)].tolist() else ()


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[tuple[str, str]]) -> str:
    listed = [{"role": role, "content": content} for role, content in messages]
    rendered: Any = tokenizer.apply_chat_template(listed, tokenize=False, **TEMPLATE_WORDS)
    return cast(str, rendered)


def _prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what the tokenizer puts before every text, such as a begin-of-sequence token."""
    probe, bare = (
        cast("Mapping[str, list[int]]", tokenizer("a", add_special_tokens=special))["input_ids"]
        for special in (True, False)
    )
    start = len(probe) - len(bare)
    return probe[:start] if probe[start:] == bare else []
