"""Environments and rewards from their names: here, because only commands know what the package brings along."""

from __future__ import annotations

from collections.abc import Mapping

from envs import ENVS
from rewards import REWARDS
from selfplay.config import PluginSpec, build_plugin
from selfplay.interfaces import Env, PluginError, Reward
from selfplay.plugins import source_digest, source_file
from selfplay.score import WeightedReward
from selfplay.train_settings import RewardSpec

__all__ = ["build_env", "build_rewards"]


def build_env(spec: PluginSpec) -> Env:
    """Return the environment that a spec names.  Raises UserError if there is none, or it lacks a method."""
    env = build_plugin(spec, ENVS, "env")
    if not isinstance(env, Env):
        missing = [name for name in ("roles", *_methods(Env)) if not hasattr(env, name)]
        raise PluginError(f"env={spec.name}: it has no {', '.join(missing) or 'name or zero_sum'}")
    return env


def build_rewards(specs: Mapping[str, RewardSpec]) -> list[WeightedReward]:
    """Return the rewards that specs name, each recorded under the name it stands under."""
    return [_build_reward(name, spec) for name, spec in specs.items()]


def _build_reward(name: str, spec: RewardSpec) -> WeightedReward:
    found = PluginSpec.model_validate({"name": spec.name or name, **spec.settings})
    reward = build_plugin(found, REWARDS, "reward")
    if not isinstance(reward, Reward):
        raise PluginError(f"reward={found.name}: it has no name or score; a reward is a class with both")
    file = source_file(found)
    return WeightedReward(
        reward=reward,
        weight=spec.weight,
        label=name,
        role=spec.role,
        is_gate=spec.gate,
        source="" if file is None else source_digest(file.read_bytes()),
    )


def _methods(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_") and callable(vars(protocol)[name])]
