"""Who takes part in a tournament, and what they play: entries from words, their players, and every match.

Checkpoints that are adapters of one model are played unmerged, all on that model and in one pass.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay import checkpoint, models, trained
from selfplay.cluster.model_files import ModelFiles
from selfplay.config import read_config
from selfplay.dialog import Conversation, conversation_id
from selfplay.errors import UserError
from selfplay.evaluate_play import BASE
from selfplay.interfaces import Env, Weights
from selfplay.play import Match, make_group, play
from selfplay.players import (
    CHANCE,
    HUMAN,
    POLICY,
    SCRIPTED,
    Player,
    PlayerSettings,
    PlayerTable,
    make_bridge,
    make_players,
    tokenizer_description,
    tokenizer_hash,
)
from selfplay.run_folder import CONFIG
from selfplay.run_reader import RunReader, find_run
from selfplay.tournament import Entry, castings

if TYPE_CHECKING:
    from selfplay.generate.chat import ChatBridge
    from selfplay.generate.engine import TokenGenerator

__all__ = [
    "Entrant",
    "base_entrant",
    "base_of",
    "entrants_of",
    "make_entrants",
    "pays",
    "play_matches",
    "tournament_matches",
    "without_doubles",
]

PROGRESS_SECONDS = 10.0
LETTER = "t"  # in the ids of conversations
ALL = "all"  # as in RUN@all: every checkpoint, and every past policy of a league
SEVERAL = re.compile(rf"(.+)@({ALL}|[0-9]{{1,12}}(?:,[0-9]{{1,12}})+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """An entry, and where it comes from.

    Example: ``Entrant(entry=Entry(name="deals@20", model="runs/deals@20", version=20), run=Path("runs/deals"))``
    """

    entry: Entry
    run: Path | None = None  # the run whose policy it is; None: it is no run's
    model_name: str = ""  # what transcripts call its model


# ----- who takes part -----


def entrants_of(word: str, *, runs: Path) -> list[Entrant]:
    """Return who a word means: RUN, RUN@STEP, RUN@STEP,STEP, RUN@all, a model, "scripted" or "chance".

    Version 0 of a run is the model that it started from.
    Raises UserError if it means nobody, or not all of its checkpoints are there.
    """
    if word in (SCRIPTED, CHANCE):
        return [Entrant(entry=Entry(name=word))]
    if word in (HUMAN, POLICY):
        right = "a person plays with `play`" if word == HUMAN else "name a RUN, and its policy plays"
        raise UserError(f"{word} is no entry of a tournament: {right}")
    several = SEVERAL.fullmatch(word)
    if several is not None:
        run = find_run(several[1], runs)
        return [_of_run(run, version, runs=runs) for version in _versions(run, several[2])]
    at_step = trained.AT_STEP.fullmatch(word)
    if at_step is not None and int(at_step[2]) == 0:
        return [_of_run(find_run(at_step[1], runs), 0, runs=runs)]
    name = _pinned(word, runs)
    folder = trained.checkpoint_of(name, runs) if trained.AT_STEP.fullmatch(name) else None
    if folder is not None:
        return [_of_run(folder.parent.parent, checkpoint.version_of(folder), runs=runs)]
    return [Entrant(entry=Entry(name=name, model=name), model_name=name)]


def base_entrant(model: str) -> Entrant:
    """Return the model that a run started from, as an entrant."""
    return Entrant(entry=Entry(name=BASE, model=model), model_name=model)


def base_of(run: Path, *, runs: Path) -> str:
    """Return the model that a run started from, as `selfplay.models.load` takes it.

    runs: where RUN[@STEP] is looked up.  Raises UserError if its weights have changed since, or it is not there.
    """
    model = str(read_config(str(run / CONFIG)).tree.get("model", ""))
    before = RunReader(run).manifest.get("start_weights")
    if before and before != ModelFiles.of(model, runs=runs, say=_silent).start_weights:
        raise UserError(
            f"model={model} has other weights than when run {run} began, so it is not its base; "
            "give the old ones back, or leave it out"
        )
    return model


def without_doubles(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Return each entrant once; runs in different folders that are called the same get their paths as names."""
    found: dict[str, Entrant] = {}
    for one in entrants:
        entry = one.entry
        if entry.name in found and not _is_same(found[entry.name], one):
            one = replace(one, entry=replace(entry, name=entry.model), model_name=entry.model)
        found.setdefault(one.entry.name, one)
    return list(found.values())


def _is_same(one: Entrant, other: Entrant) -> bool:
    """Whether two entrants of one name are one policy, however their folder is written."""
    if one.run is None or other.run is None:
        return one.entry.model == other.entry.model
    return one.run.resolve() == other.run.resolve()


def _of_run(run: Path, version: int, *, runs: Path) -> Entrant:
    name = f"{run.resolve().name}@{version}"
    model = f"{run}@{version}" if version else base_of(run, runs=runs)
    return Entrant(entry=Entry(name=name, model=model, version=version), run=run, model_name=name if version else model)


def _versions(run: Path, text: str) -> list[int]:
    if text != ALL:
        return [int(step) for step in text.split(",")]
    found = sorted({*checkpoint.versions(run), *trained.past_policies(run)})
    return found or [checkpoint.version_of(checkpoint.find(run))]  # which says that it has none


def _pinned(word: str, runs: Path) -> str:
    try:
        return models.pinned(word, runs=runs)
    except UserError as error:
        raise UserError(str(error).removeprefix("model=")) from error


# ----- what is played -----


def tournament_matches(env: Env, names: Sequence[str], *, seed: int, num_scenarios: int) -> list[Match]:
    """Return all matches, pair by pair: each two entries have each role in turn; each also meets itself.

    Scenarios and draws are those of `eval`, and the same for every pair.  The order of the names changes nothing.
    """
    found: list[Match] = []
    drawn = [
        make_group(env, {}, seed=seed, split="held_out", place=(0, group), size=len(env.roles))
        for group in range(num_scenarios)
    ]
    number = 0  # of a conversation on its scenario
    for pair in combinations_with_replacement(sorted(names), 2):
        for place, players in _castings(env.roles, *pair):
            for group, matches in enumerate(drawn):
                id = conversation_id(step=0, letter=LETTER, group=group, index=number)
                found.append(replace(matches[place], id=id, players=players))
            number += 1
    return found


def _castings(roles: Sequence[str], first: str, second: str) -> list[tuple[int, dict[str, str]]]:
    """Return who fills the roles in each conversation of a pair, once each, and which draws it has."""
    found: dict[tuple[str, ...], tuple[int, dict[str, str]]] = {}
    for row, column in ((first, second), (second, first)):
        for place, players in enumerate(castings(roles, row, column).values()):
            found.setdefault(tuple(players.values()), (place, players))
    return list(found.values())


def pays(env: Env, *, seed: int) -> bool:
    """Whether an environment pays its roles, as a conversation of its scripted players shows."""
    match = make_group(env, dict.fromkeys(env.roles, SCRIPTED), seed=seed, split="held_out", place=(0, 0))
    table = make_players([SCRIPTED], env=env, settings=PlayerSettings(), say=_silent, write=_silent)
    [played] = play(match, env=env, players=table.players)
    # What failed says nothing; that it did is seen in the tournament.
    return played.outcome is None or played.outcome.status == "failed" or bool(played.outcome.payoff)


def play_matches(
    matches: Sequence[Match],
    *,
    env: Env,
    players: PlayerTable,
    settings: PlayerSettings,
    concurrency: int,
    say: Callable[[str], None],
) -> Iterator[Conversation]:
    """Play matches and yield each conversation as it finishes; say: is told now and then how many have."""
    said = time.monotonic()
    played = play(matches, env=env, players=players.players, view=settings.view, concurrency=concurrency)
    for number, conversation in enumerate(played, 1):
        yield conversation
        if time.monotonic() - said >= PROGRESS_SECONDS:
            said = time.monotonic()
            say(f"{number} of {len(matches)} conversations finished")


# ----- players -----


def make_entrants(
    entrants: Sequence[Entrant], *, env: Env, settings: PlayerSettings, say: Callable[[str], None]
) -> PlayerTable:
    """Return a player for each entrant, called as its entry; torch is imported for models only.

    Raises UserError if a model cannot be had.
    """
    scripts = [one.entry.name for one in entrants if not one.entry.model]
    table = make_players(scripts, env=env, settings=settings, say=say, write=_silent)
    speaking = [one for one in entrants if one.entry.model]
    if not speaking:
        return table
    from selfplay.generate.engine import TokenGenerator

    made = _Players(engine=TokenGenerator(max_batch=settings.max_batch), settings=settings, say=say)
    for one in speaking:
        made.add(one)
    return replace(
        table,
        players={**table.players, **made.players},
        engine=made.engine,
        tokenizers=made.tokenizers,
        descriptions=made.descriptions,
    )


@dataclass(slots=True, kw_only=True)
class _Players:
    """Players on one engine, which holds each model once, however many adapters of it play."""

    engine: TokenGenerator
    settings: PlayerSettings
    say: Callable[[str], None]
    players: dict[str, Player] = field(default_factory=dict)
    tokenizers: dict[str, str] = field(default_factory=dict)
    descriptions: dict[str, str] = field(default_factory=dict)
    _models: dict[tuple[str, tuple[int, ...]], str] = field(
        default_factory=dict
    )  # what it is known by, what ends its turns -> policy

    def add(self, entrant: Entrant) -> None:
        entry = entrant.entry
        loaded = replace(self._load(entry, merged=False), name=entrant.model_name)
        bridge = make_bridge(loaded, view=self.settings.view)
        try:
            self._add_shared(entrant, loaded, bridge)
        except UserError:
            if loaded.adapter is None:
                raise
            # Some adapters can only be played merged.
            merged = self._load(entry, merged=True)
            self.engine.add_policy(
                entry.name, merged.model, end_of_turn=bridge.end_of_turn, version=entry.version, parameters="share"
            )
        self.players[entry.name] = Player(
            policy=entry.name,
            generator=self.engine,
            bridge=bridge,
            version=entry.version,
            sampling=self.settings.sampling,
        )
        digest = self.tokenizers[entrant.model_name] = tokenizer_hash(loaded)
        self.descriptions[digest] = tokenizer_description(loaded)

    def _load(self, entry: Entry, *, merged: bool) -> models.LoadedModel:
        settings = self.settings
        return models.load(
            entry.model,
            device=settings.device,
            dtype=settings.dtype,
            say=self.say,
            runs=settings.runs,
            merged=merged,
        )

    def _add_shared(self, entrant: Entrant, loaded: models.LoadedModel, bridge: ChatBridge) -> None:
        """Add a policy to the model that it is an adapter of, or to its own model one that changes nothing."""
        from selfplay.learn.adapters import read_adapter

        entry = entrant.entry
        weights = Weights(version=entry.version, state={}, adapter_scale=1.0)
        if loaded.adapter is not None:
            weights = read_adapter(loaded.adapter, version=entry.version)
        # Two whole checkpoints of a run may differ in fewer numbers than a fingerprint looks at.
        is_whole_checkpoint = loaded.adapter is None and entrant.run is not None and entry.version > 0
        known_by = entry.model if is_whole_checkpoint else models.fingerprint(replace(loaded, adapter=None))
        key = known_by, tuple(sorted(bridge.end_of_turn))
        if key not in self._models:
            policy = f"model {len(self._models)}"  # which no match names
            self.engine.add_policy(policy, loaded.model, end_of_turn=bridge.end_of_turn, parameters="share")
            self._models[key] = policy
        self.engine.add_adapter(entry.name, weights, of=self._models[key], version=entry.version)


def _silent(_text: str) -> None:
    """Say nothing."""
