"""Plays blocks of matches with the newest weights it was given; knows nothing of where it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from selfplay import models
from selfplay.cluster.model_files import ModelFiles
from selfplay.dealing import FROZEN, LEARNER
from selfplay.dialog import Conversation
from selfplay.interfaces import Env, Sampling, View, Weights
from selfplay.play import Match, play
from selfplay.players import Player, PlayerSettings, make_bridge, make_players, tokenizer_description, tokenizer_hash
from selfplay.score import Parts, WeightedReward, parts_of

if TYPE_CHECKING:
    from torch import Tensor

    from selfplay.generate.chat import ChatBridge
    from selfplay.generate.engine import TokenGenerator

# The model that adapters are played on, as the engine knows it; no match names it.
BASE = "base"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayPlan:
    """Everything a play worker needs; travels to other machines."""

    env: Env
    model: ModelFiles
    rewards: tuple[WeightedReward, ...] = ()  # cheap ones that look at one conversation at a time
    reward_timeout_seconds: float = 30.0
    fixed: Mapping[str, str] = field(default_factory=dict)  # role -> a player that is never the policy
    has_policy: bool = True  # whether any role is the policy's
    has_frozen: bool = False  # whether it meets itself as it was before training
    uses_adapters: bool = False  # weights come as what adapters add to the first ones
    plays_adapters: bool = False  # they are played so: one model in memory, each policy an adapter of it, none merged
    view: View = "perspective"
    sampling: Sampling = field(default_factory=Sampling)
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0  # of torch; 0: all cores
    max_batch: int = 64
    concurrency: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A conversation and what the cheap rewards said of it."""

    conversation: Conversation
    parts: Parts


class PlayWorker:
    """Owns an engine; torch is imported when a language model is needed, and not before."""

    def __init__(self, plan: PlayPlan) -> None:
        """Remember the plan; models are loaded by `start`."""
        self.facts: dict[str, Any] = {}  # what a run's manifest records of the models
        self.tokenizers: dict[str, str] = {}  # hash -> description of each model's, as in `RunWriter.keep_tokenizers`
        self._plan = plan
        self._players: dict[str, Player] = {}
        self._met: set[str] = set()  # the players that `meet` made known
        self._engine: TokenGenerator | None = None
        self._first_state: Mapping[str, Tensor] = {}  # the weights that adapters add to; without any, a sample of them

    def start(self) -> Mapping[str, Any]:
        """Load the models and return what the manifest records of them.  Raises UserError if one cannot be had."""
        plan = self._plan
        if plan.has_policy:
            self._load_policy()
        table = make_players(
            plan.fixed.values(),
            env=plan.env,
            settings=PlayerSettings(
                view=plan.view,
                sampling=plan.sampling,
                device=plan.device,
                dtype=plan.dtype,
                max_batch=plan.max_batch,
                runs=plan.model.runs,
            ),
            say=lambda _text: None,
            write=lambda _text: None,
        )
        self._players.update(table.players)
        self.facts.setdefault("tokenizers", {}).update(table.tokenizers)
        self.tokenizers.update(table.descriptions)
        return self.facts

    def load(self, weights: Weights) -> None:
        """Let the policy answer with these weights in all conversations that begin from now on."""
        if self._engine is None:
            return
        self._engine.load(LEARNER, weights if self._plan.plays_adapters else self._whole(weights))
        self._players[LEARNER] = replace(self._players[LEARNER], version=weights.version)

    def meet(self, weights: Mapping[str, Weights]) -> None:
        """Let matches name these players from now on: the policy as it was at some version, which is never trained.

        A name that is known already gets the new weights.  Raises UserError if weights do not fit the policy's model.
        """
        if self._engine is None:
            return
        for name, past in weights.items():
            if self._plan.plays_adapters:
                self._engine.add_adapter(name, past, of=BASE, version=past.version)
            else:
                self._engine.add_whole(name, self._whole(past), of=LEARNER)
            self._players[name] = replace(self._players[LEARNER], policy=name, version=past.version, trained=False)
            self._met.add(name)

    def forget(self, names: Iterable[str]) -> None:
        """Drop players that `meet` made known, and their weights; an unknown one is no error."""
        for name in self._met.intersection(names):
            assert self._engine is not None
            self._engine.remove_policy(name)
            del self._players[name]
            self._met.remove(name)

    def play(self, matches: Sequence[Match]) -> Iterator[Played]:
        """Play a block and yield each conversation, with its cheap rewards, as it finishes."""
        plan = self._plan
        players = self._players
        conversations = play(matches, env=plan.env, players=players, view=plan.view, concurrency=plan.concurrency)
        timeouts: Counter[str] = Counter()  # of this block: a reward that hangs must not hang on every conversation
        for conversation in conversations:
            [parts] = parts_of(
                [conversation], plan.rewards, timeout_seconds=plan.reward_timeout_seconds, timeouts=timeouts
            )
            yield Played(conversation=conversation, parts=parts)

    def _whole(self, weights: Weights) -> Weights:
        """Return weights as those of a whole model, where the policy plays."""
        from selfplay.learn.adapters import merged

        where = self._first_state[next(iter(self._first_state))]
        # The learner's numbers are float32 in main memory; a policy that plays on a GPU has others.
        state = {
            name: tensor.to(where.device, where.dtype) for name, tensor in merged(self._first_state, weights).items()
        }
        return Weights(version=weights.version, state=state)

    def _weights_to_add_to(self, started: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the weights that adapters add to; where whole models come, a sample, for its device and type."""
        plan = self._plan
        if not plan.uses_adapters:
            first = next(iter(started))
            return {first: started[first].new_empty(0)}
        if not plan.model.is_adapter:
            return started
        # A run that goes on from an adapter trains that very adapter: what it sends holds the first one already.
        base = plan.model.load(device=plan.device, dtype=plan.dtype, merged=False).model.state_dict()
        return {name: started[name] if started[name].equal(tensor) else tensor for name, tensor in base.items()}

    def _load_policy(self) -> None:
        from selfplay.generate.engine import TokenGenerator

        plan = self._plan
        models.use_threads(plan.threads)
        loaded = plan.model.load(device=plan.device, dtype=plan.dtype, merged=not plan.plays_adapters)
        bridge = make_bridge(loaded, view=plan.view)
        self._engine = TokenGenerator(max_batch=plan.max_batch, keeps_previous_version=False)
        policies = (LEARNER, FROZEN) if plan.has_frozen else (LEARNER,)
        if plan.plays_adapters:
            self._add_adapters(policies, loaded, bridge)
        else:
            self._add_whole(policies, loaded, bridge)
        for policy in policies:
            self._players[policy] = Player(
                policy=policy,
                generator=self._engine,
                bridge=bridge,
                trained=policy == LEARNER,
                sampling=plan.sampling,
            )
        digest = tokenizer_hash(loaded)
        self.facts["tokenizers"] = {loaded.name: digest}
        self.tokenizers[digest] = tokenizer_description(loaded)
        self.facts.update(models.compute_of(device=plan.device, dtype=plan.dtype))

    def _add_whole(self, policies: Iterable[str], loaded: models.LoadedModel, bridge: ChatBridge) -> None:
        assert self._engine is not None
        for policy in policies:
            self._engine.add_policy(policy, loaded.model, end_of_turn=bridge.end_of_turn, parameters="share")
        self._first_state = self._weights_to_add_to(loaded.model.state_dict())

    def _add_adapters(self, policies: Iterable[str], loaded: models.LoadedModel, bridge: ChatBridge) -> None:
        """Add the model, and for each policy the adapter that the run starts from, or one that changes nothing."""
        from selfplay.learn.adapters import read_adapter

        assert self._engine is not None
        nothing = Weights(version=0, state={}, adapter_scale=1.0)
        first = nothing if loaded.adapter is None else read_adapter(loaded.adapter)
        self._engine.add_policy(BASE, loaded.model, end_of_turn=bridge.end_of_turn, parameters="share")
        for policy in policies:
            self._engine.add_adapter(policy, first, of=BASE, version=0)
