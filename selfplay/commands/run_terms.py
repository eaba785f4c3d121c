"""The terms on which a run's policy learnt, which `play` keeps to unless it is told otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from selfplay import models
from selfplay.commands.building import build_env
from selfplay.config import PlaySettings, PluginSpec, read_config, resolve
from selfplay.errors import UserError
from selfplay.interfaces import Env
from selfplay.run_folder import CONFIG
from selfplay.sft_settings import NO_ENV
from selfplay.trained import AT_STEP, checkpoint_of, is_model_folder

__all__ = ["RunTerms", "find_terms"]

TAKEN = ("env", "view", "sampling")  # what playing takes from the run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTerms:
    """What the run whose policy plays says of its game, and the settings that it lies under."""

    run: Path
    env: PluginSpec  # of the run
    settings: PlaySettings  # the run's env, view and sampling, changed by the words

    def build_env(self) -> Env:
        """Return the environment.  Raises UserError, which names the run, if it cannot be built."""
        try:
            return build_env(self.settings.env)
        except UserError as error:
            raise UserError(f"{error}; this is the env of run {self.run}, and env= chooses another") from error

    def note(self, env: PluginSpec) -> str:
        """Return what to say of the environment that is played; env: with all of its settings."""
        changed = [f"env.{key}" for key, value in self.env.settings.items() if env.settings.get(key) != value]
        but = f" but for {', '.join(changed)}" if changed else ""
        return f"env {env.name}, as the run was trained{but}; env= chooses another"


def find_terms(settings: PlaySettings, words: Sequence[str]) -> RunTerms | None:
    """Return the terms of the run that `model=` names; None: it names no run, or a run without a game.

    settings: what the words say alone.  Words, a preset or a file that name another game take nothing from the run.
    Raises UserError if there is no such model, or the run's configuration cannot be read.
    """
    run = _run_of(settings)
    if run is None or not (run / CONFIG).is_file():
        return None
    source = read_config(str(run / CONFIG))
    if "env" not in source.tree:
        return None
    inherited = replace(source, tree={key: source.tree[key] for key in TAKEN if key in source.tree})
    env = resolve(PlaySettings, [], under=inherited).env
    chosen = resolve(PlaySettings, words, under=inherited)
    if env.name == NO_ENV or chosen.env.name != env.name:
        return None
    return RunTerms(run=run, env=env, settings=chosen)


def _run_of(settings: PlaySettings) -> Path | None:
    """Return the folder of the run that `model=` names; None: it is no run's."""
    name = models.pinned(settings.model, runs=settings.runs)
    if AT_STEP.fullmatch(name) is None or is_model_folder(Path(name).expanduser()):
        return None
    found = checkpoint_of(name, settings.runs)
    return None if found is None else found.parent.parent
