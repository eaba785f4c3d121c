"""Environments and rewards from their names: here, because only commands know what the package brings along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from envs import ENVS
from rewards import REWARDS
from rewards.mixes import MIXES
from rewards.preference import PreferenceReward
from selfplay.commands.words import program_name
from selfplay.config import PluginSpec, build_plugin
from selfplay.errors import UserError
from selfplay.interfaces import Env, PluginError, Reward
from selfplay.plugins import installed_plugins, source_digest, source_file
from selfplay.score import WeightedReward
from selfplay.train_settings import GATE, RewardSpec
from selfplay.written import nearest

__all__ = ["MIX", "REWARD_MODEL", "TEXTARENA", "TYPED", "build_env", "build_rewards", "chosen_rewards"]

TEXTARENA = "textarena:"  # before a game's name, where `env=` takes an environment's
MIX = "mix:"  # before the name of a mix, where `-r` takes a reward's
REWARD_MODEL = "rm:"  # before the folder, or the name, of a reward model
TYPED = "-r "  # before a name, in messages: where it was typed


def build_env(spec: PluginSpec) -> Env:
    """Return the environment that a spec names.  Raises UserError if there is none, or it lacks a method."""
    env = build_plugin(_spec_of_env(spec), ENVS, "env")
    if not isinstance(env, Env):
        missing = [name for name in ("roles", *_methods(Env)) if not hasattr(env, name)]
        raise PluginError(f"env={spec.name}: it has no {', '.join(missing) or 'name or zero_sum'}")
    return env


def _spec_of_env(spec: PluginSpec) -> PluginSpec:
    """Return the spec of the adapter for `textarena:GAME`, and any other as it is."""
    if not spec.name.startswith(TEXTARENA):
        return spec
    game = spec.name.removeprefix(TEXTARENA)
    if spec.settings.get("game", game) != game:
        raise UserError(f"env={spec.name}: env.game={spec.settings['game']} names another game; leave one of them out")
    return PluginSpec.model_validate({**spec.settings, "game": game, "name": TEXTARENA.removesuffix(":")})


def chosen_rewards(
    specs: Mapping[str, RewardSpec], given: Sequence[str], *, words: Sequence[str] = (), typed: str = TYPED
) -> dict[str, RewardSpec]:
    """Return the rewards that `-r` names instead of those of the settings; the same, if it names none.

    given: NAME=WEIGHT of each -r; words: the others, of which `rewards.NAME=...` adds a reward or changes its settings.
    A weight keeps the settings that a preset, a file or a mix gives its reward.  A mix stands for its parts, and a
    weight of its own wins over the mix's.  rm:FOLDER is recorded as rm:NAME, the folder's own name.  typed: what stood
    before the names, such as "by=gold:".  Raises UserError for what is no weight, reward, mix or reward model, and for
    a name that is given twice.
    """
    chosen: dict[str, RewardSpec] = {}
    names = [word.rpartition("=")[0] for word in given]
    weights = {name: word.rpartition("=")[2] for name, word in zip(names, given, strict=True)}
    if len(weights) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(
            f"{typed}{twice} is given twice; give it one weight, or another name: rewards.MINE.name={twice}"
        )
    for name, weight in weights.items():
        if name.startswith(MIX):
            chosen |= _parts_of_mix(name, weight, typed)
    written = _names_in(words) if given else {}
    for name, has_weight in written.items():
        chosen[name] = _with_settings(chosen.get(name), specs[name], keeps_weight=not has_weight)
    for name, weight in weights.items():
        if name.startswith(MIX):
            continue
        key, spec = _spec_of(name, chosen, specs, typed)
        changes = {"gate": True} if weight == GATE else {"weight": _weight(name, weight), "gate": False}
        chosen[key] = spec.model_copy(update=changes)
    return chosen or dict(specs)


def _spec_of(
    name: str, chosen: Mapping[str, RewardSpec], specs: Mapping[str, RewardSpec], typed: str
) -> tuple[str, RewardSpec]:
    """Return what a reward of `-r` is recorded as, and its spec before it has its weight."""
    if not name.startswith(REWARD_MODEL):
        spec = chosen.get(name) or specs.get(name, RewardSpec())
        _check_known(spec.name or name, said=f"{typed}{name}: ")
        return name, spec
    # By its whole path: a run may go on from another folder.
    folder = _folder_of(name, typed).resolve()
    key = f"{REWARD_MODEL}{folder.name}"
    if key in chosen and chosen[key].name not in ("", f"{REWARD_MODEL}{folder}"):
        raise UserError(f"{typed}{name}: another reward model is called {folder.name} too; rename one of the folders")
    known = chosen.get(key) or specs.get(key, RewardSpec())
    return key, known.model_copy(update={"name": f"{REWARD_MODEL}{folder}"})


def _check_known(name: str, *, said: str = "") -> None:
    """Refuse a name that no reward has; what names a file or a module is looked up where it is built."""
    if ":" in name or name.endswith(".py") or name in REWARDS:
        return
    known = [*REWARDS, *installed_plugins("reward")]
    if name not in known:
        hint = nearest(name, known, is_list_shown=False)
        listed = f"`{program_name()} list rewards` names them all; FILE.py:NAME works too"
        raise UserError(f"{said}there is no reward {name!r}{hint} ({listed})")


def _folder_of(name: str, typed: str) -> Path:
    from selfplay.reward_model.info import find

    try:
        return find(name.removeprefix(REWARD_MODEL))
    except UserError as error:
        raise UserError(f"{typed}{name}: {error}") from error


def build_rewards(specs: Mapping[str, RewardSpec]) -> list[WeightedReward]:
    """Return the rewards that specs name, each recorded under the name it stands under."""
    return [_build_reward(name, spec) for name, spec in specs.items()]


def _build_reward(name: str, spec: RewardSpec) -> WeightedReward:
    if (spec.name or name).startswith(MIX):
        raise UserError(f"rewards.{name}: a mix is given with -r, as in -r {name}=1")
    _check_known(spec.name or name, said=f"rewards.{name}.name={spec.name}: " if spec.name else "")
    found = _plugin_of(spec.name or name, spec)
    reward = build_plugin(found, REWARDS, "reward")
    if not isinstance(reward, Reward):
        raise PluginError(f"reward={found.name}: it has no name or score; a reward is a class with both")
    # Two reward models of one name differ in their numbers as two versions of a plug-in's code do.
    file = reward.file if isinstance(reward, PreferenceReward) else source_file(found)
    return WeightedReward(
        reward=reward,
        weight=spec.weight,
        label=name,
        role=spec.role,
        is_gate=spec.gate,
        source="" if file is None else source_digest(file.read_bytes()),
    )


def _plugin_of(name: str, spec: RewardSpec) -> PluginSpec:
    if not name.startswith(REWARD_MODEL):
        return PluginSpec.model_validate({"name": name, **spec.settings})
    return PluginSpec.model_validate({**spec.settings, "name": "rm", "path": name.removeprefix(REWARD_MODEL)})


def _names_in(words: Sequence[str]) -> dict[str, bool]:
    """Return the rewards that words such as `rewards.NAME.key=value` name, and whether they give a weight."""
    names: dict[str, bool] = {}
    for word in words:
        group, _, rest = word.partition("=")[0].partition(".")
        if group == "rewards" and rest:
            name, _, key = rest.partition(".")
            names[name] = names.get(name, False) or key in ("", "weight", "gate")
    return names


def _with_settings(part: RewardSpec | None, spec: RewardSpec, *, keeps_weight: bool) -> RewardSpec:
    """Return the part of a mix with the settings that words give it; None: it is no part of one."""
    if part is None:
        return spec
    merged = {**part.model_dump(), **spec.settings, **({"role": spec.role} if spec.role else {})}
    if not keeps_weight:
        merged |= {"weight": spec.weight, "gate": spec.gate}
    return RewardSpec.model_validate(merged)


def _parts_of_mix(name: str, text: str, typed: str) -> dict[str, RewardSpec]:
    """Return the parts of a mix, their weights times the mix's own."""
    mix = name.removeprefix(MIX)
    if mix not in MIXES:
        raise UserError(f"{typed}{name}: there is no mix {mix!r}{nearest(mix, list(MIXES))}")
    if text == GATE:
        raise UserError(f"-r {name}={text}: a mix is no gate; give it a weight, such as -r {name}=1")
    scale = _weight(name, text)
    parts = {part: RewardSpec.model_validate(spec) for part, spec in MIXES[mix].items()}
    # Ten digits: 0.1 x 3 is 0.3 in the file that records it.
    return {
        part: spec.model_copy(update={"weight": float(f"{scale * spec.weight:.10g}")}) for part, spec in parts.items()
    }


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError as error:
        raise UserError(f"-r {name}={text}: the weight must be a number, or gate") from error
    if not math.isfinite(weight):
        raise UserError(f"-r {name}={text}: the weight must be a finite number")
    return weight


def _methods(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_") and callable(vars(protocol)[name])]
