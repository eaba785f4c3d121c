"""Two tables: a row for each conversation, and a row for each turn, as parquet or as csv.

Values of any shape, such as private facts, are JSON text.  Lost: tokens, annotations but for their newest numbers, and
in csv the difference between nothing and an empty text.
"""

from __future__ import annotations

import csv
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from selfplay.errors import UserError
from selfplay.export.chosen import Chosen
from selfplay.export.request import Result
from selfplay.records_json import CUT
from selfplay.transcript_index import Row

__all__ = ["write_csv", "write_parquet", "write_rows_csv"]

Kind = Literal["text", "whole", "number", "truth"]
Record = Mapping[str, Any]
ROWS_AT_ONCE = 2000
MOST: Mapping[Kind, float] = {"whole": 2**63 - 1, "number": sys.float_info.max}
# Spreadsheets compute what begins with one of these.
FORMULA = ("=", "+", "-", "@", "\t", "\r")

CONVERSATION_COLUMNS: Mapping[str, Kind] = {
    **dict.fromkeys(("id", "run", "group", "env", "split", "scenario", "about", "players", "model"), "text"),
    **dict.fromkeys(("step", "seed", "version", "turns", "tokens"), "whole"),
    "seconds": "number",
    "started_at": "text",
    **dict.fromkeys(("status", "reason", "ended_by", "error", "flags", "first_words"), "text"),
    "protocol_ok": "truth",
    **dict.fromkeys(("reward", "advantage", "kl", "nll", "surprise", "disagreement", "group_mean"), "number"),
    **dict.fromkeys(("per_role", "public", "private", "payoff", "facts", "briefs", "tags"), "text"),
}
TURN_COLUMNS: Mapping[str, Kind] = {
    **dict.fromkeys(("conversation", "role", "player", "heard_text", "text", "finish"), "text"),
    **dict.fromkeys(("turn", "num_heard_tokens", "num_tokens"), "whole"),
    **dict.fromkeys(("is_cut", "action_legal"), "truth"),
    **dict.fromkeys(("action_kind", "action_value"), "text"),
    **dict.fromkeys(("seconds", "reward"), "number"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Columns and rows; the rows are read once."""

    columns: Mapping[str, Kind]
    rows: Iterable[Record]


def write_csv(chosen: Chosen, draft: Path) -> Result:
    """Write conversations.csv and turns.csv into a folder."""
    for name, table in _tables(chosen).items():
        _write_csv(table, draft / f"{name}.csv")
    return Result(path=draft, num=len(chosen.ids), noun="conversation", notes=(APOSTROPHE,))


def write_rows_csv(chosen: Chosen, draft: Path) -> Result:
    """Write the table of conversations alone, as one file."""
    _write_csv(_tables(chosen)["conversations"], draft)
    return Result(path=draft, num=len(chosen.ids), noun="conversation", notes=(APOSTROPHE,))


def write_parquet(chosen: Chosen, draft: Path) -> Result:
    """Write conversations.parquet and turns.parquet into a folder; raises UserError without pyarrow."""
    try:
        pa: Any = importlib.import_module("pyarrow")
        pq: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise UserError(
            'to=parquet: the package pyarrow is not installed; pip install "selfplay-dialog[export]"'
        ) from error
    types = {"text": pa.string(), "whole": pa.int64(), "number": pa.float64(), "truth": pa.bool_()}
    for name, table in _tables(chosen).items():
        schema = pa.schema([(column, types[kind]) for column, kind in table.columns.items()])
        with pq.ParquetWriter(draft / f"{name}.parquet", schema) as writer:
            for rows in _batches(_typed(table)):
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    return Result(path=draft, num=len(chosen.ids), noun="conversation")


APOSTROPHE = "text that a spreadsheet would compute has an apostrophe before it"


def _tables(chosen: Chosen) -> dict[str, _Table]:
    parts = list(chosen.info.parts)
    measured: dict[str, Kind] = {f"{what}.{name}": "number" for name in parts for what in ("reward", "value")}
    of_turns: dict[str, Kind] = {}
    for name in parts:
        of_turns |= {f"raw.{name}": "number", f"value.{name}": "number", f"why.{name}": "text"}
    return {
        "conversations": _Table(columns={**CONVERSATION_COLUMNS, **measured}, rows=_conversation_rows(chosen)),
        "turns": _Table(columns={**TURN_COLUMNS, **of_turns}, rows=_turn_rows(chosen)),
    }


def _conversation_rows(chosen: Chosen) -> Iterator[dict[str, Any]]:
    for row in chosen.rows():
        record = chosen.record(row.id)
        if record is not None:
            yield {**_of_row(row), **_of_record(record), "run": chosen.name}


def _of_row(row: Row) -> dict[str, Any]:
    names = ("id", "step", "split", "group", "scenario", "about", "players", "turns", "tokens", "seconds", "reward")
    more = ("advantage", "kl", "nll", "reason", "status", "first_words", "surprise", "disagreement", "group_mean")
    return {
        **{name: getattr(row, name) for name in (*names, *more, "version", "model")},
        "flags": "; ".join(row.flags),
        "per_role": _json(row.per_role),
        **{f"reward.{name}": value for name, value in row.raw.items()},
        **{f"value.{name}": value for name, value in row.parts.items()},
    }


def _of_record(record: Record) -> dict[str, Any]:
    scenario, outcome = record["scenario"], record.get("outcome") or {}
    return {
        "env": scenario["env"],
        "seed": scenario["seed"],
        "started_at": (record.get("timing") or {}).get("started_at"),
        "ended_by": outcome.get("by"),
        "protocol_ok": outcome.get("protocol_ok"),
        "error": record.get("error"),
        "public": _json(scenario.get("public", {})),
        "private": _json(scenario.get("private", {})),
        "payoff": _json(outcome.get("payoff", {})),
        "facts": _json(outcome.get("facts", {})),
        "briefs": _json({role: player.get("brief", "") for role, player in record["players"].items()}),
        "tags": _json(record.get("tags", [])),
    }


def _turn_rows(chosen: Chosen) -> Iterator[dict[str, Any]]:
    for record in chosen.records():
        block = record.get("rewards") or {}
        rewards, parts = block.get("per_turn", []), _parts_by_turn(block)
        for number, turn in enumerate(record["turns"]):
            action = turn.get("action") or {}
            yield {
                **{name: turn.get(name) for name in TURN_COLUMNS},
                "conversation": record["id"],
                "turn": number,
                "is_cut": turn.get("finish") in CUT,
                "action_kind": action.get("kind"),
                "action_value": _json(action["value"]) if "value" in action else None,
                "action_legal": action.get("legal"),
                "reward": rewards[number] if number < len(rewards) else None,
                **parts.get(number, {}),
            }


def _parts_by_turn(block: Record) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for part in block.get("parts", ()):
        if part["turn"] is not None:
            values = {f"{what}.{part['name']}": part.get(what) for what in ("raw", "value", "why")}
            found.setdefault(part["turn"], {}).update(values)
    return found


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _typed(table: _Table) -> Iterator[dict[str, Any]]:
    """Yield the rows with every value of its column's kind; what is of another kind, or too large for it, is None."""
    for row in table.rows:
        yield {name: _as_kind(row.get(name), kind) for name, kind in table.columns.items()}


def _as_kind(value: Any, kind: Kind) -> Any:
    if value is None or kind == "text":
        return None if value is None else str(value)
    if kind == "truth":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MOST[kind]:
        return None
    return float(value) if kind == "number" else int(value)


def _batches(rows: Iterable[Record]) -> Iterator[list[Record]]:
    waiting = iter(rows)
    while batch := list(islice(waiting, ROWS_AT_ONCE)):
        yield batch


def _write_csv(table: _Table, path: Path) -> None:
    columns: Sequence[tuple[str, Callable[[Any], Any]]] = [(name, _CELLS[kind]) for name, kind in table.columns.items()]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table.columns)
        for row in _typed(table):
            writer.writerow([cell(row[name]) for name, cell in columns])


def _text_cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


def _truth_cell(value: Any) -> str:
    return "" if value is None else str(bool(value)).lower()


def _plain_cell(value: Any) -> Any:
    return "" if value is None else value


_CELLS: Mapping[Kind, Callable[[Any], Any]] = {
    "text": _text_cell,
    "truth": _truth_cell,
    "whole": _plain_cell,
    "number": _plain_cell,
}
