"""What `train` accepts: every knob of self-play, scoring, learning and recording, as one frozen record."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from selfplay.alarms_settings import AlarmsGroup
from selfplay.config import (
    WRITTEN_PATH,
    EngineSettings,
    PluginSpec,
    SamplingSettings,
    Settings,
    TranscriptSettings,
)
from selfplay.errors import UserError
from selfplay.interfaces import View
from selfplay.learn.placement import Controller, Estimator, Place, check_placement
from selfplay.written import as_written

Method = Literal["full", "lora"]
Partner = Literal["mirror", "frozen", "league"]
GATE = "gate"  # in place of a weight
ROUNDING = 1e-9  # of shares that sum to 1
AlgorithmName = Literal["reinforce", "rloo", "grpo", "dr_grpo", "reinforce++", "ppo"]


class RewardSpec(PluginSpec):
    """A reward, its weight and its own settings: `rewards.question=0.5`, `=gate`, or with settings as a mapping.

    The key in `rewards` is the reward's name, unless `name` gives another plug-in's.
    """

    name: str = ""  # the plug-in; "": the key it stands under
    weight: float = Field(default=1.0, allow_inf_nan=False)  # 0: measured only
    # Written down only where they are used: most rewards have neither.
    role: str = Field(default="", exclude_if=operator.not_)  # whose turns it is about; "": everybody's
    gate: bool = Field(default=False, exclude_if=operator.not_)  # it multiplies positive sums by its number in [0, 1]

    @model_validator(mode="before")
    @classmethod
    def _from_weight(cls, value: object) -> object:
        if value == GATE:
            return {"gate": True}
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            return {"weight": value}
        if isinstance(value, Mapping):
            return {str(key): as_written(item) for key, item in value.items()}
        return value


class LoraSettings(Settings):
    """Low-rank adapters, with `learner.method=lora`."""

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)  # the adapter's product is scaled by alpha / rank
    targets: str = "all-linear"  # peft's target_modules: all-linear, or names separated by commas


class LearnerGroup(Settings):
    """How the policy is updated."""

    algorithm: AlgorithmName = "reinforce++"  # group mean, advantages of deviation 1, clipped ratio
    method: Method = "lora"  # lora: train adapters; full: train every parameter
    learning_rate: float = Field(default=4e-4, gt=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"  # linear and cosine fall to 0 at the last step
    warmup_steps: int = Field(default=0, ge=0)  # updates over which the rate rises from 0
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)  # of all parameters together
    epochs: int = Field(default=1, ge=1)  # passes over a batch
    minibatches: int = Field(default=1, ge=1)  # optimizer steps a pass
    tokens_per_microbatch: int = Field(default=512, ge=1)  # tokens whose activations exist at once
    gradient_checkpointing: bool = False  # less memory, a third more time
    baseline: Literal["algorithm", "none", "batch", "group_mean", "leave_one_out", "role_average"] = "algorithm"
    scale: Literal["algorithm", "none", "batch", "group"] = "algorithm"  # what advantages are divided by
    clip: float | None = Field(default=None, ge=0)  # PPO's range of the ratio; 0: no ratio; None: the algorithm's
    gamma: float = Field(default=1.0, ge=0, le=1)  # discount per own turn
    returns: Literal["sum", "normalised_parts"] = "sum"  # normalised_parts: VHRL's, each part standardised
    entropy_bonus: float = Field(default=0.0, ge=0)
    importance_cap: float = Field(default=2.0, ge=1)  # of the weights that correct conversations of older versions
    gae_lambda: float = Field(default=0.95, ge=0, le=1)  # ppo
    gae_over: Literal["turns", "tokens"] = "turns"  # ppo: what a step of the estimate is
    value_model: Literal["shared", "separate"] = "shared"  # ppo: a head on the policy, or a model of its own
    value_coefficient: float = Field(default=0.5, ge=0)  # ppo: weight of the value loss
    value_clip: float = Field(default=0.2, gt=0)  # ppo


class KLGroup(Settings):
    """How the policy is kept near its reference, the policy at the start of training."""

    place: Place = "loss"  # reward: takes k1 only; loss: takes k2, k3 or full
    estimator: Estimator = "k2"  # k2 and full follow the reverse divergence, k3 the forward one
    controller: Controller = "adaptive"  # off: measured only; adaptive: steers to the target
    coefficient: float = Field(default=1.0, ge=0)  # with adaptive: what it starts from
    target: float = Field(default=0.06, gt=0)  # nats a token of the trained roles
    horizon: float = Field(default=36.0, gt=0)  # conversations: how many it takes to answer an error

    @property
    def steered_to(self) -> float | None:
        """What the controller steers to, in nats a token; None: it has no target."""
        return self.target if self.controller == "adaptive" else None

    @model_validator(mode="after")
    def _check(self) -> KLGroup:
        check_placement(self.place, self.estimator)
        if self.controller == "adaptive" and self.coefficient == 0:
            raise UserError("kl.coefficient=0 with kl.controller=adaptive never moves; start above 0, such as 0.1")
        return self


class LeagueGroup(Settings):
    """Whom the policy meets, with `partner=league`.

    The ratios are shares of draws; what they leave is the share of past snapshots.
    """

    save_steps: int = Field(default=10, ge=1)  # updates between two snapshots
    swap_steps: int = Field(default=1, ge=1)  # updates for which a drawn opponent stays
    window: int = Field(default=8, ge=0)  # newest snapshots that may be met; 0: all
    play_against_latest_model_ratio: float = Field(default=0.5, ge=0)  # the policy itself, both roles trained
    frozen_ratio: float = Field(default=0.0, ge=0)  # the policy as it was before training
    scripted_ratio: float = Field(default=0.0, ge=0)  # the environment's scripted player
    choose: Literal["uniform", "prioritised"] = "uniform"  # prioritised: snapshots that win against the policy, more
    opponents: int = Field(default=1, ge=1)  # draws a step, each for an equal part of its groups
    missing: Literal["stop", "skip"] = "stop"  # skip: a run that goes on does without snapshots that have vanished

    @model_validator(mode="after")
    def _check(self) -> LeagueGroup:
        given = self.play_against_latest_model_ratio + self.frozen_ratio + self.scripted_ratio
        if given > 1 + ROUNDING:
            raise UserError(
                "league.play_against_latest_model_ratio, league.frozen_ratio and league.scripted_ratio are shares of "
                f"all draws, so their sum must be 1 or less; it is {given:g}"
            )
        return self


class EvaluationGroup(Settings):
    """Held-out conversations before and after training."""

    conversations: int = Field(default=48, ge=0)  # each on its own scenario, at the start and at the end; 0: none


class CheckpointGroup(Settings):
    """What is kept for going on and for using the policy."""

    save_every: int = Field(default=10, ge=1)  # updates
    keep: int = Field(default=2, ge=1)  # newest checkpoints


class LogGroup(Settings):
    """Where metrics go besides metrics.jsonl."""

    tensorboard: bool = False  # event files under RUN/tensorboard
    wandb: str = ""  # a Weights & Biases project; "": not used


class RayGroup(Settings):
    """How work is spread with `cluster=ray`."""

    address: str = ""  # "": start Ray here; auto or HOST:PORT: join a running cluster
    play_workers: int = Field(default=0, ge=0)  # 0: one under 8 cores, then one for every 4
    reward_workers: int = Field(default=0, ge=0)  # 0: one if a reward is slow, else none
    play_cpus: float = Field(default=0.0, ge=0)  # reserved by each play worker; 0: a fair part of this machine
    play_gpus: float = Field(default=0.0, ge=0)
    learner_cpus: float = Field(default=0.0, ge=0)  # 0: a fair part of this machine
    learner_gpus: float = Field(default=0.0, ge=0)
    start_timeout_seconds: float = Field(default=180.0, gt=0)  # how long actors may take to be placed


DEFAULT_REWARDS = {
    "question": RewardSpec(),
    "utterance_repetition": RewardSpec(weight=0.1),
    "conversation_repetition": RewardSpec(weight=0.1),
    "sentiment": RewardSpec(weight=0.0),
}


class TrainSettings(Settings):
    """What `train` accepts."""

    seed: int = Field(default=0, ge=0)  # every draw derives from it
    steps: int = Field(default=30, ge=1)  # updates
    out: Annotated[Path | None, WRITTEN_PATH] = None  # run folder; None: runs/<env>-<model>-<mmdd-HHMMSS>
    runs: Annotated[Path, WRITTEN_PATH] = Path("runs")  # where run folders are looked up
    model: str = Field(default="smollm2-135m", min_length=1)  # a named model, a folder, a hub id, or RUN[@STEP]
    env: PluginSpec = PluginSpec.model_validate({"name": "chitchat", "max_turns": 4})
    players: dict[str, str] = Field(
        default={}
    )  # role -> a fixed player instead of the policy: scripted, or another model
    # mirror: the policy on both sides, both trained; frozen: the policy before training; league: drawn as `league` says
    partner: Partner = "mirror"
    league: LeagueGroup = LeagueGroup()
    view: View = "perspective"
    conversations: int = Field(default=12, ge=1)  # a step; a multiple of group_size
    group_size: int = Field(default=4, ge=1)  # conversations that share a scenario
    block_size: int = Field(default=0, ge=0)  # conversations played together; 0: a step's, shared by the play workers
    max_staleness: int = Field(default=0, ge=0)  # updates a conversation may lag behind; 0: strictly on-policy
    rewards: dict[str, RewardSpec] = Field(default=DEFAULT_REWARDS, min_length=1)
    reward_timeout_seconds: float = Field(default=30.0, gt=0)  # of one call
    max_failed_share: float = Field(default=0.05, ge=0, le=1)  # of a step's conversations; more stop the run
    sampling: SamplingSettings = SamplingSettings(temperature=1.0, max_new_tokens=24)
    engine: EngineSettings = EngineSettings()
    learner: LearnerGroup = LearnerGroup()
    lora: LoraSettings = LoraSettings()
    kl: KLGroup = KLGroup()
    evaluation: EvaluationGroup = EvaluationGroup()
    checkpoints: CheckpointGroup = CheckpointGroup()
    transcripts: TranscriptSettings = TranscriptSettings()
    log: LogGroup = LogGroup()
    alarms: AlarmsGroup = AlarmsGroup()
    cluster: Literal["ray", "local"] = "ray"  # local: everything in this process
    ray: RayGroup = RayGroup()

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        if self.conversations % self.group_size:
            raise UserError(f"conversations={self.conversations} must be a multiple of group_size={self.group_size}")
        if self.block_size % self.group_size:
            raise UserError(f"block_size={self.block_size} must be a multiple of group_size={self.group_size}")
        for name, off in (("top_k", 0), ("top_p", 1.0), ("min_p", 0.0)):
            if getattr(self.sampling, name) != off:
                raise UserError(
                    f"sampling.{name}={getattr(self.sampling, name)}: training takes the model's whole distribution, "
                    f"because the learner scores tokens under it; leave {name} at {off}"
                )
        check_gates(self, [name for name, spec in self.rewards.items() if spec.gate])
        if self.sampling.temperature == 0:
            raise UserError("sampling.temperature=0 always says the same, so nothing could be learned; try 1")
        return self


def check_gates(settings: TrainSettings, gates: Sequence[str]) -> None:
    """Raise UserError if rewards are gates and the learner's returns have no place for one."""
    if gates and settings.learner.returns == "normalised_parts":
        raise UserError(f"rewards.{gates[0]} is a gate, which learner.returns=normalised_parts has no place for")


def reward_words(settings: TrainSettings) -> Mapping[str, Any]:
    """Return reward name -> weight, for people."""
    return {name: spec.weight for name, spec in settings.rewards.items()}
