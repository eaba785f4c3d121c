"""`selfplay rescore`: stored conversations scored again, without playing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfplay.commands.building import build_rewards, chosen_rewards
from selfplay.commands.show import report_problems
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine
from selfplay.config import Settings, read_config, resolve
from selfplay.errors import UserError
from selfplay.rescore import Rescored, ScoreWriter, changes, moved_most, rescore, stored_conversations
from selfplay.reward_trial import check_role
from selfplay.run_folder import CONFIG
from selfplay.score import has_failed, reads_tokens
from selfplay.store import RunReader, find_run
from selfplay.train_settings import RewardSpec

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "score stored conversations again; the old score stays"
USAGE = """
selfplay rescore [RUN] [-r REWARD=WEIGHT ...] [rewards.NAME.key=value ...] [--json] [--dry-run]

Score the conversations of a run again, with other rewards or with a newer version of its own, without playing: the new
scores are appended to its annotations.jsonl, and the table says what moved and how the order changed.

  RUN                       a run folder, a name under runs/, or nothing: the newest run
  -r question=0.5           a reward and its weight, repeatable; without any: those the run was trained with
  reward_timeout_seconds=30 how long a reward may take over one call
  --dry-run                 print what would move and store nothing
  --json                    print the same for machines

Examples:
  selfplay rescore my-run -r question=1 -r my_rewards.py:asks_back=0.5
  selfplay rescore my-run -r sentiment=1 rewards.sentiment.of=next --dry-run
"""
ALL_FAILED = 1
NUM_SHOWN = 5  # conversations that moved most


class RescoreSettings(Settings):
    """What `rescore` accepts."""

    rewards: dict[str, RewardSpec] = {}  # noqa: RUF012 (pydantic copies it)
    reward_timeout_seconds: float = Field(default=30.0, gt=0)
    runs: Path = Path("runs")


def run(line: CommandLine) -> int:
    """Score a run again."""
    plain = [word for word in line.words if "=" not in word]
    if len(plain) > 1:
        raise UserError(f"too many words: {' '.join(plain)}; write selfplay rescore [RUN]")
    words = [word for word in line.words if "=" in word]
    settings = resolve(RescoreSettings, words)
    folder = find_run(plain[0] if plain else "", settings.runs)
    specs = chosen_rewards(settings.rewards, line.rewards, words=words) or _rewards_of(folder)
    rewards = build_rewards(specs)
    reader = RunReader(folder)
    stored = list(stored_conversations(reader, with_tokens=any(reads_tokens(weighted.reward) for weighted in rewards)))
    if not stored:
        raise UserError(f"run {folder} holds no conversation that could be scored")
    roles = dict.fromkeys(role for one in stored for role in one.conversation.scenario.roles)
    for weighted in rewards:
        check_role(weighted, list(roles), where=f"run {folder.name}")
    found = rescore(stored, rewards, timeout_seconds=settings.reward_timeout_seconds)
    rescored, num = _collect(found, None if line.dry_run else ScoreWriter(folder, rewards))
    if line.as_json:
        print(json.dumps(_as_json(rescored, num)))
    else:
        _show(open_console(), rescored, folder, num)
        num_left_out = len(reader.ids()) - len(stored)
        if num_left_out:
            open_console().print(
                Text(f"{plural(num_left_out, 'conversation')} failed in play and were left out", "dim")
            )
    report_problems(reader)
    return 0 if any(not has_failed(one.new.conversation) for one in rescored) else ALL_FAILED


def _collect(found: Iterator[list[Rescored]], writer: ScoreWriter | None) -> tuple[list[Rescored], int]:
    """Return what was rescored and how much of it was stored, as it came."""
    rescored: list[Rescored] = []
    try:
        for block in found:
            rescored += block
            if writer is not None:
                writer.append(block)
    finally:
        if writer is not None:
            writer.close()
    return rescored, 0 if writer is None else writer.num


def _rewards_of(folder: Path) -> dict[str, RewardSpec]:
    """Return the rewards that a run was trained with; raises UserError if it has none."""
    tree = read_config(str(folder / CONFIG)).tree.get("rewards") if (folder / CONFIG).exists() else None
    if not tree:
        raise UserError(f"run {folder} has no rewards of its own; name some: -r question=1")
    return resolve(RescoreSettings, [f"rewards={json.dumps(tree)}"]).rewards


def _show(console: Console, rescored: list[Rescored], folder: Path, num: int) -> None:
    failed = [one.new.conversation for one in rescored if has_failed(one.new.conversation)]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in ("a turn", "before", "now", "change", "same order"):
        table.add_column(column, justify="left" if column == "a turn" else "right")
    for row in changes(rescored):
        name = one_line(row.name) or "reward"
        numbers = [_number(value) for value in (row.old, row.new)]
        table.add_row(name, *numbers, _signed(row.new - row.old), _number(row.order, digits=2))
    console.print(table)
    console.print(Text("same order: the rank correlation of the conversations before and now; 1: nothing moved", "dim"))
    for one, old, new in moved_most(rescored, NUM_SHOWN):
        console.print(Text(f"  {one.id}  place {old:g} -> {new:g}  reward {one.old_mean:z.2f} -> {one.new_mean:z.2f}"))
    for conversation in failed[:1]:
        console.print(Text(f"{plural(len(failed), 'conversation')} failed; the first, {conversation.id}: "
                           f"{one_line(conversation.error or '')}", "yellow"))  # fmt: skip
    stored = f"{plural(num, 'new score')} stored in {one_line(str(folder))}/annotations.jsonl"
    console.print(Text(stored if num else "nothing was stored", "dim"))


def _as_json(rescored: list[Rescored], num: int) -> dict[str, object]:
    rows = [
        {"name": row.name or "reward", "before": _finite(row.old), "now": _finite(row.new), "order": _finite(row.order)}
        for row in changes(rescored)
    ]
    conversations = [
        {
            "id": one.id,
            "before": _finite(one.old_mean),
            "now": _finite(one.new_mean),
            "error": one.new.conversation.error,
        }
        for one in rescored
    ]
    return {"stored": num, "changes": rows, "conversations": conversations}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float, *, digits: int = 3) -> str:
    return f"{value:z.{digits}f}" if math.isfinite(value) else "-"


def _signed(value: float) -> str:
    return f"{value:+.3f}" if math.isfinite(value) else "-"
