"""What `study overoptimise` accepts, its cells, and where their files are.

A study's folder::

    study.json                what it computes with
    runs/labels-SEED          conversations that the reward models are trained on
    runs/pool-SEED            held-out conversations that best-of-N chooses from
    runs/train_ARM-SEED       training against a reward model
    reward_models/ARM-SEED    the reward models
    cells/CELL-SEED.json      what a finished cell came to
    logs/CELL-SEED.log        what its process said
    table.md curves.png       rewritten after every cell
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from selfplay.config import WRITTEN_PATH, EngineSettings, PluginSpec, SamplingSettings, Settings, resolve
from selfplay.errors import UserError
from selfplay.reward_model.settings import FitSettings
from selfplay.train_settings import RewardSpec, TrainSettings

__all__ = ["ARMS", "GOLD", "Arm", "Cell", "OveroptimiseSettings", "Plan"]

Arm = Literal["few", "many"]
ARMS: tuple[Arm, ...] = ("few", "many")
CONFIG = Path(__file__).parent / "studies" / "overoptimise.yaml"
# The known reward that stands for what people want: asking, a friendly mood, and not saying things again.  A turn earns
# 2 at most and loses without a bound, so no trick is worth more than good talk.  A reward model of sentence vectors
# sees some of it well (questions, mood) and some of it badly (how often a word came before).
GOLD = {
    "question": 1.0,
    "sentiment": 1.0,
    "conversation_repetition": 0.1,
    "utterance_repetition": 0.1,
    "ngram_loops": 1.0,
}


def _from_commas(value: object) -> object:
    return value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value


Numbers = Annotated[tuple[int, ...], BeforeValidator(_from_commas)]


class OveroptimiseSettings(Settings):
    """What the study computes with."""

    out: Annotated[Path, WRITTEN_PATH] = Path("runs/study-overoptimise")
    seeds: Numbers = (0,)
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")  # where a run that model= names is looked up
    model: str = Field(default="smollm2-135m", min_length=1)  # the policy
    env: PluginSpec = PluginSpec.model_validate({"name": "chitchat", "max_turns": 4})
    sampling: SamplingSettings = SamplingSettings(temperature=1.0, max_new_tokens=20)
    engine: EngineSettings = EngineSettings()
    gold: dict[str, float] = GOLD  # the known reward: parts and weights; 0 leaves a part out
    few: int = Field(default=100, ge=4)  # labels
    many: int = Field(default=1600, ge=4)
    label_noise: float = Field(default=0.1, ge=0, lt=1)  # share of labels that are drawn blindly
    label_scenarios: int = Field(default=160, ge=1)  # that labelled conversations are on
    label_conversations: int = Field(default=4, ge=2)  # of each
    scenarios: int = Field(default=48, ge=2)  # held out, for best-of-N
    candidates: int = Field(default=32, ge=2)  # conversations of each: the largest N
    rm: FitSettings = FitSettings(noise=0.1)  # how both reward models are trained
    points: Numbers = (4, 8, 12, 18, 24)  # updates after which the trained policies are measured; (): none are trained
    train: tuple[str, ...] = ()  # words of `train` on top of studies/overoptimise.yaml

    @model_validator(mode="after")
    def _check(self) -> OveroptimiseSettings:
        if not any(self.gold.values()):
            raise UserError(
                "gold: all weights are 0, so there is nothing to learn; give a part a weight, as question=1"
            )
        if not self.few < self.many:
            raise UserError(f"few={self.few} must be less than many={self.many}")
        if list(self.points) != sorted(set(self.points)) or any(point < 1 for point in self.points):
            raise UserError(f"points={','.join(map(str, self.points))}: must rise, from at least 1")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"seeds={','.join(map(str, self.seeds))}: must be different numbers, at least 0")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One piece of the study: a reward model with its best-of-N, or a training run against it."""

    arm: Arm
    seed: int
    is_training: bool = False

    @property
    def name(self) -> str:
        """Name of its files: "few-0", "train_few-0"."""
        return f"{'train_' if self.is_training else ''}{self.arm}-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The study's cells and files."""

    settings: OveroptimiseSettings

    @property
    def folder(self) -> Path:
        """Where all of it goes."""
        return self.settings.out

    def cells(self) -> list[Cell]:
        """Return all cells, seed by seed: the reward models first, for the training runs need them."""
        kinds = (False, True) if self.settings.points else (False,)
        return [
            Cell(arm=arm, seed=seed, is_training=is_training)
            for seed in self.settings.seeds
            for is_training in kinds
            for arm in ARMS
        ]

    def cell(self, name: str) -> Cell:
        """Return the cell of that name; raises UserError if there is none."""
        found = {cell.name: cell for cell in self.cells()}
        if name not in found:
            raise UserError(f"cell={name}: there is no such cell; there are {', '.join(found)}")
        return found[name]

    def num_labels(self, arm: Arm) -> int:
        """Return how many labels an arm's reward model learns from."""
        return self.settings.few if arm == "few" else self.settings.many

    def run(self, kind: Literal["labels", "pool"], seed: int) -> Path:
        """Return the folder of conversations of the policy before training."""
        return self.folder / "runs" / f"{kind}-{seed}"

    def training_run(self, cell: Cell) -> Path:
        """Return the folder of a cell's training run."""
        return self.folder / "runs" / cell.name

    def reward_model(self, cell: Cell) -> Path:
        """Return the folder of the reward model of a cell's arm and seed."""
        return self.folder / "reward_models" / f"{cell.arm}-{cell.seed}"

    def cell_file(self, cell: Cell) -> Path:
        """Return where a cell's result stands once it has finished."""
        return self.folder / "cells" / f"{cell.name}.json"

    def log_file(self, cell: Cell) -> Path:
        """Return what a cell's process said."""
        return self.folder / "logs" / f"{cell.name}.log"

    def gold(self) -> dict[str, RewardSpec]:
        """Return the parts of the known reward."""
        return {name: RewardSpec(weight=weight) for name, weight in self.settings.gold.items() if weight}

    def train_settings(self, cell: Cell, *, steps: int) -> TrainSettings:
        """Return what a cell trains with; the gold reward's parts are measured only."""
        own = self.settings
        settings = resolve(TrainSettings, [f"config={CONFIG}", *own.train, f"seed={cell.seed}", f"model={own.model}"])
        parts = {name: RewardSpec(weight=0.0) for name in self.gold()}
        model = self.reward_model(cell).resolve()
        rewards = {f"rm:{model.name}": RewardSpec.model_validate({"name": f"rm:{model}", "weight": 1.0}), **parts}
        changes = {"env": own.env, "engine": own.engine, "sampling": own.sampling, "runs": own.runs}
        return settings.model_copy(update={**changes, "steps": steps, "rewards": rewards})

    def record(self) -> dict[str, Any]:
        """Return what a cell's result depends on; which cells there are is left out."""
        left_out = {"out", "seeds", "runs", "engine"}
        return self.settings.model_dump(mode="json", by_alias=True, exclude=left_out)
