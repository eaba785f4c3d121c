"""What fills a role: a policy, a script, chance or a person, and how each is made from its name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from selfplay import models
from selfplay.dialog import PlayerInfo
from selfplay.generate.human import HumanGenerator
from selfplay.generate.scripted import ChanceGenerator, ScriptedGenerator
from selfplay.interfaces import Env, Generator, Sampling, View

if TYPE_CHECKING:
    from selfplay.generate.chat import ChatBridge
    from selfplay.generate.engine import TokenGenerator

POLICY, SCRIPTED, CHANCE, HUMAN = "policy", "scripted", "chance", "human"


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """What can fill a role: a generator, and for language models the bridge to their tokens."""

    policy: str  # as the generator knows it: a policy's name, "scripted", "chance", "human"
    generator: Generator
    bridge: ChatBridge | None = None  # None: it speaks text
    version: int = 0
    trained: bool = False  # whether its turns may become training rows
    sampling: Sampling = field(default_factory=Sampling)

    def info(self, brief: str) -> PlayerInfo:
        """Return what the transcript records of this player in one conversation."""
        if self.bridge is None:
            return PlayerInfo(policy=self.policy, brief=brief)
        shown = {name: getattr(self.sampling, name) for name in self.sampling.__dataclass_fields__}
        return PlayerInfo(
            policy=self.policy,
            version=self.version,
            model=self.bridge.model_name,
            trained=self.trained,
            brief=brief,
            sampling=shown,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerTable:
    """All players of a run."""

    players: Mapping[str, Player]  # name -> player
    engine: TokenGenerator | None  # what the language models share; None: there are none
    tokenizers: Mapping[str, str]  # model name -> hash of its tokenizer and chat template
    descriptions: Mapping[str, str] = field(default_factory=dict)  # that hash -> the tokenizer as tokenizer.json has it


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayerSettings:
    """How the language models among the players are run."""

    view: View = "perspective"
    sampling: Sampling = field(default_factory=Sampling)
    device: str = "auto"
    dtype: str = "auto"
    max_batch: int = 64  # streams that decode at once
    runs: Path = Path("runs")  # where RUN[@STEP] is looked up


def make_players(
    names: Iterable[str],
    *,
    env: Env,
    settings: PlayerSettings,
    say: Callable[[str], None],
    write: Callable[[str], None],
) -> PlayerTable:
    """Make a player for each name: "scripted", "chance", "human", or a model as `selfplay.models.load` takes it.

    say: told what is being loaded; write: shows a human what is asked.  torch is imported for models only.
    """
    players: dict[str, Player] = {}
    tokenizers: dict[str, str] = {}
    descriptions: dict[str, str] = {}
    engine: TokenGenerator | None = None
    for name in dict.fromkeys(names):
        if name == SCRIPTED:
            players[name] = Player(policy=SCRIPTED, generator=ScriptedGenerator(env))
        elif name == CHANCE:
            players[name] = Player(policy=CHANCE, generator=ChanceGenerator(env))
        elif name == HUMAN:
            players[name] = Player(policy=HUMAN, generator=HumanGenerator(write=write))
        else:
            engine = engine or _make_engine(settings)
            loaded = models.load(name, device=settings.device, dtype=settings.dtype, say=say, runs=settings.runs)
            players[name] = _make_player(loaded, engine=engine, settings=settings)
            tokenizers[name] = tokenizer_hash(loaded)
            descriptions[tokenizers[name]] = tokenizer_description(loaded)
    return PlayerTable(players=players, engine=engine, tokenizers=tokenizers, descriptions=descriptions)


def _make_engine(settings: PlayerSettings) -> TokenGenerator:
    from selfplay.generate.engine import TokenGenerator

    return TokenGenerator(max_batch=settings.max_batch)


def _make_player(loaded: models.LoadedModel, *, engine: TokenGenerator, settings: PlayerSettings) -> Player:
    bridge = make_bridge(loaded, view=settings.view)
    engine.add_policy(loaded.name, loaded.model, end_of_turn=bridge.end_of_turn, parameters="share")
    return Player(policy=loaded.name, generator=engine, bridge=bridge, sampling=settings.sampling)


def make_bridge(loaded: models.LoadedModel, *, view: View) -> ChatBridge:
    """Return what turns a model's tokens into turns and back; raises UserError if its template does not allow that."""
    from selfplay.generate.chat import ChatBridge

    stops = loaded.model.generation_config.eos_token_id if loaded.model.generation_config else None
    return ChatBridge(
        loaded.tokenizer,
        model_name=loaded.name,
        end_of_turn=stops if isinstance(stops, list) else [] if stops is None else [stops],
        view=view,
    )


def tokenizer_hash(loaded: models.LoadedModel) -> str:
    """Return a hash of the tokenizer and its chat template."""
    described = tokenizer_description(loaded) + str(loaded.tokenizer.chat_template)
    return "sha256:" + hashlib.sha256(described.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def tokenizer_description(loaded: models.LoadedModel) -> str:
    """Return the tokenizer as a model folder has it in tokenizer.json."""
    from selfplay.generate.template import backend

    return str(backend(loaded.tokenizer).to_str())
