"""The table that compares a trained policy with its base."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfplay.commands.terminal import one_line, plural
from selfplay.evaluate import Comparison, Difference, checks_of

__all__ = ["cells", "interval", "number", "print_comparison", "title"]

# What rows are called; others are called by their path.
TITLES = {
    "game/payoff": "payoff",
    "game/opponent_payoff": "opponent's payoff",
    "game/win": "won",
    "game/success": "success",
    "game/protocol_ok": "form kept",
    "game/fault": "form broken by the policy",
    "game/opponent_fault": "form broken by the opponent",
    "game/turns": "turns",
    "reward/per_conversation": "reward of a conversation",
    "reward/total": "reward of a turn",
    "kl/per_token_nats": "KL (nats a token)",
    "reference/nll_per_token_nats": "NLL by the base (nats a token)",
    "play/distinct_1": "distinct words",
    "play/distinct_2": "distinct word pairs",
    "play/question_rate": "turns that ask",
    "play/only_question_share": "turns of question words only",
    "play/repeat_rate": "turns said before",
    "play/words_per_turn": "words a turn",
    "play/said_tokens_per_turn": "tokens a turn",
    "play/cut_share": "turns cut by a limit",
}
# Shares are shown in per cent.
SHARES = frozenset(
    (
        *("play/question_rate", "play/only_question_share", "play/repeat_rate", "play/cut_share"),
        *("game/win", "game/success", "game/protocol_ok", "game/fault", "game/opponent_fault"),
    )
)
OF_ROLE = "game/payoff/"


def print_comparison(console: Console, comparison: Comparison, *, kl_target: float | None = None) -> None:
    """Print every number of base and trained policy; a change whose interval excludes 0 stands out.

    Below stands whether the reward rose and language was kept; kl_target: nats a token, None: there is none.
    """
    if not comparison.rows:
        console.print(Text("nothing to compare: no held-out scenario was played to its end by both", style="yellow"))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in ("held out", "base", "trained", "change", f"{comparison.confidence:.0%} interval"):
        table.add_column(column, justify="left" if column == "held out" else "right", no_wrap=column != "held out")
    for row in comparison.rows:
        table.add_row(*cells(row))
    console.print(table)
    console.print(Text(_note(comparison), style="dim"))
    for check in checks_of(comparison, kl_target=kl_target):
        console.print(
            Text(f"{'yes' if check.is_met else 'NO':<5}{check.what}", style="green" if check.is_met else "yellow")
        )


def cells(row: Difference) -> list[Text]:
    """Return a row of a table: what is measured, both sides, the change and its interval."""
    style = "bold" if row.is_clear else ""
    return [
        Text(one_line(title(row.name))),
        Text(number(row.name, row.base)),
        Text(number(row.name, row.trained)),
        Text(_signed(row.name, row.difference), style=style),
        Text(interval(row.name, row.low, row.high, is_signed=True), style=style or "dim"),
    ]


def title(name: str) -> str:
    """Return what a number is called in tables."""
    if name.startswith(OF_ROLE):
        return f"payoff as {name.removeprefix(OF_ROLE)}"
    return TITLES.get(name) or (f"{name.removeprefix('reward/')}, a turn" if name.startswith("reward/") else name)


def _note(comparison: Comparison) -> str:
    dropped = f", {comparison.num_dropped} more failed" if comparison.num_dropped else ""
    return f"{plural(comparison.num_scenarios, 'scenario')}{dropped}; bold: the interval excludes 0"


def number(name: str, value: float) -> str:
    """Return a value of the number of this name as people read it."""
    if not math.isfinite(value):
        return "-"
    return f"{value:z.0%}" if name in SHARES else f"{value:z.3f}"


def interval(name: str, low: float, high: float, *, is_signed: bool = False) -> str:
    """Return bounds as people read them; "-": there are none."""
    shown = _signed if is_signed else number
    return f"{shown(name, low)} to {shown(name, high)}" if math.isfinite(low) else "-"


def _signed(name: str, value: float) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:+.0f}" if name in SHARES else f"{value:+.3f}"
