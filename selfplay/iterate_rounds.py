"""Where the results of a round lie, and what they say.  Nothing here imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from selfplay.errors import UserError
from selfplay.iterate_settings import IterateSettings
from selfplay.run_evaluation import evaluated_version
from selfplay.run_reader import RunReader
from selfplay.whole_files import reason, write_whole

__all__ = ["NothingToLearnError", "Round", "Stage", "read_result", "write_result"]

Stage = Literal["talk", "label", "refit", "train", "measure"]  # in this order
RESULT_SCHEMA = "selfplay.iterate_round/1"


class NothingToLearnError(UserError):
    """A round's labels are all ties; going on with the same settings would end here again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round's place in the folder."""

    folder: Path  # of all rounds
    number: int  # from 0; seeds are drawn with it

    @property
    def ordinal(self) -> int:
        """Its number as people count, from 1: of folders, files and all that is shown."""
        return self.number + 1

    @property
    def place(self) -> Path:
        """Where its results lie."""
        return self.folder / "rounds" / str(self.ordinal)

    @property
    def talk(self) -> Path:
        """The run with the conversations that are labelled, and the labels."""
        return self.place / "talk"

    @property
    def labels(self) -> Path:
        """What came of labelling."""
        return self.place / "labels.json"

    @property
    def rm(self) -> Path:
        """The reward model that was fitted in this round."""
        return self.place / "rm"

    @property
    def refit(self) -> Path:
        """What came of fitting."""
        return self.place / "refit.json"

    @property
    def train(self) -> Path:
        """The training run."""
        return self.place / "train"

    @property
    def stop(self) -> Path:
        """After how many updates an alarm ended training; goes where the run goes."""
        return self.train / "stop.json"

    @property
    def evaluation(self) -> Path:
        """What training changed."""
        return self.place / "evaluation.json"

    def has(self, stage: Stage) -> bool:
        """Whether the result of a stage is there."""
        if stage == "talk":
            return RunReader(self.talk).status == "finished" if self.talk.is_dir() else False
        if stage == "train":
            return evaluated_version(self.train) is not None
        return {"label": self.labels, "refit": self.refit, "measure": self.evaluation}[stage].is_file()

    def previous(self) -> Round:
        """Return the round before."""
        return Round(folder=self.folder, number=self.number - 1)

    def so_far(self) -> list[Round]:
        """Return all rounds up to this one."""
        return [Round(folder=self.folder, number=number) for number in range(self.number + 1)]

    def newest_rm(self, settings: IterateSettings) -> Path:
        """Return the reward model that this round trains against."""
        return Round(folder=self.folder, number=0).rm if settings.rm.refit == "frozen" else self.rm


def write_result(file: Path, values: Mapping[str, Any]) -> None:
    """Write what a stage came to, whole or not at all."""
    text = json.dumps({"schema": RESULT_SCHEMA, **values}, indent=1, allow_nan=False)
    write_whole(file, text.encode() + b"\n")


def read_result(file: Path) -> dict[str, Any]:
    """Return what a stage came to.  Raises UserError if the file is damaged or something else."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["schema"] != RESULT_SCHEMA:
            raise ValueError(f"schema {record['schema']!r} is not {RESULT_SCHEMA}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} cannot be read: {reason(error)}; remove it to have the stage done again") from error
    return dict(record)
