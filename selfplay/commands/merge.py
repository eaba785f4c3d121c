"""`selfplay merge`: a trained policy as a plain Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

from rich.text import Text

from selfplay import models, trained
from selfplay.commands.terminal import one_line, open_console
from selfplay.commands.words import CommandLine, program_name
from selfplay.errors import UserError
from selfplay.run_folder import RUNS, is_run
from selfplay.written import nearest

SUMMARY = "write a trained policy as a plain Hugging Face folder"
USAGE = """
selfplay merge RUN[@STEP] out=FOLDER [--json] [runs=FOLDER]

Write what a training run learned as one plain Hugging Face folder, tokenizer included: adapters are added to the
weights they belong to, and nothing but transformers is needed to load it.

  RUN          a run folder, or a name under runs/: its newest checkpoint; RUN@30: that after 30 updates
               (a peft folder works too)
  out=FOLDER   a new folder
  runs=FOLDER  where runs are kept (default: runs)
  --json       print where it lies as JSON

Examples:
  selfplay merge my-run out=my-model
  selfplay merge my-run@30 out=my-model-30
  python -c "from transformers import pipeline; print(pipeline('text-generation', 'my-model')('Hello'))"
"""
SETTINGS = ("out", "runs")


def run(line: CommandLine) -> int:
    """Write what the words name."""
    name, settings = _read(line)
    runs = Path(settings.get("runs", RUNS))
    if not settings.get("out"):
        raise UserError("out= is missing: the folder to write, such as out=my-model")
    out = Path(settings["out"])
    _check(name, runs)
    # Before the model is loaded, which takes longer.
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out}: there is something already; choose a new folder")
    models.save(models.load(name, device="cpu", dtype="float32", runs=runs), out)
    if line.as_json:
        print(json.dumps({"model": name, "folder": str(out)}))
    else:
        text = f"{name} is in {out}; talk to it with {program_name()} play model={out}"
        open_console().print(Text(one_line(text)))
    return 0


def _check(name: str, runs: Path) -> None:
    """Raise UserError, about the word as it was typed, unless it means a model."""
    try:
        models.check_name(name, runs=runs)
    except UserError as error:
        is_of_run = trained.AT_STEP.fullmatch(name) or is_run(Path(name)) or is_run(runs / name)
        hint = "" if is_of_run else f"; {trained.listed(runs)}"
        raise UserError(str(error).removeprefix("model=") + hint) from error


def _read(line: CommandLine) -> tuple[str, dict[str, str]]:
    """Return the one plain word and the settings: raises UserError for any other."""
    plain, settings = [], {}
    for word in line.words:
        key, equals, value = word.partition("=")
        if equals and key in SETTINGS:
            settings[key] = value
        elif equals and key.isidentifier():
            raise UserError(f"unknown setting {key!r}{nearest(key, SETTINGS)}")
        else:
            plain.append(word)
    if len(plain) != 1:
        raise UserError(f"expected one RUN, not {len(plain)}; write selfplay merge RUN[@STEP] out=FOLDER")
    return plain[0], settings
