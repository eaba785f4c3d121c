"""`selfplay report`: one page about a run."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

from rich.text import Text

from selfplay.commands.terminal import one_line, open_console
from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, Settings, resolve
from selfplay.errors import UserError
from selfplay.plots import can_draw
from selfplay.run_reader import find_run
from selfplay.run_report import write_report

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "one page about a run: what was rewarded, gained and lost"
USAGE = """
selfplay report [RUN] [out=FILE.html] [private=false] [runs=FOLDER] [--json]

Write one HTML file that opens anywhere, without scripts or network: what was rewarded and how, learning curves, base
against trained with intervals, alarms, the best, worst and random conversations before and after training on the same
scenarios, the most surprising ones, and how to do it again.  What a run lacks is left out.

  RUN            a run folder, a name under runs/, or nothing: the newest run
  out=FILE       where it goes; an older report is replaced, no other file is (default: RUN/report.html)
  private=false  leave out what roles alone were told and what may quote it: briefs, what the environment said, errors,
                 alarms' texts, the command and the configuration; and this machine's folders; what the roles said
                 themselves stays
  runs=FOLDER    where runs are kept (default: runs)
  --json         print the file's place as JSON

Examples:
  selfplay report
  selfplay report my-run out=my-run.html private=false
"""
NAME = "report.html"


class ReportSettings(Settings):
    """What `report` accepts besides the run."""

    out: Annotated[Path | None, WRITTEN_PATH] = None  # None: in the run's folder
    private: bool = True
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")


def run(line: CommandLine) -> int:
    """Write the page about the run that the words name."""
    names = line.names
    if len(names) > 1:
        raise UserError(f"report takes one run, not {len(names)}: {' '.join(names)}; `plot` draws several together")
    settings = resolve(ReportSettings, line.settings)
    folder = find_run(names[0] if names else "", settings.runs)
    out = settings.out or folder / NAME
    write_report(folder, out=out, private=settings.private)
    if line.as_json:
        print(json.dumps({"file": str(out)}))
    else:
        open_console().print(Text(one_line(str(out))))
    if not can_draw():
        print("without curves: matplotlib is not installed; pip install 'selfplay-dialog[report]'", file=sys.stderr)
    return 0
