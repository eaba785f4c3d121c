"""What `sft` accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfplay.config import (
    WRITTEN_PATH,
    EngineSettings,
    PluginSpec,
    SamplingSettings,
    Settings,
    TranscriptSettings,
)
from selfplay.train_settings import LoraSettings, Method

__all__ = ["NO_ENV", "NUM_SCRIPTED", "SftEvaluation", "SftSettings"]

NO_ENV = "none"  # the name of no environment: losses are all that is measured
# SmolLM2-135M after two passes over 48 scripted games of taboo: held-out loss 3.91 before, with lora 2.27 at 1e-3 and
# 2.10 at 2e-3, in full 2.16 at 1e-4.  There is more to learn from in more games, so the lower rate is the usual one.
RATES = {"lora": 1e-3, "full": 1e-4}
NUM_SCRIPTED = 300


class SftEvaluation(Settings):
    """Held-out games before and after, played by the model itself."""

    conversations: int = Field(default=32, ge=0)  # each on its own scenario; 0: none


class SftSettings(Settings):
    """How a model learns to say what was said in given conversations."""

    seed: int = Field(default=0, ge=0)  # every draw derives from it
    from_: str = Field(default="", alias="from")  # scripted, a run, or a file of chats
    filter: str = ""  # which conversations, as docs/filters.md says; `payoff` and `reward` are the imitated role's
    roles: str = ""  # whose turns, with commas; "": of scripted ones all, of a run the trained ones
    env: PluginSpec = PluginSpec(name=NO_ENV)  # which game; none: that of the run
    model: str = Field(default="smollm2-135m", min_length=1)  # a named model, a folder, a hub id, or RUN[@STEP]
    conversations: int | None = Field(default=None, ge=1)  # how many; None: 300 scripted ones, all of a run or a file
    held_out: float = Field(default=0.2, ge=0, lt=1)  # share of them that only measures; scripted: so many more
    epochs: int = Field(default=3, ge=1)  # passes over the conversations
    batch: int = Field(default=8, ge=1)  # conversations an update
    patience: int = Field(default=0, ge=0)  # passes without a better held-out loss that end it; 0: it never ends early
    method: Method = "lora"  # lora: train adapters; full: train every parameter
    learning_rate: float | None = Field(default=None, gt=0)  # None: 1e-3 with lora, 1e-4 in full
    schedule: Literal["constant", "linear", "cosine"] = "linear"  # linear and cosine fall to 0 at the last update
    warmup_steps: int = Field(default=0, ge=0)  # updates over which the rate rises from 0
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)  # of all parameters together
    tokens_per_microbatch: int = Field(default=1024, ge=1)  # whose activations exist at once
    gradient_checkpointing: bool = False  # less memory, a third more time
    lora: LoraSettings = LoraSettings()
    sampling: SamplingSettings = SamplingSettings(temperature=1.0)  # of the games before and after
    engine: EngineSettings = EngineSettings()
    evaluation: SftEvaluation = SftEvaluation()
    transcripts: TranscriptSettings = TranscriptSettings()
    out: Annotated[Path | None, WRITTEN_PATH] = None  # run folder; None: runs/sft-<env>-<model>-<mmdd-HHMMSS>
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")  # where run folders are looked up

    @property
    def has_env(self) -> bool:
        """Whether a game is named."""
        return self.env.name != NO_ENV

    @property
    def chosen_roles(self) -> tuple[str, ...]:
        """The roles that are named."""
        return tuple(dict.fromkeys(name.strip() for name in self.roles.split(",") if name.strip()))

    @model_validator(mode="after")
    def _check(self) -> SftSettings:
        if self.patience and not self.held_out:
            raise ValueError("patience= looks at the held-out loss, and held_out=0 holds nothing out")
        return self

    @property
    def rate(self) -> float:
        """The learning rate, chosen or usual."""
        return self.learning_rate or RATES[self.method]
