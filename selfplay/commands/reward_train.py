"""`selfplay reward train`: labelled data in, a reward model out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from selfplay.commands.reward_progress import FitScreen
from selfplay.commands.reward_report import REPORT, cheap_heuristics, counted, print_report, say_line
from selfplay.commands.terminal import one_line, open_console
from selfplay.commands.words import CommandLine, program_name
from selfplay.config import resolve, to_yaml
from selfplay.errors import UserError
from selfplay.reward_model.card import card_of
from selfplay.reward_model.dialogs import Dialog, dialog_of
from selfplay.reward_model.examples import Example, split_examples
from selfplay.reward_model.report import report_on, report_to_json
from selfplay.reward_model.settings import MINILM, REWARD_MODELS, FitSettings
from selfplay.reward_model.trained_on import is_known
from selfplay.score import has_failed
from selfplay.store import RunReader, find_run

__all__ = ["USAGE", "keep_vectors", "run"]

USAGE = """
selfplay reward train DATA ... [key=value ...] [--dry-run] [--json]

Makes a reward model from what was preferred to what, and ends with its report: how often it prefers what was preferred
among what was held out, and whether length alone, or one simple reward, does as well.  docs/reward-models.md has the
formats of the data and all settings.

  DATA               a labelled run; a file or folder of pairs (.jsonl, .json, .parquet; chosen and rejected, as
                     HH-RLHF and TRL write them); chitchat: rated chats between people; several are joined
  out=FOLDER         where it is written (default: reward_models/NAME-OF-THE-DATA)
  backbone=minilm    sentence vectors, minutes on a laptop; words: which words a message holds, without any download;
                     or a language model: smollm2-135m, a folder, a hub id
  method=lora        of a language model: lora or full
  held_out=0.2       share of the data that it is measured on
  ensemble=0         so many members, whose mean counts; 0: 3 on sentence vectors, 1 on a language model
  noise=0            share of labels taken to be drawn blindly
  clamp=1            targets stay within 1 - clamp and clamp: at 0.6 from 0.4 to 0.6
  twin=false         true: a second one on the other half of the labels, always scored beside it
  start=RM           go on from another reward model
  reference=RUN      whose turns score mean 0 and deviation 1 (default: those of the training data)
  by=NAME            of runs: what this one said, such as person, judge or gold (default: everybody)
  question=interesting   of chitchat: or witty, upbeat; min_gap=2: by how much ratings of a pair differ
  --dry-run          read the data, print all settings and stop
  --json             print the report as JSON

Examples:
  selfplay reward train helpful.jsonl.gz out=reward_models/helpful
  selfplay reward train my-run backbone=words
  selfplay reward train chitchat question=witty noise=0.1
"""
MOST_SHOWN = 5  # lines of one kind
MOST_REFERENCE = 1000  # dialogs of the reference, drawn by seed
DRAW_REFERENCE = 2131  # first part of the spawn key
SUFFIXES = (".gz", ".jsonl", ".json", ".parquet")
SIDES = ("train", "test", "validation", "held_out")  # files that are called so are known by their folder's name
RECORD = "reward_model.json"
NOTHING_HELD_OUT = "nothing is held out, so nothing tells how good the model is"
REMEMBERED_TEXTS = 100_000  # 150 MB; the rated chats hold 91,000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    """What a model is trained on and measured with."""

    words: tuple[str, ...]  # as they were typed
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    problems: tuple[str, ...]  # lines that cannot be used
    overlap: tuple[str, ...]  # held-out examples that are left out, for they are trained on as well
    notes: tuple[str, ...]  # what else there is to know of the data

    @property
    def summary(self) -> list[str]:
        """What a reader of the model's numbers must know of the data."""
        return [
            *self.notes,
            *([self.of_problems] if self.problems else []),
            *([self.of_overlap] if self.overlap else []),
            *([] if self.held_out else [NOTHING_HELD_OUT]),
        ]

    @property
    def of_problems(self) -> str:
        """How many lines are bad, in words."""
        return f"{counted(len(self.problems), 'line')} could not be used"

    @property
    def of_overlap(self) -> str:
        """How many held-out examples are left out, in words."""
        return f"{counted(len(self.overlap), 'held-out example')} left out, for the same dialog is trained on"


def run(line: CommandLine) -> int:
    """Read the data, train, measure, and write the folder; return 0."""
    settings, words = resolve(FitSettings, line.settings), line.names[1:]
    if not words:
        raise UserError("reward train needs data: a run, a .jsonl file of pairs, or chitchat; --help says more")
    out = settings.out or REWARD_MODELS / _name_of(words)
    _check_place(out)
    console = open_console(is_stderr=line.as_json)
    data = _read(words, settings)
    _print_data(console, data, settings)
    if line.dry_run:
        _print_settings(_as_used(settings, data, out), data, as_json=line.as_json)
        return 0
    _train(data, settings, out, console=console, as_json=line.as_json)
    return 0


def _name_of(words: Sequence[str]) -> str:
    """Return a name for a model of this data, such as ``hh`` or ``my-run+chitchat``."""
    return "+".join(dict.fromkeys(_name_of_one(Path(word)) for word in words))


def _name_of_one(path: Path) -> str:
    place = path.resolve() if path.exists() else path
    name = place.name
    for suffix in SUFFIXES:
        name = name.removesuffix(suffix)
    return place.parent.name if name in SIDES and place.parent.name else name or "data"


def _check_place(out: Path) -> None:
    """Refuse, before anything is trained, a place where something else is."""
    if out.exists() and not (out / RECORD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"out={out}: it is there already, and is no reward model; choose another folder")


# ----- the data -----


def _read(words: Sequence[str], settings: FitSettings) -> _Data:
    from selfplay.reward_model.members import check_backbone
    from selfplay.reward_model.readers import read_data, without_overlap

    # To read the data may take minutes, and a misspelt name none.
    check_backbone(settings.backbone, runs=settings.runs)
    known = _known_to_start(settings)
    loaded = read_data(words, settings)
    train, held_out = split_examples(loaded.examples, held_out=settings.held_out, seed=settings.seed)
    if not train:
        raise UserError(f"{' '.join(words)}: nothing is left to train on; see held_out={settings.held_out:g}")
    kept, overlap = without_overlap(train, held_out)
    overlap += [f"{one.where}: start={settings.start} was trained on it" for one in kept if is_known(one, known)]
    return _Data(
        words=tuple(words),
        train=tuple(train),
        held_out=tuple(example for example in kept if not is_known(example, known)),
        problems=loaded.problems,
        overlap=tuple(overlap),
        notes=loaded.notes,
    )


def _known_to_start(settings: FitSettings) -> Collection[str]:
    """Return what stands for the dialogs that the model to start from, or a twin's start, was trained on."""
    if not settings.start:
        return ()
    from selfplay.reward_model.fit import check_start
    from selfplay.reward_model.folder import TWIN, find, trained_on_of

    check_start(settings)
    folder = find(settings.start)
    own = trained_on_of(folder) or frozenset()
    return own | (trained_on_of(folder / TWIN) or frozenset()) if settings.twin else own


def _print_data(console: Console, data: _Data, settings: FitSettings) -> None:
    """Print what was read, what of it is used, and how it is parted, in this order."""
    every = [*data.train, *data.held_out]
    for (source, kind), count in Counter((example.source, example.kind) for example in every).most_common():
        say_line(console, "data", f"{source or 'unknown'}: {counted(count, kind)}")
    for note in data.notes:
        say_line(console, "", note, style="yellow")
    _print_lines(console, "bad lines", data.of_problems, data.problems)
    say_line(console, "split", f"{len(data.train):,} to train on, {len(data.held_out):,} held out")
    told = f"{100 * settings.validation:.0f}% of those to train on decide when to stop; held-out ones only measure"
    if settings.validation and data.held_out:
        say_line(console, "", told, style="dim")
    _print_lines(console, "overlap", data.of_overlap, data.overlap)
    if not data.held_out:
        say_line(console, "note", NOTHING_HELD_OUT, style="yellow")


def _print_lines(console: Console, what: str, summary: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    say_line(console, what, summary, style="yellow")
    for text in lines[:MOST_SHOWN]:
        say_line(console, "", text, style="yellow")
    if len(lines) > MOST_SHOWN:
        say_line(console, "", f"and {len(lines) - MOST_SHOWN} more like these", style="yellow")


def _as_used(settings: FitSettings, data: _Data, out: Path) -> FitSettings:
    """Return the settings with what automatic ones come to, where that is known without training."""
    from selfplay.reward_model.fit import filled_in

    judged = Counter(example.judged for example in data.train).most_common(1)[0][0]
    return filled_in(settings, judged).model_copy(update={"out": out})


def _print_settings(settings: FitSettings, data: _Data, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"settings": settings.model_dump(mode="json"), "data": _data_to_json(data)}, indent=2))
    else:
        print(to_yaml(settings).rstrip())


def _data_to_json(data: _Data) -> dict[str, Any]:
    return {
        "words": list(data.words),
        "num_train": len(data.train),
        "num_held_out": len(data.held_out),
        "problems": list(data.problems),
        "overlap": list(data.overlap),
        "notes": list(data.notes),
    }


# ----- training -----


def _train(data: _Data, settings: FitSettings, out: Path, *, console: Console, as_json: bool) -> None:
    # Imported here, for --help must not wait for torch.
    from selfplay.reward_model.fit import fit
    from selfplay.reward_model.folder import save

    _use_threads(settings.threads)
    keep_vectors(settings)
    reference = _reference(settings) if settings.reference else None
    screen = FitScreen(console)
    with screen.shown():
        model = fit(
            data.train, data.held_out, settings, reference=reference, say=screen.say, on_progress=screen.on_progress
        )
    screen.end()
    report = report_on(model, data.held_out, data.train, cheap_heuristics(), seed=settings.seed)
    record = report_to_json(report)
    card = card_of(model.info, report, name=out.resolve().name, folder=str(out), data=data.words, notes=data.summary)
    is_replaced = (out / RECORD).is_file()
    save(model, out, more={"README.md": card.encode(), REPORT: json.dumps(record, indent=1).encode() + b"\n"})
    if as_json:
        print(json.dumps({"out": str(out), "data": _data_to_json(data), "report": record}))
        return
    print_report(console, report)
    for text in _ending(out, is_replaced=is_replaced, has_twin=model.twin is not None, truncated=model.num_truncated):
        console.print(Text(one_line(text)), soft_wrap=True)


def keep_vectors(settings: FitSettings) -> None:
    """Let the sentence encoder remember what it has read: members, twins and the report read the same texts."""
    if settings.backbone == MINILM:
        from selfplay.sentences import MINILM as ENCODER
        from selfplay.sentences import encoder_of

        encoder_of(ENCODER).make_room(REMEMBERED_TEXTS)


def _use_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


def _reference(settings: FitSettings) -> list[Dialog]:
    """Return dialogs of the runs that set mean 0 and deviation 1, each trained role's view of each."""
    dialogs = []
    for name in settings.reference.split(","):
        for conversation in RunReader(find_run(name, settings.runs)).conversations(with_tokens=False):
            speakers = dict.fromkeys(turn.role for turn in conversation.turns)
            trained = [role for role in speakers if role in conversation.players and conversation.players[role].trained]
            if not has_failed(conversation):
                dialogs += [dialog_of(conversation, role) for role in trained or speakers]
    if not dialogs:
        raise UserError(f"reference={settings.reference}: no conversation of these runs has a turn")
    generator = np.random.default_rng(np.random.SeedSequence(settings.seed, spawn_key=(DRAW_REFERENCE,)))
    drawn = sorted(generator.permutation(len(dialogs))[:MOST_REFERENCE].tolist())
    return [dialogs[number] for number in drawn]


def _ending(out: Path, *, is_replaced: bool, has_twin: bool, truncated: int) -> Iterator[str]:
    program = program_name()
    if truncated:
        yield f"{counted(truncated, 'dialog')} did not fit the model and lost old messages; max_tokens= is their limit"
    yield f"{'replaced' if is_replaced else 'written'}: {out}{', its twin in it' if has_twin else ''}; next:"
    yield f"  {program} train -r rm:{out}=0.5"
    yield f"  {program} rescore RUN -r rm:{out}=1"
    yield f"  {program} reward report {out}"
