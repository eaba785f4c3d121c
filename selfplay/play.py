"""The dialog loop: many conversations at once, over any generators.

Each live conversation has one turn under way.  When a generator hands a turn back, the environment says who is next
and that turn is queued at once, so a long reply in one conversation holds nobody else up.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from selfplay.dialog import (
    SPLITS,
    Action,
    Conversation,
    Finish,
    Outcome,
    Reason,
    Scenario,
    Split,
    Tokens,
    Turn,
    conversation_id,
)
from selfplay.errors import UserError
from selfplay.interfaces import Completion, Env, Game, GameSheet, Request, View, stream_of
from selfplay.players import Player

OnTurn = Callable[[Conversation], None]
PAYOFF_TOLERANCE = 1e-6  # env units
# First part of every spawn key, so that draws for different purposes never meet.
DRAW_SCENARIO, DRAW_CONVERSATION, DRAW_STREAM, DRAW_REPLAY, DRAW_TRAINED_ROLE = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A conversation to be played."""

    id: str
    scenario: Scenario
    players: Mapping[str, str]  # role -> name in the table of players
    seed: int  # what its draws come from
    turns: tuple[Turn, ...] = ()  # [K] already spoken: a replay goes on from here
    error: str | None = None  # set: the env could not draw the scenario, and the conversation has failed


def make_matches(
    env: Env, players: Mapping[str, str], *, seed: int, num_matches: int, split: Split, step: int = 0
) -> Iterator[Match]:
    """Yield matches on scenarios drawn from (seed, split, step), each its own group."""
    for group in range(num_matches):
        yield from make_group(env, players, seed=seed, split=split, place=(step, group))


def make_group(
    env: Env, players: Mapping[str, str], *, seed: int, split: Split, place: tuple[int, int], size: int = 1
) -> list[Match]:
    """Return the matches of one group: they share a scenario and their players, and differ in what they draw.

    place: (step, group), from which both scenario and draws derive.
    """
    purpose, (step, group) = SPLITS.index(split), place
    drawn = draw_seed(seed, (DRAW_SCENARIO, purpose, step, group), bits=31)
    error = None
    try:
        scenario = _ask_env(env, "scenario", Scenario, drawn, split, seed=drawn)
    except _EnvError as raised:
        scenario, error = Scenario(env=env.name, seed=drawn, split=split, roles=env.roles), str(raised)
    return [
        Match(
            id=conversation_id(step=step, group=group, index=index),
            scenario=scenario,
            players=players,
            seed=draw_seed(seed, (DRAW_CONVERSATION, purpose, step, group, index), bits=48),
            error=error,
        )
        for index in range(size)
    ]


def continue_match(
    conversation: Conversation, players: Mapping[str, str], *, turn: int, seed: int | None = None
) -> Match:
    """Return a match that goes on from a stored conversation before its turn `turn`.

    With the stored seed (seed=None) and the same players the continuation is the one that was stored.
    Raises UserError if the conversation has fewer turns.
    """
    if not 0 <= turn <= conversation.num_turns:
        raise UserError(
            f"turn={turn}: conversation {conversation.id} has turns 0 to {conversation.num_turns - 1}; "
            f"turn={conversation.num_turns} goes on after its last"
        )
    return Match(
        id=conversation.id,
        scenario=conversation.scenario,
        players=players,
        seed=conversation.seed if seed is None else draw_seed(seed, (DRAW_REPLAY,), bits=48),
        turns=conversation.turns[:turn],
    )


def play(
    matches: Iterable[Match],
    *,
    env: Env,
    players: Mapping[str, Player],
    view: View = "perspective",
    concurrency: int = 64,
    on_turn: OnTurn | None = None,
) -> Iterator[Conversation]:
    """Play matches, `concurrency` at a time, and yield conversations as they finish.

    `on_turn` is called with the conversation after each of its turns.  An environment or a player that fails ends its
    own conversation as "failed", with the error recorded; a UserError means that nothing could go right and is raised.
    """
    table = _Table(env=env, players=players, view=view, on_turn=on_turn)
    waiting = iter(matches)
    try:
        while True:
            fresh = list(islice(waiting, concurrency - len(table.live)))
            for match in fresh:
                yield from table.begin(match)
            if not fresh and not table.live:
                return
            for completion in table.step():
                yield from table.hear(completion)
    finally:
        table.clear()


@dataclass(slots=True)
class _Live:
    """A conversation that is being played."""

    match: Match
    conversation: Conversation
    started: float
    asked: float = 0.0  # when the turn under way was asked for
    heard: Tokens = field(default_factory=lambda: np.empty(0, dtype=np.int32))  # what that turn's stream was fed
    heard_text: str = ""
    streams: set[tuple[str, str]] = field(default_factory=set)  # (stream, player's name) that were asked for turns
    fed: set[tuple[str, str]] = field(default_factory=set)  # (stream, policy) that hold what was said so far


class _Table:
    """Where the env, the players and the live conversations meet.  Its steps return the conversations that ended."""

    def __init__(self, *, env: Env, players: Mapping[str, Player], view: View, on_turn: OnTurn | None) -> None:
        self.live: dict[str, _Live] = {}
        self._env = env
        self._players = players
        self._view = view
        self._on_turn = on_turn
        self._generators = list({id(p.generator): p.generator for p in players.values()}.values())

    def begin(self, match: Match) -> list[Conversation]:
        """Seat the players, give them their briefs and ask for the first turn."""
        env, scenario = self._env, match.scenario
        missing = [role for role in scenario.roles if match.players.get(role) not in self._players]
        if missing:
            raise UserError(
                f"role {missing[0]!r} of env {env.name!r} has no player; name one with players.{missing[0]}="
            )
        error, briefs = match.error, dict.fromkeys(scenario.roles, "")
        if error is None:
            try:
                briefs = {
                    role: _ask_env(env, "brief", str, scenario, role, seed=scenario.seed) for role in scenario.roles
                }
            except _EnvError as raised:
                error = str(raised)
        if self._view == "shared":
            _check_shareable(scenario, briefs)
        conversation = Conversation(
            id=match.id,
            scenario=scenario,
            players={role: self._players[match.players[role]].info(briefs[role]) for role in scenario.roles},
            turns=match.turns,
            seed=match.seed,
            view=self._view,
            started_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        )
        live = self.live[match.id] = _Live(match=match, conversation=conversation, started=time.perf_counter())
        is_over = self._advance(live) if error is None else _fail(live, "env_error", error)
        return [self._leave(live)] if is_over else []

    def step(self) -> list[Completion]:
        """Let every generator go on by one step."""
        return [completion for generator in self._generators for completion in generator.step()]

    def hear(self, completion: Completion) -> list[Conversation]:
        """Add a finished turn to its conversation and ask for the next."""
        live = self.live[completion.request.conversation.id]
        is_over = self._ends_unsaid(live, completion) or self._add_turn(live, completion)
        if self._on_turn is not None and live.conversation.num_turns > completion.request.conversation.num_turns:
            self._on_turn(live.conversation)
        return [self._leave(live)] if is_over or self._advance(live) else []

    def clear(self) -> None:
        """Leave every live conversation where it is."""
        for live in list(self.live.values()):
            self._leave(live)

    def _leave(self, live: _Live) -> Conversation:
        """Free what the conversation's streams hold, and return it."""
        del self.live[live.match.id]
        for stream, name in live.streams:
            self._players[name].generator.close(stream)
        return replace(live.conversation, seconds=time.perf_counter() - live.started)

    def _advance(self, live: _Live) -> bool:
        """Ask for the next turn; True: the conversation is over."""
        conversation = live.conversation
        try:
            role = self._ask_env("next_role", str | None, conversation)
            if role is None:
                outcome = self._ask_env("outcome", Outcome, conversation)
                _check_storable(self._env, "outcome", [dict(outcome.facts), dict(outcome.payoff)])
                self._check_paid(conversation, outcome)
                live.conversation = replace(conversation, outcome=outcome)
                return True
            if role not in conversation.scenario.roles:
                roles = ", ".join(conversation.scenario.roles)
                raise _EnvError(f"env {self._env.name!r}: next_role returned {role!r}; roles are {roles}")
            live.heard_text = self._ask_env("hears", str, conversation, role)
        except _EnvError as error:
            return _fail(live, "env_error", str(error))
        self._ask(live, role)
        return False

    def _ends_unsaid(self, live: _Live, completion: Completion) -> bool:
        """End the conversation where there is no turn to add; False: there is one."""
        role = completion.request.role
        me = live.conversation.players[role]
        if completion.error is not None:
            return _fail(live, "player_error", completion.error, by=role)
        if me.model and completion.version != me.version:
            return _fail(live, "infrastructure", f"version {completion.version} answered for {me.label}", by=role)
        if completion.leaves:
            outcome = Outcome(status="terminated", reason="leaving", by=role)
            live.conversation = replace(live.conversation, outcome=outcome)
            return True
        # Where nothing could be said, what was to be heard has reached no model either.
        return _is_full(completion) and len(completion.said) == 0 and _truncate(live, completion.finish, by=role)

    def _add_turn(self, live: _Live, completion: Completion) -> bool:
        """Add a finished turn; True: the conversation is over."""
        request, conversation = completion.request, live.conversation
        bridge = self._players[live.match.players[request.role]].bridge
        text = completion.text if bridge is None else bridge.text(completion.said)
        turn = Turn(
            role=request.role,
            text=text or "",
            heard_text=live.heard_text,
            player=conversation.players[request.role].label,
            stream=stream_of(request.role, self._view) if bridge is not None else "",
            heard=live.heard,
            said=completion.said,
            logprobs=completion.logprobs,
            finish=completion.finish,
            seconds=time.perf_counter() - live.asked,
        )
        live.conversation = conversation = replace(conversation, turns=(*conversation.turns, turn))
        if _is_full(completion):
            return _truncate(live, completion.finish, by=request.role)
        if not turn.text.strip():
            return _fail(live, "empty_reply", f"{request.role} said nothing", by=request.role)
        try:
            action = self._ask_env("parse", Action | None, conversation, conversation.num_turns - 1)
            _check_storable(self._env, "parse", None if action is None else action.value)
        except _EnvError as error:
            return _fail(live, "env_error", str(error))
        if action is not None:
            live.conversation = replace(conversation, turns=(*conversation.turns[:-1], replace(turn, action=action)))
        return False

    def _check_paid(self, conversation: Conversation, outcome: Outcome) -> None:
        """Refuse a payoff that the game's sheet rules out: rewards and statistics are made for what it promises."""
        if not isinstance(self._env, Game):
            return
        scenario, turn = conversation.scenario, conversation.num_turns
        low, high = _ask_env(self._env, "sheet", GameSheet, seed=scenario.seed, turn=turn).payoffs
        where = f"(seed {scenario.seed}, turn {turn})"
        for role in scenario.roles:
            if role not in outcome.payoff:
                raise _EnvError(f"env {self._env.name!r}: outcome pays {role} nothing at all, not even 0 {where}")
            # Written so that NaN, which compares as False, is refused.
            if not low - PAYOFF_TOLERANCE <= outcome.payoff[role] <= high + PAYOFF_TOLERANCE:
                raise _EnvError(
                    f"env {self._env.name!r}: outcome pays {role} {outcome.payoff[role]!r}; its sheet allows "
                    f"{low:g} to {high:g} {where}"
                )

    def _ask_env(self, method: str, kind: Any, conversation: Conversation, *arguments: Any) -> Any:
        seed, turn = conversation.scenario.seed, conversation.num_turns
        return _ask_env(self._env, method, kind, conversation, *arguments, seed=seed, turn=turn)

    def _ask(self, live: _Live, role: str) -> None:
        conversation = live.conversation
        player = self._players[live.match.players[role]]
        stream = f"{conversation.id}/{stream_of(role, self._view) if player.bridge else role}"
        tokens = live.heard = np.empty(0, dtype=np.int32)
        if player.bridge is not None:
            self._check_heard(conversation, live.heard_text)
            me = conversation.players[role]
            live.heard = player.bridge.heard(
                conversation, role, heard_text=live.heard_text, brief=me.brief, player=me.label
            )
            tokens = live.heard
            if (stream, player.policy) not in live.fed:
                # A replayed conversation: the stream is opened with all that it held.
                tokens = np.concatenate([*player.bridge.seen(conversation, role, player=me.label), live.heard])
                live.fed.add((stream, player.policy))
        live.streams.add((stream, live.match.players[role]))
        live.asked = time.perf_counter()
        player.generator.submit(
            Request(
                conversation=conversation,
                role=role,
                policy=player.policy,
                stream=stream,
                version=player.version if player.bridge is not None else None,
                heard_text=live.heard_text,
                tokens=tokens,
                sampling=player.sampling,
                seed=_stream_seed(conversation, role, self._view),
            )
        )

    def _check_heard(self, conversation: Conversation, heard_text: str) -> None:
        if self._view == "shared" and conversation.turns and heard_text != conversation.turns[-1].text:
            raise UserError(
                f"env {self._env.name!r} tells a role more than its partner said (turn {conversation.num_turns}), "
                "which a shared stream cannot hold; use view=perspective"
            )


def _check_shareable(scenario: Scenario, briefs: Mapping[str, str]) -> None:
    hidden = [role for role, private in scenario.private.items() if private]
    if hidden:
        raise UserError(
            f"view=shared: scenario {scenario.seed} of env {scenario.env!r} has private parts ({', '.join(hidden)}), "
            "which one stream for both roles would reveal; use view=perspective"
        )
    if len(set(briefs.values())) > 1:
        raise UserError(
            f"view=shared: the roles of env {scenario.env!r} have different briefs, and one stream for both roles has "
            "one brief; use view=perspective"
        )


def _stream_seed(conversation: Conversation, role: str, view: View) -> int:
    place = 0 if view == "shared" else conversation.scenario.roles.index(role)
    return draw_seed(conversation.seed, (DRAW_STREAM, place), bits=64)


def draw_seed(seed: int, key: tuple[int, ...], *, bits: int) -> int:
    """Return a number of so many bits that depends on the seed and the key alone."""
    state = np.random.SeedSequence(seed, spawn_key=key).generate_state(1, np.uint64)
    return int(state[0]) >> (64 - bits)


def _is_full(completion: Completion) -> bool:
    return completion.finish in ("context_full", "token_limit")


def _fail(live: _Live, reason: Reason, error: str, *, by: str | None = None) -> bool:
    line = " ".join(error.split())
    live.conversation = replace(
        live.conversation, outcome=Outcome(status="failed", reason=reason, by=by), error=f"{reason}: {line}"
    )
    return True


def _truncate(live: _Live, finish: Finish, *, by: str) -> bool:
    reason: Reason = "token_limit" if finish == "token_limit" else "context_full"
    live.conversation = replace(live.conversation, outcome=Outcome(status="truncated", reason=reason, by=by))
    return True


class _EnvError(Exception):
    """An environment raised, or returned what it must not; the message says which method, and where."""


def _ask_env(env: Env, method: str, kind: Any, *arguments: Any, seed: int, turn: int = 0) -> Any:
    """Return what a method of the environment answers; raises _EnvError if it raises or answers something else."""
    where = f"(seed {seed}, turn {turn})"
    try:
        answer = getattr(env, method)(*arguments)
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
        raise _EnvError(
            f"env {env.name!r}: {method} raised {type(error).__name__}: {error} at {place} {where}"
        ) from error
    if not isinstance(answer, kind):
        right = getattr(kind, "__name__", str(kind))
        raise _EnvError(f"env {env.name!r}: {method} returned {type(answer).__name__}; it must return {right} {where}")
    return answer


def _check_storable(env: Env, method: str, value: Any) -> None:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _EnvError(f"env {env.name!r}: {method} returned what cannot be stored as JSON: {error}") from error
