"""A generation engine made for dialog: many short turns in long-lived streams.

`TokenGenerator.step` is the algorithm: choose which streams get how many tokens, run the model once over all of them
as one flat row, draw, and hand back the turns that ended.  A stream keeps its keys and values between its
turns, so only tokens it has not seen are ever fed; a partner's turn starts in the step after the one that ended.

Legend: N tokens of a step, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from selfplay.dialog import Finish
from selfplay.errors import UserError
from selfplay.generate.adapters import Adapter
from selfplay.generate.cache import Layout, RaggedCache, Segment
from selfplay.generate.linear import Keeping, copy_structure
from selfplay.generate.sampling import draw, split_mix
from selfplay.generate.served import PlayingModel, check_model, refuse_unsupported
from selfplay.interfaces import Completion, Request, Sampling, Weights

# Streams share an opening in blocks of this many tokens.
PREFIX_BLOCK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineStatistics:
    """What the engine has done since it was made."""

    said_tokens: int = 0  # sampled
    heard_tokens: int = 0  # appended by requests
    shared_tokens: int = 0  # of those, tokens whose keys and values were copied from another stream
    num_steps: int = 0
    cache_bytes: int = 0  # keys and values of all open streams at their largest

    @property
    def prefilled_tokens(self) -> int:
        """Heard tokens that were run through a model."""
        return self.heard_tokens - self.shared_tokens


@dataclass(slots=True, kw_only=True)
class _Version:
    """One version of one policy, with the streams that talk to it."""

    serial: int  # unique in its engine, from 1: two versions may carry one number
    number: int
    playing: PlayingModel  # shared by all versions that only add an adapter to it
    adapter: Adapter | None  # None: the model as it is
    end_of_turn: frozenset[int]
    prefixes: dict[bytes, list[_Stream]] = field(default_factory=dict)  # key of an opening in blocks -> who holds it

    @property
    def cache(self) -> RaggedCache:
        return self.playing.cache

    @property
    def adapter_number(self) -> int:
        """What tells its adapter from others in a `Segment`; 0: nothing is added."""
        return self.serial if self.adapter is not None and self.adapter.factors else 0


@dataclass(slots=True, kw_only=True, eq=False)
class _Stream:
    version: _Version
    row: int = -1  # in the version's cache; -1: none yet
    cached: int = 0  # tokens whose keys and values are in the cache
    tokens: list[int] = field(default_factory=list)  # all tokens, the not yet cached ones included
    opening: list[bytes] = field(default_factory=list)  # a key for each block it opened with, and all before it
    num_offered: int = 0  # blocks of its opening that others may copy
    request: Request | None = None  # the turn under way
    said: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)

    @property
    def num_waiting(self) -> int:
        return len(self.tokens) - self.cached


class TokenGenerator:
    """Plays the turns of language-model policies; implements `selfplay.interfaces.Generator`.

    A cache belongs to (stream, policy, version): after `load`, streams that are open keep their version until they
    are closed, new streams get the new one.
    """

    def __init__(
        self, *, max_batch: int = 64, max_tokens_per_step: int = 512, keeps_previous_version: bool = True
    ) -> None:
        """max_batch: streams that talk at once; max_tokens_per_step: bounds prefilling, and with it activations.

        keeps_previous_version: False drops a version that no stream talks to before the next is laid out.
        """
        self._max_batch = max_batch
        self._keeps_previous = keeps_previous_version
        self._max_tokens = max_tokens_per_step
        self._versions: dict[str, list[_Version]] = {}  # of each policy: the newest and the one before
        self._num_versions = 0
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._waiting: deque[_Stream] = deque()
        self._talking: list[_Stream] = []
        self._refused: list[Completion] = []
        self._counts = dict.fromkeys(EngineStatistics.__dataclass_fields__, 0)

    def add_policy(
        self,
        policy: str,
        model: PreTrainedModel,
        *,
        end_of_turn: Iterable[int],
        version: int = 0,
        parameters: Keeping = "copy",
    ) -> None:
        """Register a policy and check that the engine computes what its model computes.

        end_of_turn: ids that end a turn; parameters: "share" where the caller drops the model afterwards.
        Raises UserError, naming the family, for models it cannot serve.
        """
        refuse_unsupported(model)
        playing = PlayingModel.of(model, parameters=parameters)
        check_model(model, playing)
        self._versions[policy] = [self._make_version(playing, version, frozenset(end_of_turn))]

    def add_adapter(self, policy: str, weights: Weights, *, of: str, version: int) -> None:
        """Register a policy, or replace one, that adds an adapter to the model that the policy `of` has now.

        Streams of all policies that share a model are fed in one pass.  The weights are copied; an adapter without any
        layer changes nothing.  Raises UserError if the adapter does not fit.
        """
        shared = self._version_of(of, None)
        adapter = shared.playing.adapter(weights)
        self._versions[policy] = [self._make_version(shared.playing, version, shared.end_of_turn, adapter=adapter)]

    def add_whole(self, policy: str, weights: Weights, *, of: str) -> None:
        """Register a policy, or replace one, that is built like the policy `of` and has all parameters of its own.

        weights as for `load`.  Raises UserError if the names don't fit.
        """
        like = self._version_of(of, None)
        playing = PlayingModel.of(_fill(like.playing.structure, weights, policy=policy), parameters="copy")
        self._versions[policy] = [self._make_version(playing, weights.version, like.end_of_turn)]

    def remove_policy(self, policy: str) -> None:
        """Forget a policy; streams that are open keep it until they are closed.  An unknown one is no error."""
        self._versions.pop(policy, None)

    def load(self, policy: str, weights: Weights) -> None:
        """Let streams that open from now on talk to a new version of the policy; the one before stays at hand.

        weights.state holds every parameter, named as in the model's own state_dict, or for a policy that is an
        adapter, that adapter's; it is copied.
        Raises UserError if the policy is unknown or the names don't fit.
        """
        newest = self._version_of(policy, None)
        ends, playing, adapter = newest.end_of_turn, newest.playing, None
        is_used = any(stream.version is newest for stream in self._streams.values())
        kept = [newest] if self._keeps_previous or is_used else []
        if newest.adapter is not None:
            adapter = playing.adapter(weights)
        else:
            model = _fill(playing.structure, weights, policy=policy)
            if not kept:
                # What is dropped goes before the next one is laid out.
                del self._versions[policy], newest, playing
            playing = PlayingModel.of(model, parameters="copy")
        self._versions[policy] = [*kept, self._make_version(playing, weights.version, ends, adapter=adapter)]

    def submit(self, request: Request) -> None:
        """Queue a turn.  Raises UserError for an unknown policy or a stream that is talking already."""
        stream = self._open(request)
        if stream.request is not None:
            raise UserError(f"stream {request.stream!r} is talking already; wait for its completion")
        if len(stream.tokens) + len(request.tokens) >= _limit(stream, request):
            self._refused.append(
                Completion(request=request, finish=_full(stream, request), version=stream.version.number)
            )
            return
        stream.tokens += request.tokens.tolist()
        if not stream.tokens:
            raise UserError(f"stream {request.stream!r} is empty: a model needs at least one token to go on from")
        stream.request, stream.said, stream.logprobs = request, [], []
        self._waiting.append(stream)
        self._counts["heard_tokens"] += len(request.tokens)

    @torch.inference_mode()
    def step(self) -> list[Completion]:
        """Give every talking stream its next token, or a part of what it heard; return the turns that ended."""
        finished, self._refused = self._refused, []
        self._admit()
        chosen = self._choose()
        for group in _by_model(chosen):
            logits, streams = self._forward(group)
            self._draw(logits, streams)
            finished += [self._finish(stream) for stream in streams if self._finish_reason(stream)]
        self._counts["num_steps"] += 1
        return finished

    @torch.inference_mode()
    def close(self, stream: str) -> None:
        """Forget a stream, of every policy that talked in it."""
        for key in [key for key in self._streams if key[0] == stream]:
            gone = self._streams.pop(key)
            self._refused = [completion for completion in self._refused if completion.request.stream != stream]
            if gone in self._talking:
                self._talking.remove(gone)
            if gone in self._waiting:
                self._waiting.remove(gone)
            _withdraw_opening(gone)
            if gone.row >= 0:
                gone.version.cache.give_back(gone.row, is_broken=bool(np.isnan(gone.logprobs).any()))

    @property
    def statistics(self) -> EngineStatistics:
        """Counts since the engine was made."""
        return EngineStatistics(**self._counts)

    @property
    def weight_bytes(self) -> int:
        """Parameters and adapters of all versions at hand, each counted once."""
        versions = [version for kept in self._versions.values() for version in kept]
        versions += [stream.version for stream in self._streams.values()]
        models = {id(version.playing): version.playing.weight_bytes for version in versions}
        adapters = {id(adapter): adapter.numbers.nbytes for version in versions if (adapter := version.adapter)}
        return sum(models.values()) + sum(adapters.values())

    def _open(self, request: Request) -> _Stream:
        key = (request.stream, request.policy)
        if key not in self._streams:
            self._streams[key] = _Stream(version=self._version_of(request.policy, request.version))
        return self._streams[key]

    def _version_of(self, policy: str, number: int | None) -> _Version:
        """Return the newest version of a policy, or the newest with that number."""
        if policy not in self._versions:
            raise UserError(f"unknown policy {policy!r}; this engine has {', '.join(self._versions) or 'none'}")
        kept = self._versions[policy]
        for version in reversed(kept):
            if number is None or version.number == number:
                return version
        numbers = ", ".join(str(version.number) for version in kept)
        raise UserError(f"policy {policy!r} has no version {number} any more; this engine has {numbers}")

    def _make_version(
        self, playing: PlayingModel, number: int, end_of_turn: frozenset[int], *, adapter: Adapter | None = None
    ) -> _Version:
        self._num_versions += 1
        return _Version(
            serial=self._num_versions, number=number, playing=playing, adapter=adapter, end_of_turn=end_of_turn
        )

    def _admit(self) -> None:
        while self._waiting and len(self._talking) < self._max_batch:
            self._talking.append(self._waiting.popleft())

    def _choose(self) -> list[tuple[_Stream, int]]:
        """Return (stream, number of tokens to feed).  Streams with one token always go; prefills fill what is left."""
        chosen = [(stream, 1) for stream in self._talking if stream.num_waiting == 1 and stream.cached]
        room = self._max_tokens - len(chosen)
        planned: set[tuple[int, bytes]] = set()
        for stream in self._talking:
            if room <= 0:
                break
            if stream.num_waiting == 1 and stream.cached:
                continue
            if not stream.cached and not self._take_shared_opening(stream, planned):
                continue
            chosen.append((stream, min(stream.num_waiting, room)))
            room -= chosen[-1][1]
        return chosen

    def _take_shared_opening(self, stream: _Stream, planned: set[tuple[int, bytes]]) -> bool:
        """Copy the longest opening another stream holds; False: wait a step, a longer one is being made."""
        version = stream.version
        if not stream.opening:
            stream.opening = _blocks(stream.tokens)
        held = 0
        while held < len(stream.opening) and stream.opening[held] in version.prefixes:
            held += 1
        if held < len(stream.opening) and ((version.serial, stream.opening[held]) in planned):
            return False
        # The next block is ours to make; who opens alike, with the same version, waits for it.
        planned.update((version.serial, block) for block in stream.opening[held:])
        if stream.row < 0:
            stream.row = version.cache.take_row()
        version.cache.reserve(len(stream.tokens))
        if held:
            version.cache.fit_all()
            length = held * PREFIX_BLOCK
            version.cache.copy_prefix(
                source=version.prefixes[stream.opening[held - 1]][0].row, target=stream.row, length=length
            )
            stream.cached = length
            self._counts["shared_tokens"] += length
        return True

    def _forward(self, chosen: list[tuple[_Stream, int]]) -> tuple[Tensor, list[_Stream]]:
        """Feed the chosen tokens of one model; return logits [B, V] of the B streams that have nothing left to hear."""
        playing = chosen[0][0].version.playing
        playing.cache.reserve(max(stream.cached + count for stream, count in chosen))
        segments = [
            Segment(row=s.row, start=s.cached, end=s.cached + count, adapter=s.version.adapter_number)
            for s, count in chosen
        ]
        layout = Layout(segments, cache=playing.cache, device=playing.model.device)
        ordered = [chosen[i] for i in layout.order]
        ready = [i for i, (stream, count) in enumerate(ordered) if count == stream.num_waiting]
        tokens = [t for s, count in ordered for t in s.tokens[s.cached : s.cached + count]]
        adapters = {s.version.serial: s.version.adapter for s, _ in chosen if s.version.adapter is not None}
        logits = playing.logits(tokens, layout, [layout.last[i] for i in ready], adapters)
        for stream, count in ordered:
            stream.cached += count
            _offer_opening(stream)
        held = sum(s.version.cache.bytes_per_token * s.cached for s in self._streams.values())
        self._counts["cache_bytes"] = max(self._counts["cache_bytes"], held)
        return logits, [ordered[i][0] for i in ready]

    def _draw(self, logits: Tensor, streams: list[_Stream]) -> None:
        requests = [cast(Request, stream.request) for stream in streams]
        for sampling in dict.fromkeys(request.sampling for request in requests):
            rows = [i for i, request in enumerate(requests) if request.sampling == sampling]
            seeds = np.array([requests[i].seed for i in rows], dtype=np.uint64)
            positions = np.array([len(streams[i].tokens) for i in rows], dtype=np.uint64)
            picked = logits if len(rows) == len(requests) else logits[rows]
            drawn = draw(picked, split_mix(seeds, positions), sampling)
            for i, token, logprob in zip(rows, drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True):
                streams[i].tokens.append(token)
                streams[i].said.append(token)
                streams[i].logprobs.append(logprob)
        self._counts["said_tokens"] += len(streams)

    def _finish_reason(self, stream: _Stream) -> Finish | None:
        request = cast(Request, stream.request)
        sampling: Sampling = request.sampling
        if stream.said[-1] in stream.version.end_of_turn and not sampling.ignore_end_of_turn:
            return "stop"
        if len(stream.said) >= sampling.max_new_tokens:
            return "length"
        if len(stream.tokens) >= _limit(stream, request):
            return _full(stream, request)
        # A broken model says nothing worth waiting for.
        return "stop" if np.isnan(stream.logprobs[-1]) else None

    def _finish(self, stream: _Stream) -> Completion:
        request, finish = cast(Request, stream.request), cast(Finish, self._finish_reason(stream))
        broken = bool(np.isnan(stream.logprobs).any())
        stream.request = None
        self._talking.remove(stream)
        return Completion(
            request=request,
            said=np.array(stream.said, dtype=np.int32),
            logprobs=np.array(stream.logprobs, dtype=np.float32),
            finish=finish,
            version=stream.version.number,
            error=f"policy {request.policy!r} computed logits that are not finite" if broken else None,
        )


def _limit(stream: _Stream, request: Request) -> int:
    """Tokens the stream may hold."""
    return min(request.sampling.max_stream_tokens or stream.version.playing.context, stream.version.playing.context)


def _full(stream: _Stream, request: Request) -> Finish:
    return "context_full" if _limit(stream, request) == stream.version.playing.context else "token_limit"


def _by_model(chosen: list[tuple[_Stream, int]]) -> list[list[tuple[_Stream, int]]]:
    """Return the streams that share a model together, those of the oldest version first."""
    groups: dict[int, list[tuple[_Stream, int]]] = {}
    for item in sorted(chosen, key=lambda item: item[0].version.serial):
        groups.setdefault(id(item[0].version.playing), []).append(item)
    return list(groups.values())


def _fill(structure: PreTrainedModel, weights: Weights, *, policy: str) -> PreTrainedModel:
    """Return a model of this structure with the weights as its parameters, not copied yet."""
    if weights.adapter_scale is not None:
        raise UserError(f"policy {policy!r} has a whole model, so an adapter cannot be loaded into it; merge it first")
    model = copy_structure(structure)
    _, unexpected = model.load_state_dict(dict(weights.state), strict=False, assign=True)
    model.tie_weights()
    left = [name for name, tensor in model.named_parameters() if tensor.is_meta]
    if unexpected or left:
        raise UserError(f"weights of policy {policy!r} do not fit: {(unexpected or left)[0]!r} is out of place")
    return model


def _offer_opening(stream: _Stream) -> None:
    """Let others copy the blocks of the opening that are now in the cache."""
    while stream.num_offered < min(stream.cached // PREFIX_BLOCK, len(stream.opening)):
        stream.version.prefixes.setdefault(stream.opening[stream.num_offered], []).append(stream)
        stream.num_offered += 1


def _withdraw_opening(stream: _Stream) -> None:
    for block in stream.opening[: stream.num_offered]:
        holders = stream.version.prefixes[block]
        holders.remove(stream)
        if not holders:
            del stream.version.prefixes[block]


def _blocks(tokens: list[int]) -> list[bytes]:
    """Return a key for each whole block of an opening and all before it; the last token is left out: it must be fed."""
    keys, key = [], b""
    for end in range(PREFIX_BLOCK, len(tokens), PREFIX_BLOCK):
        block = np.array(tokens[end - PREFIX_BLOCK : end], dtype=np.int32).tobytes()
        key = hashlib.blake2b(key + block, digest_size=16).digest()
        keys.append(key)
    return keys
