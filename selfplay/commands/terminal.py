"""Conversations on a terminal: what models wrote is shown as text, never obeyed as markup or escape codes."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from selfplay.dialog import Action, Conversation, Floats, Outcome, PlayerInfo, Turn
from selfplay.records_json import TokenCounts

ROLE_STYLES = ("bold cyan", "bold magenta", "bold green", "bold yellow", "bold blue")
STATUS_STYLES = {"terminated": "green", "truncated": "yellow", "failed": "red"}
# What cut a turn, by its finish.
CUT_AT = {"length": "its limit", "context_full": "the end of its context", "token_limit": "its stream's limit"}
INDENT = 2
SEPARATOR = " · "


def _control_pictures() -> dict[int, str]:
    pictures = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
    escaped = (
        *range(0x80, 0xA0),  # C1 controls: some terminals take 0x9B for ESC [
        *(0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)),  # order of writing
        *(0x2028, 0x2029),  # line and paragraph separator
        *range(0xD800, 0xE000),  # halves of surrogate pairs: they cannot be encoded
    )
    return pictures | {0x7F: "\u2421"} | {code: f"\\u{code:04x}" for code in escaped}


CONTROL_PICTURES = _control_pictures()


def printable(text: str) -> str:
    """Return text that a terminal shows as it stands: what would steer it becomes visible; line breaks, tabs stay."""
    return text.translate(CONTROL_PICTURES)


def one_line(text: str) -> str:
    """Return `printable` text with line breaks and tabs made visible as well."""
    return printable(text).replace("\n", "\u2424").replace("\t", "\u2409")


class _PatientConsole(Console):
    """A console whose reader may leave, as `head` does: what runs goes on, and is still stored."""

    def on_broken_pipe(self) -> None:
        """Say nothing more."""
        self.quiet = True


def open_console(*, is_stderr: bool = False) -> Console:
    """Return a console that interprets nothing; characters that its encoding lacks appear as escapes."""
    stream = sys.stderr if is_stderr else sys.stdout
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _PatientConsole(file=stream, markup=False, emoji=False, highlight=False)


def print_conversation(
    console: Console, conversation: Conversation, *, token_counts: Sequence[TokenCounts] = ()
) -> None:
    """Print a whole conversation: where it started, what each role alone was told, its turns, how it ended.

    The token counts stand in for tokens that were not stored or not loaded; empty: count the conversation's own.
    """
    counts = token_counts or [counts_of(turn) for turn in conversation.turns]
    print_header(console, conversation)
    for number in range(conversation.num_turns):
        print_turn(console, conversation, number=number, counts=counts[number])
    print_ending(console, conversation, token_counts=counts)


def print_header(console: Console, conversation: Conversation) -> None:
    """Print what is known before anyone speaks."""
    scenario = conversation.scenario
    console.print(Text(one_line(conversation.id), style="bold"))
    step = conversation.id.partition("-")[0].lstrip("0") or "0"
    place = (scenario.env, f"seed {scenario.seed}", scenario.split, f"step {step}", conversation.view)
    console.print(_dim(*place, conversation.started_at[:16].replace("T", " ")))
    if scenario.public:
        console.print(Text(facts_line(scenario.public)))
    for role in scenario.roles:
        _print_role(console, conversation, role)


def print_turn(
    console: Console, conversation: Conversation, *, number: int = -1, counts: TokenCounts | None = None
) -> None:
    """Print one turn, by default the last: who, what it said, and a dim line of numbers.

    What it heard is shown where it is not just the text of the turn before.
    The counts stand in for tokens that are not at hand; None: count the turn's own.
    """
    number = range(conversation.num_turns)[number]
    turn = conversation.turns[number]
    console.print()
    name = Text(one_line(turn.role), style=role_style(turn.role, conversation.scenario.roles))
    console.print(Text.assemble((f"{number} ", "dim"), name))
    if turn.heard_text and (number == 0 or turn.heard_text != conversation.turns[number - 1].text):
        console.print(_indented(Text(f"heard: {printable(turn.heard_text)}", style="dim")))
    console.print(_indented(Text(printable(turn.text)) if turn.text else Text("(nothing)", style="dim italic")))
    line = Text(SEPARATOR, style="dim").join(
        [part for part in (*_remarks(turn), _dim(*_numbers(turn, counts or counts_of(turn)))) if part]
    )
    if line:
        console.print(_indented(line))


def print_ending(console: Console, conversation: Conversation, *, token_counts: Sequence[TokenCounts] = ()) -> None:
    """Print how a conversation ended and its totals."""
    counts = token_counts or [counts_of(turn) for turn in conversation.turns]
    console.print()
    console.print(_outcome_line(conversation.outcome))
    if conversation.outcome is not None and conversation.outcome.facts:
        console.print(_dim(facts_line(conversation.outcome.facts)))
    if conversation.error is not None:
        console.print(Text(f"error: {one_line(conversation.error)}", style="red"))
    num_turns, num_cut = conversation.num_turns, sum(turn.is_cut for turn in conversation.turns)
    num_said, num_heard = sum(count.said for count in counts), sum(count.heard for count in counts)
    console.print(
        _dim(
            f"{plural(num_turns, 'turn')}",
            f"{share(num_cut, num_turns)} cut" if num_turns else "",
            f"{num_heard} tokens heard, {num_said} said" if num_said or num_heard else "",
            f"{conversation.seconds:.1f} s" if conversation.seconds else "",
        )
    )


def counts_of(turn: Turn) -> TokenCounts:
    """Return how many tokens the turn holds."""
    return TokenCounts(heard=len(turn.heard), said=len(turn.said))


def role_style(role: str, roles: Sequence[str]) -> str:
    """Return the colour of a role; one that the scenario does not have is only bold."""
    return ROLE_STYLES[list(roles).index(role) % len(ROLE_STYLES)] if role in roles else "bold"


def facts_line(facts: Mapping[str, Any]) -> str:
    """Return public, private or measured values as one printable line: ``topic: rainy days · turns: 4``."""
    return SEPARATOR.join(one_line(f"{key}: {_fact(value)}") for key, value in facts.items())


def outcome_words(outcome: Outcome | None, *, is_by_shown: bool = True) -> str:
    """Return the outcome in a few words, as ``agreement by buyer``; what did not end by the rules says so."""
    if outcome is None:
        return "unfinished"
    reason = one_line(outcome.reason).replace("_", " ")
    by = f" by {one_line(outcome.by)}" if outcome.by and is_by_shown else ""
    return f"{reason}{by}" if outcome.status == "terminated" else f"{outcome.status}: {reason}{by}"


def outcome_style(outcome: Outcome | None) -> str:
    """Return the colour of an outcome."""
    return STATUS_STYLES[outcome.status] if outcome else "yellow"


def first_words(text: str, *, length: int) -> str:
    """Return the beginning of a text on one printable line, at most `length` characters."""
    line = re.sub(r"\s+", " ", printable(text)).strip()
    return line if len(line) <= length else line[: length - 1] + "…"


def plural(number: int, noun: str) -> str:
    """Return ``1 turn`` or ``2 turns``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def share(part: int, whole: int) -> str:
    """Return a part in per cent; of nothing it is "-"."""
    return f"{100 * part / whole:.0f}%" if whole else "-"


def _fact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _print_role(console: Console, conversation: Conversation, role: str) -> None:
    scenario, player = conversation.scenario, conversation.players.get(role)
    console.print()
    who = "" if player is None else SEPARATOR + SEPARATOR.join(_player_words(player))
    console.print(Text.assemble((one_line(role), role_style(role, scenario.roles)), (who, "dim")))
    private = [player.brief] if player and player.brief else []
    if scenario.private.get(role):
        private.append(facts_line(scenario.private[role]))
    for text in private:
        told = Text.assemble((f"only {one_line(role)} sees: ", "dim italic"), (printable(text), "italic"))
        console.print(_indented(told))


def _player_words(player: PlayerInfo) -> list[str]:
    model = "" if player.model == player.policy else player.model
    return [one_line(word) for word in (player.label, model, "trained" if player.trained else "") if word]


def _remarks(turn: Turn) -> list[Text]:
    remarks = []
    if turn.is_cut:
        remarks.append(Text(f"cut at {CUT_AT.get(turn.finish, 'a limit')}", style="yellow"))
    if turn.action is not None:
        remarks.append(_action_text(turn.action))
    return remarks


def _action_text(action: Action) -> Text:
    value = "" if action.value is None else f" {one_line(_fact(action.value))}"
    legal = "" if action.legal else " (not legal)"
    return Text(f"{one_line(action.kind)}{value}{legal}", style="green" if action.legal else "red")


def _numbers(turn: Turn, counts: TokenCounts) -> list[str]:
    numbers = [f"heard {counts.heard}, said {plural(counts.said, 'token')}"] if counts.said or counts.heard else []
    if turn.seconds > 0:
        numbers.append(f"{turn.seconds:.2f} s")
        if counts.said:
            numbers.append(f"{counts.said / turn.seconds:.0f} tokens/s")
    mean = _mean_logprob(turn.logprobs)
    if mean is not None:
        numbers.append(f"mean log-prob {mean:.2f}")
    return numbers


def _mean_logprob(logprobs: Floats) -> float | None:
    finite = logprobs[np.isfinite(logprobs)]
    return float(finite.mean()) if finite.size else None


def _outcome_line(outcome: Outcome | None) -> Text:
    line = Text(outcome_words(outcome), style=outcome_style(outcome))
    if outcome is None:
        return line
    if not outcome.protocol_ok:
        line.append(f"{SEPARATOR}form not kept", style="yellow")
    if outcome.payoff:
        payoff = ", ".join(f"{one_line(role)} {value:+g}" for role, value in outcome.payoff.items())
        line.append(f"{SEPARATOR}payoff {payoff}", style="default")
    return line


def _dim(*words: str) -> Text:
    return Text(SEPARATOR.join(one_line(word) for word in words if word), style="dim")


def _indented(text: Text) -> Padding:
    return Padding(text, (0, 0, 0, INDENT), expand=False)
