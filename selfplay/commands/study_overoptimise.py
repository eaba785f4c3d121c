"""`selfplay study overoptimise`: what a learned reward is worth when a policy is pushed to please it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from selfplay.commands.building import build_env, build_rewards
from selfplay.commands.study import START, Launcher, interrupted_by_signals
from selfplay.commands.terminal import one_line, open_console, plural
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import complete_spec, resolve, to_yaml
from selfplay.errors import UserError
from selfplay.overoptimise import STUDY, Tools, read_results, run_cell, run_cells
from selfplay.overoptimise_figure import draw_overoptimise
from selfplay.overoptimise_settings import OveroptimiseSettings, Plan
from selfplay.overoptimise_table import overoptimise_report
from selfplay.plots import can_draw
from selfplay.whole_files import write_whole

__all__ = ["run"]

CELL = "cell"  # the word that asks for one cell, in the process of its own
TRAIN = "train."
CELLS_FAILED = 1


def run(line: CommandLine) -> int:
    """Run the study, or one cell of it; return 0, or 1 if a cell failed."""
    words, cell = _without_cell(line.words[1:])
    if line.rewards:
        raise UserError("-r means nothing to this study; gold.NAME=WEIGHT gives the known reward another part")
    settings = _settings(words)
    env = build_env(settings.env)
    plan = Plan(settings=settings.model_copy(update={"env": complete_spec(settings.env, env)}))
    for one in plan.cells():
        if one.is_training:
            plan.train_settings(one, steps=1)
    tools = Tools(env=env, build_rewards=build_rewards, say=_printed if cell else lambda _: None)
    build_rewards(plan.gold())
    if line.dry_run:
        print(to_yaml(plan.settings).rstrip())
        return 0
    if cell is not None:
        run_cell(plan, plan.cell(cell), tools)
        return 0
    return _run(plan, words, command=" ".join([program_name(), "study", *line.words]))


def _without_cell(words: Sequence[str]) -> tuple[list[str], str | None]:
    cells = [word.partition("=")[2] for word in words if word.partition("=")[0] == CELL]
    return [word for word in words if word.partition("=")[0] != CELL], cells[-1] if cells else None


def _settings(words: Sequence[str]) -> OveroptimiseSettings:
    """Return the settings; words that begin with "train." are those of `train`."""
    train = tuple(word.removeprefix(TRAIN) for word in words if word.startswith(TRAIN))
    settings = resolve(OveroptimiseSettings, [word for word in words if not word.startswith(TRAIN)])
    return settings.model_copy(update={"train": (*settings.train, *train)})


def _printed(text: str) -> None:
    print(one_line(text), flush=True)


def _run(plan: Plan, words: Sequence[str], *, command: str) -> int:
    console = open_console()

    def say(text: str) -> None:
        console.print(Text(one_line(text)))

    def report() -> None:
        best, trained = read_results(plan)
        text = overoptimise_report(best, trained, command=command, notes=_notes(plan))
        write_whole(plan.folder / "table.md", text.encode())
        if can_draw():
            draw_overoptimise(best, trained, plan.folder / "curves.png")

    launcher = Launcher(say=say, program=(sys.executable, "-c", START, "study", STUDY))

    def launch(cell: str, log: Path, run: Path) -> int:
        return launcher([*words, f"{CELL}={cell}"], log, run)

    say(f"study {STUDY}: {plural(len(plan.cells()), 'cell')}, in {plan.folder}")
    if not can_draw():
        say("matplotlib is not installed, so there will be no picture: pip install 'selfplay-dialog[plots]'")
    with interrupted_by_signals():
        problems = run_cells(plan, launch=launch, say=say, report=report)
    report()
    console.print()
    console.print(Text((plan.folder / "table.md").read_text(encoding="utf-8").rstrip()), soft_wrap=True)
    for name in ("table.md", "curves.png"):
        if (plan.folder / name).exists():
            console.print(Text(f"written: {plan.folder / name}", style="dim"))
    return CELLS_FAILED if problems else 0


def _notes(plan: Plan) -> list[str]:
    settings = plan.settings
    gold = ", ".join(f"{spec.weight:g} {name}" for name, spec in plan.gold().items())
    return [
        f"Gold, a turn: {gold}.",
        f"Policy: {settings.model}; reward models: {settings.rm.backbone}, {settings.few} and {settings.many} labels "
        f"of gold, {settings.label_noise:.0%} of them drawn blindly; seeds {', '.join(map(str, settings.seeds))}.",
        f"Pool: {settings.candidates} conversations of the policy before training on each of {settings.scenarios} "
        "held-out scenarios; each N is the mean over all subsets of N of them.",
    ]
