"""What `iterate` accepts: all that `train` does, of each round, and how feedback is made and learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from selfplay.config import PRESETS, PlaySettings, Settings, preset_text
from selfplay.errors import UserError
from selfplay.play import draw_seed
from selfplay.reward_model.settings import MINILM, FitSettings
from selfplay.train_settings import RewardSpec, TrainSettings
from selfplay.written import Source, read_source

__all__ = [
    "GOLD",
    "JUDGE",
    "ON_SENTENCES",
    "RM",
    "TWIN",
    "IterateSettings",
    "JudgeGroup",
    "RewardModelGroup",
    "fit_settings",
    "play_settings",
    "preset_source",
    "reward_model_spec",
    "seed_of",
    "train_settings",
]

GOLD, JUDGE = "gold", "judge"
RM, TWIN = "rm", "twin"  # what the reward model, and the one of the other half of the labels, are recorded as
Purpose = Literal["talk", "label", "split", "halves", "fit", "train", "measure"]
# First parts of the spawn keys: no purpose draws what another one draws.
DRAWS: Mapping[Purpose, int] = {
    "talk": 2201,
    "label": 2202,
    "split": 2203,
    "fit": 2204,
    "train": 2205,
    "measure": 2206,
    "halves": 2207,
}
# What a round decides by itself, so that words cannot.
ON_SENTENCES = (MINILM, "words")  # backbones that are no language model, and have three members unless told
DECIDED = ("seed", "twin", "reference", "out", "runs", "question", "min_gap", "by")


class RewardModelGroup(FitSettings):
    """How the reward model of a round is trained: the settings of `reward train`."""

    refit: Literal["refreshed", "frozen"] = "refreshed"  # frozen: the first round's is kept

    @property
    def has_ensemble(self) -> bool:
        """Whether there are members that can disagree."""
        return self.ensemble > 1 or (self.ensemble == 0 and self.backbone in ON_SENTENCES)

    @model_validator(mode="after")
    def _check(self) -> RewardModelGroup:
        for name in DECIDED:
            if getattr(self, name) != FitSettings.model_fields[name].default:
                raise UserError(f"rm.{name}: each round decides that by itself; leave it out")
        return self


class JudgeGroup(Settings):
    """Who judges, with by=judge."""

    model: str = Field(default="smollm2-135m", min_length=1)  # a model as model= takes it
    constitution: str = ""  # a file of principles; "": those of the package
    few_shot: int = Field(default=0, ge=0)  # worked examples before every question
    clamp: float = Field(default=1.0, gt=0.5, le=1)  # labels stay within 1 - clamp and clamp


class IterateSettings(TrainSettings):
    """What `iterate` accepts.  What `train` has too is meant of each round."""

    steps: int = Field(default=10, ge=1)  # updates a round
    rounds: int = Field(default=3, ge=1)
    by: str = GOLD  # who says what is better: gold, the rewards of these settings; gold:REWARD; judge
    labels: int = Field(default=800, ge=1)  # a round
    unit: Literal["conversation", "turn"] = "conversation"  # what a label is about
    sampler: Literal["uniform", "disagreement"] = "uniform"  # disagreement: of the newest reward model's members
    candidates: int = Field(default=10, ge=1)  # with sampler=disagreement: so many times more pairs are looked at
    gold_noise: float = Field(default=0.0, ge=0, lt=1)  # share of gold labels that are drawn blindly
    gold_temperature: float = Field(default=0.0, ge=0)  # 0: the better one; else drawn, the more so the closer they are
    talk_conversations: int = Field(default=192, ge=2)  # a round, to be labelled; a multiple of talk_group
    talk_group: int = Field(default=8, ge=2)  # of those that share a scenario: only these are compared
    continue_from: Literal["previous", "base"] = "previous"  # base: every round trains the first policy anew
    also: dict[str, RewardSpec] = Field(
        default={}
    )  # rewards trained on beside the reward model; weight 0 measures only
    pessimism: float = Field(default=0.0, ge=0)  # deviations of the reward model's members taken off what it says
    rm: RewardModelGroup = RewardModelGroup()
    judge: JudgeGroup = JudgeGroup()

    @model_validator(mode="after")
    def _check_rounds(self) -> IterateSettings:
        if self.talk_conversations % self.talk_group:
            raise UserError(
                f"talk_conversations={self.talk_conversations} must be a multiple of talk_group={self.talk_group}"
            )
        is_named = self.by.startswith(f"{GOLD}:") and self.by != f"{GOLD}:"
        if self.by not in (GOLD, JUDGE) and not is_named:
            raise UserError(f"by={self.by}: must be {GOLD}, {GOLD}:REWARD or {JUDGE}")
        if self.sampler == "disagreement" and not self.rm.has_ensemble:
            raise UserError("sampler=disagreement needs a reward model of several members; say rm.ensemble=3")
        if not self.evaluation.conversations:
            raise UserError("evaluation.conversations=0: a round could not be measured; say at least 1")
        if self.transcripts.tokens not in ("all", "evaluation"):
            raise UserError(
                f"transcripts.tokens={self.transcripts.tokens}: how far the policy went from the first one is measured "
                "on tokens; use all or evaluation"
            )
        return self


def seed_of(settings: IterateSettings, purpose: Purpose, number: int) -> int:
    """Return the seed of one purpose in a round."""
    return draw_seed(settings.seed, (DRAWS[purpose], number), bits=31)


def train_settings(
    settings: IterateSettings, *, number: int, model: str, rewards: Mapping[str, RewardSpec]
) -> TrainSettings:
    """Return what a round trains with."""
    own = {name: getattr(settings, name) for name in TrainSettings.model_fields}
    changes = {"seed": seed_of(settings, "train", number), "model": model, "rewards": dict(rewards), "out": None}
    return TrainSettings.model_construct(**{**own, **changes})


def play_settings(settings: IterateSettings, *, number: int, model: str) -> PlaySettings:
    """Return what a round's conversations for labels are played with, as `play` would take it."""
    shared = ("players", "env", "view", "sampling", "engine", "transcripts", "runs")
    return PlaySettings(
        seed=seed_of(settings, "talk", number),
        conversations=settings.talk_conversations,
        model=model,
        **{name: getattr(settings, name) for name in shared},
    )


def fit_settings(settings: IterateSettings, *, number: int) -> FitSettings:
    """Return what a round's reward model is fitted with."""
    own = {name: getattr(settings.rm, name) for name in FitSettings.model_fields}
    changes = {
        "seed": seed_of(settings, "fit", number),
        "twin": True,
        "reference": "dialogs of the first round",
        "runs": settings.runs,
        "threads": settings.rm.threads or settings.engine.threads,
    }
    return FitSettings.model_construct(**{**own, **changes})


def reward_model_spec(folder: Path, *, weight: float, pessimism: float = 0.0) -> RewardSpec:
    """Return a reward model as one of a run's rewards, by its whole path: where a run goes on from does not matter."""
    taken_off = {"pessimism": pessimism} if pessimism else {}
    return RewardSpec.model_validate({"name": f"rm:{folder.resolve()}", "weight": weight, **taken_off})


def preset_source(name: str) -> Source:
    """Return a preset of `train`, and over it what `iterate` needs besides, if there is a file of that."""
    source = read_source(f"preset {name}", preset_text(name))
    place = PRESETS / "iterate" / f"{name}.yaml"
    if not place.is_file():
        return source
    upper = read_source(f"preset iterate/{name}", place.read_text(encoding="utf-8"))
    return Source(name=upper.name, tree=_merged(source.tree, upper.tree), root=source.root)


def _merged(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
