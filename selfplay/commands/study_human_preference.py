"""`selfplay study human-preference`: can a reward model tell which of two chats people liked better?"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.text import Text

from selfplay.commands.reward_progress import FitScreen
from selfplay.commands.reward_report import cheap_heuristics
from selfplay.commands.reward_train import keep_vectors
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import resolve
from selfplay.errors import UserError
from selfplay.folder_lock import alone_in
from selfplay.line_files import RecordError, json_from_line
from selfplay.ratings import QUESTIONS
from selfplay.reward_model.baselines import LENGTH
from selfplay.reward_model.examples import Example, split_examples
from selfplay.reward_model.report import report_on, report_to_json
from selfplay.reward_model.settings import MINILM, FitSettings
from selfplay.whole_files import write_whole
from selfplay.written import nearest

__all__ = ["preference_table", "run"]

OWN = {
    "out": "runs/study-human-preference",
    "seeds": "0,1,2",
    "questions": ",".join(QUESTIONS),
    "backbones": MINILM,
}
# What a cell decides, or the study itself.
NOT_GIVEN = ("seed", "question", "backbone", "twin", "reference", "by")
CELL_SCHEMA = "selfplay.human_preference_cell/1"
CHATS = "chitchat"

Read = Callable[[FitSettings], Sequence[Example]]
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """One reward model: what it is trained with."""

    settings: FitSettings

    @property
    def name(self) -> str:
        """Its name, as that of a file."""
        backbone = "".join(sign if sign.isalnum() or sign in "-._" else "-" for sign in self.settings.backbone)
        return f"{backbone}-{self.settings.question}-{self.settings.seed}"


def run(line: CommandLine, *, read: Read | None = None) -> int:
    """Train and measure a reward model for each cell, write `table.md`; return 0.

    read: what gives the examples of settings; None: the rated chats.
    """
    own, cells = _plan(line.words[1:])
    if line.dry_run:
        print("\n".join(cell.name for cell in cells))
        return 0
    console, folder = open_console(), Path(own["out"])
    with alone_in(folder, what="this study"):
        (folder / "cells").mkdir(parents=True, exist_ok=True)
        command = " ".join([program_name(), "study", *line.words])
        for number, cell in enumerate(cells, start=1):
            if _stored(folder, cell) is None:
                console.print(Text(one_line(f"{number} of {len(cells)}: {cell.name}")))
                _write(folder, cell, _measured(cell.settings, read or _rated_chats, FitScreen(console)))
            records = [record for one in cells if (record := _stored(folder, one)) is not None]
            write_whole(folder / "table.md", preference_table(records, command=command).encode())
    console.print(Text((folder / "table.md").read_text(encoding="utf-8").rstrip()), soft_wrap=True)
    written = f"written: {folder / 'table.md'}, {plural(len(cells), 'cell')} beside it"
    console.print(Text(one_line(written), style="dim"))
    return 0


def _plan(words: Sequence[str]) -> tuple[dict[str, str], list[_Cell]]:
    own, given = dict(OWN), []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word}: unknown to `study human-preference`, which takes key=value")
        if key in NOT_GIVEN:
            raise UserError(f"{key}= means nothing to `study human-preference`{nearest(key, list(OWN))}")
        if key in OWN:
            own[key] = text
        else:
            given.append(word)
    cells = [
        _Cell(settings=resolve(FitSettings, [*given, f"backbone={backbone}", f"question={question}", f"seed={seed}"]))
        for backbone, question, seed in product(*(_listed(own, key) for key in ("backbones", "questions", "seeds")))
    ]
    return own, cells


def _listed(own: Mapping[str, str], key: str) -> list[str]:
    values = list(dict.fromkeys(own[key].split(",")))
    if key == "questions":
        for value in values:
            if value not in QUESTIONS:
                raise UserError(f"questions={own[key]}: people were not asked {value!r}{nearest(value, QUESTIONS)}")
    if not all(values):
        raise UserError(f"{key}={own[key]}: must be names with commas, such as {OWN[key]}")
    return values


# ----- one cell -----


def _rated_chats(settings: FitSettings) -> Sequence[Example]:
    from selfplay.reward_model.readers import read_data

    return read_data([CHATS], settings).examples


def _measured(settings: FitSettings, read: Read, screen: FitScreen) -> Record:
    """Train one reward model and return what it came to."""
    from selfplay.reward_model.fit import fit

    keep_vectors(settings)
    started = time.monotonic()
    train, held_out = split_examples(read(settings), held_out=settings.held_out, seed=settings.seed)
    with screen.shown():
        model = fit(train, held_out, settings, say=screen.say, on_progress=screen.on_progress)
    screen.end()
    report = report_on(model, held_out, train, cheap_heuristics(), seed=settings.seed)
    return {
        "schema": CELL_SCHEMA,
        "settings": settings.model_dump(mode="json"),
        "num_train": len(train),
        "num_held_out": len(held_out),
        "seconds": round(time.monotonic() - started, 1),
        "report": report_to_json(report),
    }


def _write(folder: Path, cell: _Cell, record: Record) -> None:
    write_whole(_place(folder, cell), (json.dumps(record, indent=1) + "\n").encode())


def _place(folder: Path, cell: _Cell) -> Path:
    return folder / "cells" / f"{cell.name}.json"


def _stored(folder: Path, cell: _Cell) -> Record | None:
    """Return what a cell came to; None: it was not finished.  Raises UserError if it was made otherwise."""
    path = _place(folder, cell)
    try:
        record = json_from_line(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, RecordError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if record.get("schema") != CELL_SCHEMA or record.get("settings") != cell.settings.model_dump(mode="json"):
        raise UserError(f"{path} was made with other settings; give another out=, or delete it")
    return record


# ----- the table -----


def preference_table(records: Sequence[Record], *, command: str) -> str:
    """Return the study as markdown: a row a cell, then the means over seeds."""
    return "\n".join([*_lines(records, command)]) + "\n"


def _lines(records: Sequence[Record], command: str) -> Iterator[str]:
    yield f"Made by `{command}`."
    yield "How often each prefers the chat that people rated higher, on chats of pairs of people of whom no chat was"
    yield "trained on (95% interval, resampling groups of pairs that share people or chats); a coin has 50%.  Single"
    yield "people do stand on both sides, with other partners: nearly all who chatted are linked through somebody."
    yield ""
    header = ("question", "backbone", "seed", "pairs: train", "held out", "reward model", "length alone")
    yield _row([*header, "model minus it, points", "best heuristic", "model minus it, points"])
    yield _row(["---"] * (len(header) + 3))
    for record in records:
        yield _row(_cells(record))
    yield ""
    yield "Means over seeds (lowest to highest):"
    yield ""
    yield _row(["question", "backbone", "seeds", "reward model", "length alone", "best heuristic"])
    yield _row(["---"] * 6)
    for key in dict.fromkeys(map(_arm, records)):
        same = [record for record in records if _arm(record) == key]
        yield _row([*key, str(len(same)), *(_spread([_value(one, place) for one in same]) for place in (None, 0, 1))])
    yield ""
    yield from _remarks(records)


def _arm(record: Record) -> tuple[str, str]:
    return record["settings"]["question"], record["settings"]["backbone"]


def _cells(record: Record) -> Iterator[str]:
    settings, report = record["settings"], record["report"]
    yield from (settings["question"], settings["backbone"], str(settings["seed"]))
    yield from (f"{record['num_train']:,}", f"{report['accuracy']['num_pairs']:,}", _share(report["accuracy"]))
    for number in (0, 1):
        baseline = _baseline(record, number)
        yield from ("-", "-") if baseline is None else (_named_share(baseline), _points(baseline["difference"]))


def _named_share(baseline: Record) -> str:
    """Return a baseline's share, after its name unless the column says it."""
    share, way = _share(baseline["accuracy"]), "" if baseline["sign"] > 0 else " (less)"
    return f"{share}{way}" if baseline["name"] == LENGTH else f"{baseline['name']}{way} {share}"


def _baseline(record: Record, number: int) -> Record | None:
    baselines: Sequence[Record] = record["report"]["baselines"]
    return baselines[number] if number < len(baselines) else None


def _value(record: Record, place: int | None) -> float:
    source = record["report"] if place is None else _baseline(record, place)
    value = source["accuracy"]["value"] if source else None
    return math.nan if value is None else float(value)


def _remarks(records: Sequence[Record]) -> Iterator[str]:
    """Say in how many cells nothing shows that the model is better than something simple."""
    for number, name in enumerate(("length alone", "the best single heuristic")):
        differences = [baseline["difference"]["low"] for one in records if (baseline := _baseline(one, number))]
        num = sum(low is None or low <= 0.0 for low in differences)
        yield f"In {num} of {plural(len(differences), 'cell')} nothing shows that the model does better than {name}."
    lows = [record["report"]["accuracy"]["low"] for record in records]
    num = sum(low is None or low <= 0.5 for low in lows)
    yield f"In {num} of {plural(len(lows), 'cell')} nothing shows that it does better than a coin."


def _share(share: Record) -> str:
    if share["value"] is None:
        return "-"
    text = f"{100 * share['value']:.1f}%"
    return text if share["low"] is None else f"{text} ({100 * share['low']:.1f} to {100 * share['high']:.1f})"


def _points(share: Record) -> str:
    if share["value"] is None or share["low"] is None:
        return "-"
    return f"{100 * share['value']:+.1f} ({100 * share['low']:+.1f} to {100 * share['high']:+.1f})"


def _spread(values: Sequence[float]) -> str:
    known = [100 * value for value in values if math.isfinite(value)]
    if not known:
        return "-"
    return f"{fmean(known):.1f}%" + (f" ({min(known):.1f} to {max(known):.1f})" if len(known) > 1 else "")


def _row(cells: Iterator[str] | Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
