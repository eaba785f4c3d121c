"""The only bridge between text and tokens: what a model's stream is fed before each of its turns.

A stream is append-only: nothing is rendered or tokenised twice, and what was sampled stays as it was sampled.
Contents (briefs, messages, topics) are tokenised with control tokens split, so nothing that anybody says becomes one:
no message can be opened or closed by its text.  (Headers that a template writes as plain text can be imitated, but
not the token that closes the message before.)

Where a stream differs from its chat template's render of the same messages (the documented scaffold):
  * a turn that was cut, or ended by another end-of-turn token than the template's, is closed by the template's
    token, which counts as heard, not said;
  * a template that adds an empty reasoning block to its prompt has it before every turn, not only before the last;
  * a template that trims contents trims what is heard; what was said stays as it was sampled, also where the template
    puts a space before or behind a reply: the model says it, or does not;
  * a model without a chat template gets lines of ``Name: text``, in which messages have no line breaks; what nobody
    said, as an environment's answer to a role that speaks alone, is a line without a name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

from transformers import PreTrainedTokenizerBase

from selfplay.dialog import OPENER, Conversation, Tokens, Turn, clean_text
from selfplay.errors import UserError
from selfplay.generate.template import Encoder, Pieces, Scaffold, control_tokens, read_scaffold
from selfplay.interfaces import View, stream_of

_LINE_BREAKS = re.compile(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+\s*")


class _Format(Protocol):
    """How messages stand in a stream.  `last` is the last token said, None where a turn was only quoted."""

    @property
    def end_of_turn(self) -> frozenset[int]: ...
    def opening(self, brief: str, heard: str, *, speaker: str, partner: str | None) -> Pieces: ...
    def message(self, heard: str, *, speaker: str, partner: str | None) -> Pieces: ...
    def shared_opening(self, brief: str, *, speaker: str, is_first_role: bool) -> Pieces: ...
    def next_speaker(self, *, speaker: str, is_first_role: bool) -> Pieces: ...
    def closing(self, last: int) -> Pieces: ...
    def quote(self, text: str, *, by_user: bool) -> Pieces: ...
    def text(self, said: list[int]) -> str: ...


class ChatBridge:
    """Turns what reached a role into tokens of its model's stream, and sampled tokens into text.

    One bridge serves one model in one view.  In the view "perspective" a stream belongs to a role: the role is the
    assistant, its partner the user.  In "shared" one stream holds both: the first role is the user, the second the
    assistant, or lines of ``Name: text`` where a template's user messages end without an end-of-turn token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        model_name: str,
        end_of_turn: Iterable[int] = (),
        view: View = "perspective",
    ) -> None:
        """Derive and check the format.

        end_of_turn: the ids that end a turn, from the model's generation config; the tokenizer's own are added.
        Raises UserError, with the model's name and the first differing token, for a template that rewrites history.
        """
        self.model_name = model_name
        self.view = view
        stops = frozenset(end_of_turn)
        if tokenizer.eos_token_id is not None:
            stops |= {tokenizer.eos_token_id}
        self._format, self._encoder = _choose_format(tokenizer, model_name, stops, view)

    @property
    def end_of_turn(self) -> frozenset[int]:
        """Ids that end a turn."""
        return self._format.end_of_turn

    def heard(self, conversation: Conversation, role: str, *, heard_text: str, brief: str, player: str) -> Tokens:
        """Return what the player's stream is fed before this turn: everything since that player last sampled in it.

        Turns of the same stream that another player spoke (a script, a human, another policy) are quoted.
        """
        turns = conversation.turns
        pieces: list[int | str] = []
        begins = True
        for k in self._places(conversation, role):
            turn = turns[k]
            if is_said_by(turn, player, stream=stream_of(role, self.view)):
                last = int(turn.said[-1])
                pieces = [last, *self._format.closing(last)]
                begins = False
            else:
                pieces += self._before(conversation, turns[:k], turn.role, turn.heard_text, brief)
                by_user = self.view == "shared" and turn.role == conversation.scenario.roles[0]
                pieces += self._format.quote(clean_text(turn.text), by_user=by_user)
        pieces += self._before(conversation, turns, role, heard_text, brief)
        if begins:
            return self._encoder.encode(pieces, begins=True)
        # The last token said is no part of this; it goes along because it may swallow the white space behind it.
        return self._encoder.encode(pieces)[1:]

    def seen(self, conversation: Conversation, role: str, *, player: str) -> list[Tokens]:
        """Return the runs of tokens the player's stream holds already: heard, said, heard, said, ..."""
        stream = stream_of(role, self.view)
        turns = [conversation.turns[k] for k in self._places(conversation, role)]
        mine = [turn for turn in turns if is_said_by(turn, player, stream=stream)]
        return [tokens for turn in mine for tokens in (turn.heard, turn.said)]

    def text(self, said: Tokens) -> str:
        """Return the message that sampled tokens make, without the token that ended it."""
        return clean_text(self._format.text(said.tolist()))

    def encode(self, text: str) -> Tokens:
        """Tokenise content: control tokens in it are split into ordinary ones."""
        return self._encoder.encode((clean_text(text),))

    def saying(self, text: str) -> Tokens:
        """Return a text as the role's model would say it, up to the token that ends its turn, where there is one."""
        return self._encoder.encode(self._format.quote(clean_text(text), by_user=False))

    def _places(self, conversation: Conversation, role: str) -> list[int]:
        """Return the indices of the turns that are in the role's stream."""
        return [k for k, turn in enumerate(conversation.turns) if self.view == "shared" or turn.role == role]

    def _before(
        self, conversation: Conversation, turns: Sequence[Turn], role: str, heard_text: str, brief: str
    ) -> Pieces:
        """Return what stands before the turn of `role` that follows `turns`, the first ones of the conversation."""
        roles = conversation.scenario.roles
        heard_text, brief, speaker = clean_text(heard_text), clean_text(brief), role.capitalize()
        if self.view == "shared":
            if turns and turns[-1].role == role:
                raise UserError(
                    f"role {role!r} speaks twice in a row, which one shared stream cannot show; use view=perspective"
                )
            is_first = role == roles[0]
            if not turns:
                # What the first speaker hears from its environment, one stream has no other place for.
                told = f"{brief}\n{heard_text}" if heard_text else brief
                return self._format.shared_opening(told, speaker=speaker, is_first_role=is_first)
            return self._format.next_speaker(speaker=speaker, is_first_role=is_first)
        partner = " and ".join(other.capitalize() for other in roles if other != role)
        if not any(turn.role == role for turn in turns):
            return self._format.opening(brief, heard_text, speaker=speaker, partner=partner if turns else None)
        # Who speaks again at once heard nobody: whatever reached it is its environment's, and has no name.
        return self._format.message(heard_text, speaker=speaker, partner=None if turns[-1].role == role else partner)


def is_said_by(turn: Turn, player: str, *, stream: str) -> bool:
    """Whether the player's model sampled this turn in that stream, so that its tokens are there already."""
    return turn.player == player and turn.stream == stream and len(turn.said) > 0


def _choose_format(
    tokenizer: PreTrainedTokenizerBase, model_name: str, stops: frozenset[int], view: View
) -> tuple[_Format, Encoder]:
    if getattr(tokenizer, "chat_template", None):
        scaffold, encoder = read_scaffold(tokenizer, model_name=model_name)
        if view == "perspective" or scaffold.user_can_stop:
            return _TemplateFormat(tokenizer, scaffold, stops | {scaffold.end_of_turn}), encoder
    encoder = Encoder(tokenizer, controls=control_tokens(tokenizer), prefix=_prefix(tokenizer))
    return _NameFormat(tokenizer, stops), encoder


@dataclass(frozen=True, slots=True)
class _TemplateFormat:
    """Messages as the model's chat template shows them."""

    tokenizer: PreTrainedTokenizerBase
    scaffold: Scaffold
    end_of_turn: frozenset[int]

    def opening(self, brief: str, heard: str, *, speaker: str, partner: str | None) -> Pieces:
        s = self.scaffold
        between = s.brief_to_user if s.has_system else ("\n\n",)
        content = (*s.opening, self._trim(brief), *between, self._trim(heard) or OPENER)
        return (*content, *s.user_to_reply, *s.reasoning)

    def message(self, heard: str, *, speaker: str, partner: str | None) -> Pieces:
        s = self.scaffold
        return (*s.reply_to_user, self._trim(heard), *s.user_to_reply, *s.reasoning)

    def shared_opening(self, brief: str, *, speaker: str, is_first_role: bool) -> Pieces:
        s = self.scaffold
        if not is_first_role:
            return self.opening(brief, OPENER, speaker=speaker, partner=None)
        between = s.brief_to_user if s.has_system else ("\n\n",)
        return (*s.opening, self._trim(brief), *between)

    def next_speaker(self, *, speaker: str, is_first_role: bool) -> Pieces:
        s = self.scaffold
        # The user's end-of-turn token was said, or is the closing.
        return s.reply_to_user if is_first_role else (*s.user_to_reply[1:], *s.reasoning)

    def closing(self, last: int) -> Pieces:
        return () if last == self.scaffold.end_of_turn else (self.scaffold.end_of_turn,)

    def quote(self, text: str, *, by_user: bool) -> Pieces:
        text = self._trim(text)
        return (text, self.scaffold.end_of_turn) if by_user else self.scaffold.reply(text)

    def text(self, said: list[int]) -> str:
        if said and said[-1] in self.end_of_turn:
            said = said[:-1]
        decoded = _decode(self.tokenizer, said).removeprefix(self.scaffold.reply_lead)
        return decoded.removesuffix(self.scaffold.reply_tail)

    def _trim(self, text: str) -> str:
        return text.strip() if self.scaffold.trims else text


class _NameFormat:
    """Lines of ``Name: text`` for models without a chat template; any token with a line break ends a turn."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        texts = tokenizer.batch_decode([[id] for id in range(len(tokenizer))])
        self._breaks = frozenset(id for id, text in enumerate(texts) if "\n" in text)
        self.end_of_turn = stops | self._breaks

    def opening(self, brief: str, heard: str, *, speaker: str, partner: str | None) -> Pieces:
        line = _one_line(heard)
        said = (f"{partner}: {line}\n" if partner else f"{line}\n\n") if line else ""
        return (f"{brief.strip()}\n\n{said}{speaker}:",)

    def message(self, heard: str, *, speaker: str, partner: str | None) -> Pieces:
        line = _one_line(heard)
        told = f"{partner}: {line}\n" if partner else f"{line}\n" if line else ""
        return (f"{told}{speaker}:",)

    def shared_opening(self, brief: str, *, speaker: str, is_first_role: bool) -> Pieces:
        return (f"{brief.strip()}\n\n{speaker}:",)

    def next_speaker(self, *, speaker: str, is_first_role: bool) -> Pieces:
        return (f"{speaker}:",)

    def closing(self, last: int) -> Pieces:
        return () if last in self._breaks else ("\n",)

    def quote(self, text: str, *, by_user: bool) -> Pieces:
        return (f" {_one_line(text)}\n",)

    def text(self, said: list[int]) -> str:
        if said and said[-1] in self._stops:
            said = said[:-1]
        return _decode(self._tokenizer, said).strip()


def _prefix(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return what the tokenizer puts before every text, such as a begin-of-sequence token."""
    probe = cast("Mapping[str, list[int]]", tokenizer("a"))["input_ids"]
    bare = cast("Mapping[str, list[int]]", tokenizer("a", add_special_tokens=False))["input_ids"]
    start = len(probe) - len(bare)
    return probe[:start] if probe[start:] == bare else []


def _one_line(text: str) -> str:
    return _LINE_BREAKS.sub(" ", text).strip()


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    decoded = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return cast(str, decoded)
