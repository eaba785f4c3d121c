"""`selfplay plot`: learning curves of one run or several, as pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.text import Text

from selfplay.commands.imitated import refuse_imitation
from selfplay.commands.terminal import one_line, open_console
from selfplay.commands.words import CommandLine
from selfplay.config import WRITTEN_PATH, Settings, resolve
from selfplay.curves import BandKind, RunCurves, grouped, read_curves, repeated_seeds
from selfplay.figures import Look, caption, draw_all
from selfplay.run_reader import find_run

__all__ = ["SUMMARY", "USAGE", "run"]

SUMMARY = "learning curves of one run or several, as pictures"
USAGE = """
selfplay plot [RUN ...] [key=value ...] [--json]

Draw, as PNG and as SVG: the reward and its parts over the updates (learning), the reward against the KL that it cost
(kl), what each part adds to the reward (parts), and how length, variety and repetition drift (drift).  What no run
measured is left out.

Several runs share their axes.  Runs that differ only in their seed are one line, the mean, with a band around it;
other runs are called by the settings that differ.  A study's folder stands for all its runs.

  RUN              a run folder, a name under runs/, or a study's folder; nothing: the newest run
  out=FOLDER       where the pictures go; older pictures there are replaced
                   (default: RUN/figures, or figures/ for several)
  smooth=5         each point is a run's mean over so many updates (default: 1)
  band=interval    the band is the 95% interval of the mean (default: range, from the lowest run to the highest)
  where=FILTER     only the training conversations that fit, measured anew, as in where='about~"rain" & turns>2'
  runs=FOLDER      where runs are kept (default: runs)
  --json           print the files as JSON

Examples:
  selfplay plot
  selfplay plot chat-a chat-b smooth=5 out=pictures
  selfplay plot docs/results/kl-control out=pictures
"""
FIGURES = Path("figures")


class PlotSettings(Settings):
    """What `plot` accepts besides the runs."""

    out: Annotated[Path | None, WRITTEN_PATH] = None  # None: beside the run
    smooth: int = Field(default=1, ge=1)
    band: BandKind = "range"
    where: str = ""  # "": all conversations, as they were measured in training
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")


def run(line: CommandLine) -> int:
    """Draw what the words name."""
    settings = resolve(PlotSettings, line.settings)
    named = line.names or [str(find_run("", settings.runs))]
    for place in (folder / name for name in named for folder in (Path(), settings.runs)):
        refuse_imitation(place, "it has losses, in {run}/sft.json, and no rewards to draw; plot draws runs of train")
    groups = grouped(read_curves(named, settings.runs, where=settings.where))
    look = Look(smooth=settings.smooth, band=settings.band)
    files = draw_all(groups, settings.out or _beside(named, settings.runs), look=look)
    notes = repeated_seeds(groups)
    if line.as_json:
        named_groups = {one.label: _names(one.runs) for one in groups}
        print(json.dumps({"files": list(map(str, files)), "groups": named_groups, "notes": notes}))
        return 0
    console = open_console()
    for file in files:
        console.print(Text(one_line(str(file))))
    for text in (caption(groups, look=look), *notes):
        console.print(Text(one_line(text), style="dim"))
    return 0


def _beside(names: list[str], runs: Path) -> Path:
    if len(names) > 1:
        return FIGURES
    places = (Path(names[0]), runs / names[0])
    study = next((place for place in places if (place / "study.json").is_file()), None)
    return (study or find_run(names[0], runs)) / FIGURES


def _names(runs: tuple[RunCurves, ...]) -> list[str]:
    return [one.name for one in runs]
