"""From settings to a learner: the policy, its algorithm and how they are trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from selfplay.errors import UserError
from selfplay.learn.algorithms import algorithm
from selfplay.learn.critic import Critic, value_head
from selfplay.learn.kl import AdaptiveKL, FixedKL
from selfplay.learn.learner import HALF_TOLERANCE_NATS, SAMPLER_TOLERANCE_NATS, Learner, LearnerSettings
from selfplay.learn.lora import AdapterPolicy, adapter_policy, lora_config, merge_adapter
from selfplay.learn.packing import pack_attention
from selfplay.learn.policy import Policy, WholePolicy
from selfplay.learn.ppo import PPO
from selfplay.learn.reinforce import Reinforce
from selfplay.learn.schedule import Schedule
from selfplay.models import LoadedModel
from selfplay.play import draw_seed
from selfplay.train_settings import KLGroup, LearnerGroup, TrainSettings

# The learner's own purpose among those that draws of a run derive from.
DRAW_LEARNER = 100


def build_learner(loaded: LoadedModel, settings: TrainSettings, *, base_folder: Path | None = None) -> Learner:
    """Return the learner that the settings describe; it takes over the loaded model.

    base_folder: where a model without a folder of its own was saved, so that an adapter can name it.
    Raises UserError if the settings do not go together or do not fit the model.
    """
    rule = build_algorithm(settings)
    policy = build_policy(loaded, settings, base_name=str(base_folder or loaded.folder or loaded.name))
    critic = _critic(policy, settings) if "value" in rule.needs else None
    group = settings.learner
    if group.gradient_checkpointing:
        policy.recompute()
    return Learner(
        policy,
        rule,
        LearnerSettings(
            algorithm=group.algorithm,
            learning_rate=group.learning_rate,
            schedule=Schedule(shape=group.schedule, warmup_updates=group.warmup_steps, num_updates=settings.steps),
            weight_decay=group.weight_decay,
            max_gradient_norm=group.max_gradient_norm,
            temperature=settings.sampling.temperature,
            epochs=group.epochs,
            minibatches=group.minibatches,
            tokens_per_microbatch=group.tokens_per_microbatch,
            sampler_tolerance_nats=_tolerance(settings),
        ),
        critic=critic,
    )


def _tolerance(settings: TrainSettings) -> float:
    engine = settings.engine
    is_half = engine.dtype in ("bfloat16", "float16") or (
        engine.dtype == "auto" and engine.device != "cpu" and torch.cuda.is_available()
    )
    return HALF_TOLERANCE_NATS if is_half else SAMPLER_TOLERANCE_NATS


def build_algorithm(settings: TrainSettings) -> Reinforce | PPO:
    """Return the algorithm that the settings name, with what they change of it."""
    group, kl = settings.learner, settings.kl
    named = algorithm(group.algorithm)
    rule = replace(
        named,
        clip=named.clip if group.clip is None else group.clip,
        gamma=group.gamma,
        entropy_bonus=group.entropy_bonus,
        importance_cap=group.importance_cap,
        kl_place=kl.place,
        kl_estimator=kl.estimator,
        kl=_controller(kl),
    )
    return _with_values(rule, group) if isinstance(rule, PPO) else _without_values(rule, group)


def _without_values(rule: Reinforce, group: LearnerGroup) -> Reinforce:
    return replace(
        rule,
        baseline=rule.baseline if group.baseline == "algorithm" else group.baseline,
        scale=rule.scale if group.scale == "algorithm" else group.scale,
        returns=group.returns,
    )


def _with_values(rule: PPO, group: LearnerGroup) -> PPO:
    if group.baseline != "algorithm":
        raise UserError(f"learner.baseline={group.baseline}: the baseline of ppo is its value; leave it at algorithm")
    if group.scale == "group":
        raise UserError("learner.scale=group: ppo standardises its advantages over the batch; use batch or none")
    if group.returns != "sum":
        raise UserError(f"learner.returns={group.returns} is for algorithms without values; ppo takes sum")
    if rule.clip == 0.0:
        raise UserError("learner.clip=0: ppo needs a range for its ratio; try 0.2")
    return replace(
        rule,
        scale=rule.scale if group.scale == "algorithm" else group.scale,
        gae_lambda=group.gae_lambda,
        gae_over=group.gae_over,
        value_coefficient=group.value_coefficient,
        value_clip=group.value_clip,
    )


def build_policy(loaded: LoadedModel, settings: TrainSettings, *, base_name: str) -> Policy:
    """Return the policy to train; base_name: where its adapter finds the model without it."""
    model, adapter = loaded.model, loaded.adapter
    model.requires_grad_(False)
    if model.device.type == "cpu":
        # On a GPU a call for every stream costs more than padding.
        pack_attention(model)
    if settings.learner.method == "full":
        if adapter is not None:
            merge_adapter(model, adapter)
        model.requires_grad_(True)
        return WholePolicy(model)
    seed = draw_seed(settings.seed, (DRAW_LEARNER, 0), bits=32)
    if adapter is not None:
        return adapter_policy(model, adapter, seed=seed, base_name=base_name)
    lora = settings.lora
    config = lora_config(rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
    return AdapterPolicy(model, config, seed=seed, base_name=base_name)


def _critic(policy: Policy, settings: TrainSettings) -> Critic:
    """Return a critic: a head on the policy that starts at 0, or a model that starts as the policy does."""
    seed = draw_seed(settings.seed, (DRAW_LEARNER, 1), bits=32)
    if settings.learner.value_model == "shared":
        return Critic(value_head(policy.model, start="zero", seed=seed))
    return Critic(value_head(policy.model, start="normal", seed=seed), trunk=policy.second_trunk(seed=seed))


def _controller(kl: KLGroup) -> FixedKL | AdaptiveKL:
    if kl.controller == "adaptive":
        return AdaptiveKL(coefficient=kl.coefficient, target=kl.target, horizon=kl.horizon)
    return FixedKL(coefficient=kl.coefficient if kl.controller == "fixed" else 0.0)
