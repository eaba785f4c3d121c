"""What rewards do in a run of `play`: they choose between candidates, and their numbers are stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, Literal

from selfplay.best_of import (
    Choice,
    best_conversations,
    candidates_of,
    conversation_values,
    match_of,
    turn_values,
    with_best_turns,
)
from selfplay.commands.building import REWARD_MODEL, TYPED, build_rewards, chosen_rewards
from selfplay.config import PlaySettings
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.play import Match
from selfplay.players import HUMAN, Player
from selfplay.records_json import plain_json
from selfplay.reward_model.info import find
from selfplay.rewards_json import rewards_to_json
from selfplay.score import WeightedReward, prepare, score
from selfplay.store import RunWriter
from selfplay.train_settings import GATE

__all__ = ["Kept", "Scoring", "scoring_of", "with_rewards"]

Weights = Mapping[str, float | Literal["gate"]]  # by name, as -r has it

KIND, BY = "best_of", "play"  # of the annotations that hold what the candidates were worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A conversation as it was stored."""

    conversation: Conversation
    choices: Sequence[Choice]  # of it, or of its turns; empty: there was nothing to choose
    record: Mapping[str, Any]  # its rewards and annotations, as its transcript record has them


@dataclass(slots=True, kw_only=True)
class Scoring:
    """Chooses and scores the conversations of one run."""

    n: int  # candidates; 1: there is nothing to choose
    unit: str  # conversation or turn
    by: str  # what ranks them, for people
    ranking: Sequence[WeightedReward]  # what ranks candidates
    recorded: Sequence[WeightedReward]  # what is stored of each conversation
    _choices: dict[str, list[Choice]] = field(default_factory=dict)  # id -> what was chosen for it

    @property
    def is_of_conversations(self) -> bool:
        """Whether whole conversations are chosen from."""
        return self.n > 1 and self.unit == "conversation"

    @property
    def is_of_turns(self) -> bool:
        """Whether each turn is chosen from candidates."""
        return self.n > 1 and self.unit == "turn"

    @property
    def facts(self) -> dict[str, object]:
        """What the manifest says of it."""
        if self.n == 1:
            return {}
        return {"best_of": {"n": self.n, "unit": self.unit, "by": self.by, "kl_bound_nats": round(self._kl(), 6)}}

    def say(self) -> str:
        """Return what choosing does to the policy, one line; empty: nothing is chosen."""
        if self.n == 1:
            return ""
        bound = f"KL(best-of-{self.n} || policy) is at most {self._kl():.3f} nats"
        said = f"best of {self.n} by {self.by}: {bound}"
        if self.unit == "turn":
            return f"{said} a turn"
        return f"{said}; the one with the highest mean reward a turn is kept, however long it is"

    def prepare(self) -> None:
        """Load what the rewards need."""
        prepare([*self.ranking, *(weighted for weighted in self.recorded if weighted not in self.ranking)])

    def matches(self, matches: Iterator[Match]) -> Iterator[Match]:
        """Return what is to be played: every match, or its candidates."""
        if not self.is_of_conversations:
            return matches
        return chain.from_iterable(candidates_of(match, n=self.n) for match in matches)

    def id_of(self, match: Match) -> str:
        """Return the id under which a match's conversation is stored."""
        return match_of(match.id) if self.is_of_conversations else match.id

    def players(self, players: Mapping[str, Player]) -> Mapping[str, Player]:
        """Return who plays: where turns are chosen, models that speak the best of their candidates."""
        if not self.is_of_turns:
            return players
        rank = partial(turn_values, rewards=self.ranking)
        return with_best_turns(players, n=self.n, rank=rank, on_choice=self._note)

    def conversations(self, played: Iterator[Conversation], *, num_past: int) -> Iterator[Conversation]:
        """Yield the conversations that stay, of those that were played.

        num_past: turns at their beginning that were stored before.
        """
        if not self.is_of_conversations:
            yield from played
            return
        rank = partial(conversation_values, rewards=self.ranking)
        for chosen in best_conversations(played, n=self.n, rank=rank, num_past=num_past):
            self._note(chosen.conversation.id, chosen.choice)
            yield chosen.conversation

    def store(self, conversation: Conversation, writer: RunWriter) -> Kept:
        """Store a conversation with its rewards and what it was chosen from."""
        scored = score([conversation], self.recorded)[0] if self.recorded else None
        stored = conversation if scored is None else scored.conversation
        terms = {weighted.name: weighted.term for weighted in self.recorded}
        writer.append(stored, scored, terms=terms)
        choices = self._choices.pop(conversation.id, [])
        annotations = []
        for choice in choices:
            data = plain_json({"chosen": choice.chosen, "of": self.n, "by": self.by, "values": choice.values})
            writer.annotate(conversation.id, by=BY, kind=KIND, data=data, turn=choice.turn)
            annotations.append({"by": BY, "kind": KIND, "data": data, "turn": choice.turn})
        rewards = None if scored is None else rewards_to_json(scored, terms=terms)
        return Kept(conversation=stored, choices=choices, record={"rewards": rewards, "annotations": annotations})

    def _note(self, id: str, choice: Choice) -> None:
        self._choices.setdefault(id, []).append(choice)

    def _kl(self) -> float:
        from selfplay.learn.preference import best_of_n_kl

        return best_of_n_kl(self.n)


def with_rewards(settings: PlaySettings, given: Sequence[str]) -> PlaySettings:
    """Return the settings with the rewards of `-r` instead of their own, and reward models by their whole paths.

    Raises UserError for what is no weight, mix or reward model, and for something that chooses where nothing is chosen.
    """
    if settings.by and settings.best_of == 1:
        raise UserError(f"by={settings.by}: best_of=1 leaves nothing to choose from; try best_of=8 by={settings.by}")
    chosen_rewards({}, given)
    pairs = [word.rpartition("=") for word in given]
    weights: dict[str, float | Literal["gate"]] = {
        name: "gate" if text == GATE else float(text) for name, _, text in pairs
    }
    chosen = weights if given else settings.rewards
    pinned = {_pinned(name): weight for name, weight in chosen.items()}
    return settings.model_copy(update={"rewards": pinned, "by": _pinned(settings.by)})


def scoring_of(settings: PlaySettings, assigned: Mapping[str, str]) -> Scoring:
    """Return what the settings ask of rewards.

    assigned: role -> player's name.  Raises UserError for what cannot be chosen, or scored here.
    """
    recorded = _built(settings.rewards)
    ranking = _built({settings.by: 1.0}, typed="by=") if settings.by else recorded
    _check_choice(settings, assigned, ranking)
    for weighted in (*ranking, *recorded):
        if weighted.scope in ("group", "batch"):
            raise UserError(
                f"reward {weighted.name}: it compares conversations with others, and play scores one at a time; "
                "`rescore` scores a stored run with it"
            )
    return Scoring(
        n=settings.best_of,
        unit=settings.best_of_unit,
        by=_words_of(settings.by, ranking),
        ranking=ranking,
        recorded=recorded or ranking,
    )


def _words_of(by: str, ranking: Sequence[WeightedReward]) -> str:
    is_itself = by and not by.startswith(REWARD_MODEL)
    return by if is_itself else " + ".join(weighted.name for weighted in ranking)


def _check_choice(settings: PlaySettings, assigned: Mapping[str, str], ranking: Sequence[WeightedReward]) -> None:
    n = settings.best_of
    if n == 1:
        return
    if not ranking:
        raise UserError(f"best_of={n}: say which reward chooses, such as by=rm:FOLDER or by=question")
    if HUMAN in assigned.values() and settings.best_of_unit == "conversation":
        raise UserError(f"best_of={n}: nobody plays {n} conversations for one; with a person say best_of_unit=turn")
    if settings.sampling.temperature == 0:
        raise UserError(f"best_of={n}: with sampling.temperature=0 all candidates would be the same; try 0.7")


def _built(weights: Weights, *, typed: str = TYPED) -> list[WeightedReward]:
    return build_rewards(chosen_rewards({}, [f"{name}={weight}" for name, weight in weights.items()], typed=typed))


def _pinned(name: str) -> str:
    if not name.startswith(REWARD_MODEL):
        return name
    return f"{REWARD_MODEL}{find(name.removeprefix(REWARD_MODEL)).resolve()}"
