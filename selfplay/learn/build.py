"""From settings to a learner: the policy, its algorithm and how they are trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from selfplay.learn.kl import AdaptiveKL, FixedKL
from selfplay.learn.learner import Learner, LearnerSettings
from selfplay.learn.lora import AdapterPolicy, adapter_policy, lora_config, merge_adapter
from selfplay.learn.policy import Policy, WholePolicy
from selfplay.learn.reinforce import Reinforce, algorithm
from selfplay.learn.schedule import Schedule
from selfplay.models import LoadedModel
from selfplay.play import draw_seed
from selfplay.train_settings import KLGroup, TrainSettings

# The learner's own purpose among those that draws of a run derive from.
DRAW_LEARNER = 100


def build_learner(loaded: LoadedModel, settings: TrainSettings, *, base_folder: Path | None = None) -> Learner:
    """Return the learner that the settings describe; it takes over the loaded model.

    base_folder: where a model without a folder of its own was saved, so that an adapter can name it.
    Raises UserError if the settings do not go together or do not fit the model.
    """
    rule = build_algorithm(settings)
    policy = build_policy(loaded, settings, base_name=str(base_folder or loaded.folder or loaded.name))
    group = settings.learner
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
        ),
    )


def build_algorithm(settings: TrainSettings) -> Reinforce:
    """Return the algorithm that the settings name, with what they change of it."""
    group, kl = settings.learner, settings.kl
    rule = replace(
        algorithm(group.algorithm),
        gamma=group.gamma,
        entropy_bonus=group.entropy_bonus,
        importance_cap=group.importance_cap,
        returns=group.returns,
        kl_place=kl.place,
        kl_estimator=kl.estimator,
        kl=_controller(kl),
    )
    if group.baseline != "algorithm":
        rule = replace(rule, baseline=group.baseline)
    if group.scale != "algorithm":
        rule = replace(rule, scale=group.scale)
    return rule if group.clip is None else replace(rule, clip=group.clip)


def build_policy(loaded: LoadedModel, settings: TrainSettings, *, base_name: str) -> Policy:
    """Return the policy to train; base_name: where its adapter finds the model without it."""
    model, adapter = loaded.model, loaded.adapter
    model.requires_grad_(False)
    if settings.learner.method == "full":
        if adapter is not None:
            merge_adapter(model, adapter)
        model.requires_grad_(True)
        return WholePolicy(model)
    seed = draw_seed(settings.seed, (DRAW_LEARNER,), bits=32)
    if adapter is not None:
        return adapter_policy(model, adapter, seed=seed, base_name=base_name)
    lora = settings.lora
    config = lora_config(rank=lora.rank, alpha=lora.alpha, targets=lora.targets)
    return AdapterPolicy(model, config, seed=seed, base_name=base_name)


def _controller(kl: KLGroup) -> FixedKL | AdaptiveKL:
    if kl.controller == "adaptive":
        return AdaptiveKL(coefficient=kl.coefficient, target=kl.target, horizon=kl.horizon)
    return FixedKL(coefficient=kl.coefficient if kl.controller == "fixed" else 0.0)
