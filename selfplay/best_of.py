"""Best-of-N: several conversations, or several candidates for a turn, are drawn, and rewards choose which one stays.

Candidate 0 draws what would have been drawn without any others, so one candidate is ordinary play.

Legend: N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from selfplay.dialog import Conversation, ScoredConversation, Tokens, Turn
from selfplay.errors import UserError
from selfplay.interfaces import Completion, Generator, Request, Weights, stream_of
from selfplay.play import Match, draw_seed
from selfplay.players import Player
from selfplay.score import WeightedReward, has_failed, score

__all__ = [
    "BestOfTurns",
    "Choice",
    "Chosen",
    "best_conversations",
    "candidates_of",
    "choose",
    "conversation_values",
    "match_of",
    "mean_reward",
    "turn_values",
    "with_best_turns",
]

DRAW_CANDIDATE = 2100  # first part of the spawn key
MARK = "~"  # between a conversation or a stream and the number of its candidate
WORST = -math.inf  # of what failed, or says nothing

# Conversations -> one number each; the higher, the better.
Rank = Callable[[Sequence[Conversation]], Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What the candidates were worth, and which one stayed.

    Example: ``Choice(values=(0.4, 1.1, nan), chosen=1)``
    """

    values: tuple[float, ...]  # [N]; NaN: it failed, or said nothing
    chosen: int
    turn: int | None = None  # which turn was chosen; None: the whole conversation
    num_tokens: int = 0  # that all candidates said


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The best of N conversations."""

    conversation: Conversation  # under the id of its match
    choice: Choice


def choose(values: Sequence[float], *, turn: int | None = None, num_tokens: int = 0) -> Choice:
    """Return the highest of the values, the first of equal ones; NaN is below all, and infinities count as NaN."""
    comparable = [value if math.isfinite(value) else WORST for value in values]
    known = tuple(value if math.isfinite(value) else math.nan for value in values)
    return Choice(values=known, chosen=comparable.index(max(comparable)), turn=turn, num_tokens=num_tokens)


# ----- what conversations are worth -----


def conversation_values(conversations: Sequence[Conversation], rewards: Sequence[WeightedReward]) -> list[float]:
    """Return each conversation's weighted reward, the mean over the turns that anything was said of; NaN: it failed.

    Where language models and others fill the roles, only the turns of the models count: the others were not drawn.
    A mean, not a conversation's sum, for candidates differ in length: a sum would choose long ones if most turns are
    worth something, and short ones if most cost something.
    Raises UserError if a reward fails.
    """
    return [mean_reward(one) for one in _scored(conversations, rewards)]


def turn_values(conversations: Sequence[Conversation], rewards: Sequence[WeightedReward]) -> list[float]:
    """Return the weighted reward of each conversation's last turn.  Raises UserError if a reward fails."""
    return [float(one.rewards[-1]) for one in _scored(conversations, rewards)]


def mean_reward(scored: ScoredConversation) -> float:
    """Return the mean of a scored conversation's weighted rewards, as `conversation_values` has it."""
    conversation = scored.conversation
    if has_failed(conversation) or not conversation.num_turns:
        return math.nan
    models = {role for role, player in conversation.players.items() if player.model}
    own = np.array([not models or turn.role in models for turn in conversation.turns])  # [K]
    applies = np.zeros(len(own), dtype=bool)
    for part in scored.parts.values():
        applies |= np.isfinite(part.values)
    counted = scored.rewards[own & applies]
    return float(counted.mean(dtype=np.float64)) if len(counted) else 0.0


def _scored(conversations: Sequence[Conversation], rewards: Sequence[WeightedReward]) -> list[ScoredConversation]:
    scored = score(conversations, rewards)
    for before, after in zip(conversations, scored, strict=True):
        if has_failed(after.conversation) and not has_failed(before):
            raise UserError(f"nothing can be chosen by a reward that fails: {after.conversation.error}")
    return scored


# ----- whole conversations -----


def candidates_of(match: Match, *, n: int) -> list[Match]:
    """Return the matches whose best one stands for a match: they start alike and draw differently."""
    return [
        replace(match, id=f"{match.id}{MARK}{number}", seed=_candidate_seed(match.seed, number, bits=48))
        for number in range(n)
    ]


def match_of(candidate: str) -> str:
    """Return the id of the match that a candidate's id belongs to."""
    return candidate.rpartition(MARK)[0]


def best_conversations(
    conversations: Iterable[Conversation], *, n: int, rank: Rank, num_past: int = 0
) -> Iterator[Chosen]:
    """Yield the best of each match's candidates as soon as all of them have ended; a failed one is never preferred.

    num_past: turns at the beginning that no candidate said.
    """
    waiting: dict[str, dict[int, Conversation]] = {}
    for conversation in conversations:
        id = match_of(conversation.id)
        mine = waiting.setdefault(id, {})
        mine[int(conversation.id.removeprefix(id + MARK))] = conversation
        if len(mine) == n:
            del waiting[id]
            yield _best(id, [mine[number] for number in range(n)], rank, num_past)


def _best(id: str, candidates: Sequence[Conversation], rank: Rank, num_past: int) -> Chosen:
    whole = [number for number, one in enumerate(candidates) if not has_failed(one)]
    values = np.full(len(candidates), math.nan)
    if whole:
        values[whole] = rank([candidates[number] for number in whole])
    num_tokens = sum(len(turn.said) for one in candidates for turn in one.turns[num_past:])
    choice = choose(values.tolist(), num_tokens=num_tokens)
    return Chosen(conversation=replace(candidates[choice.chosen], id=id), choice=choice)


def _candidate_seed(seed: int, number: int, *, bits: int) -> int:
    return seed if number == 0 else draw_seed(seed, (DRAW_CANDIDATE, number), bits=bits)


# ----- turns -----


@dataclass(slots=True)
class _Slate:
    """A turn whose candidates are under way."""

    request: Request
    found: dict[int, Completion] = field(default_factory=dict)  # number of the candidate -> what it said


class BestOfTurns:
    """Draws N candidates for every turn and keeps the one that ranks highest; implements `interfaces.Generator`.

    Each candidate is a stream of its own, NAME~0 to NAME~N-1, that opens with all the turn's stream holds so far; an
    engine that shares openings reads that once.  When the last candidate ends, they are ranked and forgotten.  Turns of
    other conversations go on meanwhile, and those that are complete in the same step are ranked together.
    """

    def __init__(
        self,
        inner: Generator,
        *,
        n: int,
        rank: Rank,
        texts: Mapping[str, Callable[[Tokens], str]],
        on_choice: Callable[[str, Choice], None] | None = None,
    ) -> None:
        """texts: policy -> what makes a message of its tokens; on_choice is given a conversation's id and the choice.

        rank is given conversations that end with the candidate's turn.
        """
        self._inner = inner
        self._n = n
        self._rank = rank
        self._texts = texts
        self._on_choice = on_choice
        self._held: dict[tuple[str, str], Tokens] = {}  # (stream, policy) -> all tokens it holds
        self._slates: dict[str, _Slate] = {}  # by stream

    def submit(self, request: Request) -> None:
        """Queue the candidates of a turn."""
        if request.stream in self._slates:
            raise UserError(f"stream {request.stream!r} is talking already; wait for its completion")
        key = request.stream, request.policy
        held = np.concatenate([self._held[key], request.tokens]) if key in self._held else request.tokens
        self._held[key] = held
        self._slates[request.stream] = _Slate(request)
        for number in range(self._n):
            self._inner.submit(
                replace(
                    request,
                    stream=f"{request.stream}{MARK}{number}",
                    tokens=held,
                    seed=_candidate_seed(request.seed, number, bits=64),
                )
            )

    def step(self) -> list[Completion]:
        """Advance the candidates; return the turns that are chosen."""
        complete: list[_Slate] = []
        for completion in self._inner.step():
            stream, _, number = completion.request.stream.rpartition(MARK)
            slate = self._slates[stream]
            slate.found[int(number)] = completion
            if len(slate.found) == self._n:
                complete.append(slate)
        return self._choose(complete) if complete else []

    def close(self, stream: str) -> None:
        """Forget a stream and its candidates."""
        self._slates.pop(stream, None)
        self._close_candidates(stream)
        for key in [key for key in self._held if key[0] == stream]:
            del self._held[key]

    def load(self, policy: str, weights: Weights) -> None:
        """Pass a new version on."""
        self._inner.load(policy, weights)

    def _close_candidates(self, stream: str) -> None:
        for number in range(self._n):
            self._inner.close(f"{stream}{MARK}{number}")

    def _choose(self, slates: Sequence[_Slate]) -> list[Completion]:
        places = [(slate, number) for slate in slates for number in range(self._n) if self._says(slate.found[number])]
        ranked = self._rank([self._spoken(slate, number) for slate, number in places]) if places else []
        values: dict[int, list[float]] = {id(slate): [math.nan] * self._n for slate in slates}
        for (slate, number), value in zip(places, ranked, strict=True):
            values[id(slate)][number] = value
        return [self._keep(slate, values[id(slate)]) for slate in slates]

    def _keep(self, slate: _Slate, values: Sequence[float]) -> Completion:
        request = slate.request
        num_tokens = sum(len(completion.said) for completion in slate.found.values())
        choice = choose(values, turn=request.conversation.num_turns, num_tokens=num_tokens)
        best = slate.found[choice.chosen]
        del self._slates[request.stream]
        self._close_candidates(request.stream)
        key = request.stream, request.policy
        self._held[key] = np.concatenate([self._held[key], best.said])
        if self._on_choice is not None:
            self._on_choice(request.conversation.id, choice)
        return replace(best, request=request)

    def _says(self, completion: Completion) -> bool:
        """Whether there is anything to rank: an empty turn would end its conversation."""
        return completion.error is None and bool(self._text(completion).strip())

    def _text(self, completion: Completion) -> str:
        if completion.text is not None:
            return completion.text
        return self._texts[completion.request.policy](completion.said)

    def _spoken(self, slate: _Slate, number: int) -> Conversation:
        """Return the conversation with a candidate as its last turn."""
        request, completion = slate.request, slate.found[number]
        conversation = request.conversation
        turn = Turn(
            role=request.role,
            text=self._text(completion),
            heard_text=request.heard_text,
            player=conversation.players[request.role].label,
            stream=stream_of(request.role, conversation.view),
            heard=request.tokens,
            said=completion.said,
            logprobs=completion.logprobs,
            finish=completion.finish,
        )
        return replace(conversation, turns=(*conversation.turns, turn))


def with_best_turns(
    players: Mapping[str, Player], *, n: int, rank: Rank, on_choice: Callable[[str, Choice], None] | None = None
) -> dict[str, Player]:
    """Return the players with every language model among them speaking the best of N candidates.

    Raises UserError if there is none, or if candidates would all be the same.
    """
    models = {name: player for name, player in players.items() if player.bridge is not None}
    if not models:
        raise UserError(
            f"best_of={n}: no role is filled by a language model, so there are no candidates to choose from"
        )
    texts = {player.policy: player.bridge.text for player in models.values() if player.bridge is not None}
    wrapped: dict[int, BestOfTurns] = {}
    for player in models.values():
        inner = player.generator
        wrapped.setdefault(id(inner), BestOfTurns(inner, n=n, rank=rank, texts=texts, on_choice=on_choice))
    return {
        name: replace(player, generator=wrapped[id(player.generator)]) if name in models else player
        for name, player in players.items()
    }
