"""The proof of an environment: it plays scripted games and asks every question twice."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Literal

from selfplay.contracts.spot import (
    Spot,
    call,
    call_twice,
    check_attributes,
    check_json,
    check_text,
    is_finite,
    kind_of,
    plain_value,
    plugin_label,
)
from selfplay.dialog import (
    SPLITS,
    Action,
    Conversation,
    Outcome,
    PlayerInfo,
    Scenario,
    Split,
    Turn,
)
from selfplay.interfaces import Env, PluginError

PAYOFF_TOLERANCE = 1e-6  # env units


def play_scripted(
    env: Env,
    scenario: Scenario,
    *,
    id: str = "000000-g00-0",
    max_turns: int = 1000,
) -> Conversation:
    """Play one game in which the environment's script fills every role.

    Raises PluginError if the game goes on for more than max_turns.
    """
    conversation = opening(env, scenario, id)
    while (role := env.next_role(conversation)) is not None:
        if conversation.num_turns == max_turns:
            raise endless(spot_of(env, scenario, max_turns), max_turns)
        conversation = with_turn(env, conversation, role, env.scripted(conversation, role))
    return replace(conversation, outcome=env.outcome(conversation))


def check_env(env: Env, *, num_scenarios: int = 20, max_turns: int = 200, first_seed: int = 0) -> None:
    """Prove that an environment keeps the promises of `Env`, by playing scripted games on both splits.

    Plays `num_scenarios` seeds from `first_seed` on, on train and on held_out; each game must end within max_turns.
    Raises PluginError for the first promise that is broken.
    """
    check_attributes(env, Env, "env")
    _check_env_attributes(env)
    positions: dict[Split, dict[str, int]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        for seed in range(first_seed, first_seed + num_scenarios):
            scenario = _check_scenario(env, seed, split)
            positions[split].setdefault(_position(scenario), seed)
            _check_game(env, scenario, max_turns)
    _check_splits_differ(env, positions)


def _check_env_attributes(env: Env) -> None:
    spot = Spot(plugin=plugin_label(env, "env"))
    if not isinstance(env.name, str) or not env.name:
        raise spot.broken("name", f"is {env.name!r}", "it must be a text that is not empty")
    if not isinstance(env.zero_sum, bool):
        raise spot.broken("zero_sum", f"is {env.zero_sum!r}", "it must be True or False")
    roles = env.roles
    is_names = isinstance(roles, tuple) and bool(roles) and all(isinstance(role, str) and role for role in roles)
    if not is_names or len(set(roles)) < len(roles):
        raise spot.broken("roles", f"is {roles!r}", "it must be a tuple of different names")


def _check_scenario(env: Env, seed: int, split: Split) -> Scenario:
    spot = Spot(plugin=plugin_label(env, "env"), seed=seed, split=split, turn=0)
    scenario = call_twice(spot, "scenario", env.scenario, seed, split)
    if not isinstance(scenario, Scenario):
        raise spot.broken("scenario", f"returned {kind_of(scenario)}", "it must return a Scenario")
    wanted = {"env": env.name, "seed": seed, "split": split}
    for name, value in wanted.items():
        if getattr(scenario, name) != value:
            raise spot.broken("scenario", f"set {name}={getattr(scenario, name)!r}", f"it must be {value!r}")
    if not isinstance(scenario.roles, tuple) or sorted(scenario.roles) != sorted(env.roles):
        right = f"they must be a tuple of {', '.join(env.roles)} in speaking order"
        raise spot.broken("scenario", f"set roles={scenario.roles!r}", right)
    for role in scenario.private:
        if role not in env.roles:
            raise spot.broken("scenario", f"has a private part of {role!r}", f"roles are {', '.join(env.roles)}")
    check_json(spot, "scenario", {"public": scenario.public, "private": scenario.private})
    return scenario


def _check_game(env: Env, scenario: Scenario, max_turns: int) -> None:
    spot = spot_of(env, scenario, 0)
    for role in scenario.roles:
        brief = call_twice(spot, "brief", env.brief, scenario, role)
        check_text(spot, "brief", brief)
        _check_secrets(spot, "brief", brief, Conversation(id="", scenario=scenario), role)
    conversation = opening(env, scenario)
    for turn in range(max_turns + 1):
        spot = replace(spot, turn=turn)
        check_position(spot, env, conversation)
        role_or_end = call_twice(spot, "next_role", env.next_role, conversation)
        if role_or_end is None:
            check_end(spot, env, conversation)
            return
        if role_or_end not in scenario.roles:
            right = f"roles are {', '.join(scenario.roles)}"
            raise spot.broken("next_role", f"returned {role_or_end!r}", right)
        conversation = check_turn(spot, env, conversation, role_or_end, method="scripted")
    raise endless(spot, max_turns)


def check_position(spot: Spot, env: Env, conversation: Conversation) -> Outcome:
    """Prove what every role hears, and how the game stands, at any point of a game; return how it stands."""
    for role in conversation.scenario.roles:
        heard = call_twice(spot, "hears", env.hears, conversation, role)
        check_text(spot, "hears", heard)
        _check_secrets(spot, "hears", heard, conversation, role)
    outcome = call_twice(spot, "outcome", env.outcome, conversation)
    _check_outcome(spot, env, outcome)
    return outcome


def check_turn(
    spot: Spot, env: Env, conversation: Conversation, role: str, *, method: Literal["scripted", "chance"]
) -> Conversation:
    """Prove what one of the environment's own players says, and how it is understood; return the game after it."""
    text = call_twice(spot, method, getattr(env, method), conversation, role)
    check_text(spot, method, text)
    if not text.strip():
        raise spot.broken(method, f"returned {text!r} for {role}", "a script must always say something")
    return check_message(spot, env, conversation, role, text)


def check_message(spot: Spot, env: Env, conversation: Conversation, role: str, text: str) -> Conversation:
    """Prove how any message is understood; return the game after it."""
    spoken = _spoken(env, conversation, role, text)
    action = call_twice(spot, "parse", env.parse, spoken, conversation.num_turns)
    if action is not None:
        if not isinstance(action, Action):
            raise spot.broken("parse", f"returned {kind_of(action)}", "it must return an Action or None")
        check_json(spot, "parse", {"value": action.value})
    return replace(spoken, turns=(*conversation.turns, replace(spoken.turns[-1], action=action)))


def check_end(spot: Spot, env: Env, conversation: Conversation) -> None:
    """Prove how a game that `next_role` ended is recorded."""
    if not conversation.turns:
        raise spot.broken("next_role", "returned None before anyone spoke", "a game needs at least one turn")
    outcome = call(spot, "outcome", env.outcome, conversation)
    if outcome.status != "terminated":
        right = "a game that next_role ended is 'terminated'; the other two are the engine's"
        raise spot.broken("outcome", f"has status {outcome.status!r} at the end", right)
    recorded = call(spot, "outcome", env.outcome, replace(conversation, outcome=outcome))
    if plain_value(recorded) != plain_value(outcome):
        right = "it must follow from the turns, whether the conversation carries an outcome already or not"
        raise spot.broken("outcome", "is another once it was recorded", right)


def _check_outcome(spot: Spot, env: Env, outcome: Outcome) -> None:
    if not isinstance(outcome, Outcome):
        raise spot.broken(
            "outcome", f"returned {kind_of(outcome)}", "it must return an Outcome, unfinished games included"
        )
    roles = ", ".join(env.roles)
    if outcome.by is not None and outcome.by not in env.roles:
        raise spot.broken("outcome", f"says by={outcome.by!r}", f"roles are {roles}; None means nobody in particular")
    for role, value in outcome.payoff.items():
        if role not in env.roles:
            raise spot.broken("outcome", f"has a payoff of {role!r}", f"roles are {roles}")
        if not is_finite(value):
            raise spot.broken("outcome", f"has payoff {value!r} of {role}", "a payoff must be a finite number")
    total = math.fsum(outcome.payoff.values())
    if env.zero_sum and abs(total) > PAYOFF_TOLERANCE:
        right = f"with zero_sum they must sum to 0, not to {total:g}"
        raise spot.broken("outcome", f"has payoffs {dict(outcome.payoff)}", right)
    check_json(spot, "outcome", {"facts": outcome.facts, "payoff": outcome.payoff})


def _check_secrets(spot: Spot, method: str, text: str, conversation: Conversation, role: str) -> None:
    scenario = conversation.scenario
    said = [turn.text for turn in conversation.turns]
    known = [*_texts_in(scenario.public), *_texts_in(scenario.private.get(role, {})), *said]
    for other in scenario.roles:
        for secret in _texts_in(scenario.private.get(other, {})) if other != role else ():
            if _holds(text, secret) and not any(_holds(already, secret) for already in known):
                right = "what more than one role may know belongs in scenario.public"
                raise spot.broken(method, f"tells {role} the private text {secret!r} of {other}", right)


def _check_splits_differ(env: Env, positions: Mapping[Split, Mapping[str, int]]) -> None:
    train, held_out = positions["train"], positions["held_out"]
    for position, seed in held_out.items():
        if position in train:
            spot = Spot(plugin=plugin_label(env, "env"), seed=seed, split="held_out", turn=0)
            problem = f"returned the same starting position as train with seed {train[position]}"
            raise spot.broken("scenario", problem, "the two splits must have none in common")


def spot_of(env: Env, scenario: Scenario, turn: int = 0) -> Spot:
    """Return where a proof stands that is about one scenario."""
    return Spot(plugin=plugin_label(env, "env"), seed=scenario.seed, split=scenario.split, turn=turn)


def endless(spot: Spot, max_turns: int) -> PluginError:
    """Return the error of a game that does not end."""
    return spot.broken("next_role", f"still names a role after {max_turns} turns", "a game must end by itself")


def opening(env: Env, scenario: Scenario, id: str = "000000-g00-0") -> Conversation:
    """Return the conversation before anyone spoke."""
    players = {role: PlayerInfo(policy="scripted", brief=env.brief(scenario, role)) for role in scenario.roles}
    return Conversation(id=id, scenario=scenario, players=players)


def with_turn(env: Env, conversation: Conversation, role: str, text: str) -> Conversation:
    """Return the conversation after one more message, as the environment understands it."""
    spoken = _spoken(env, conversation, role, text)
    action = env.parse(spoken, conversation.num_turns)
    return replace(spoken, turns=(*conversation.turns, replace(spoken.turns[-1], action=action)))


def _spoken(env: Env, conversation: Conversation, role: str, text: str) -> Conversation:
    turn = Turn(role=role, text=text, heard_text=env.hears(conversation, role), player="scripted")
    return replace(conversation, turns=(*conversation.turns, turn))


def _position(scenario: Scenario) -> str:
    return json.dumps([scenario.roles, scenario.public, scenario.private], sort_keys=True)


def _texts_in(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts_in(item)


def _holds(text: str, part: str) -> bool:
    """Whether a text holds the part as whole words, in any case; blank parts are no secret."""
    pattern = rf"(?<!\w){re.escape(part.strip())}(?!\w)"
    return bool(part.strip()) and re.search(pattern, text, re.IGNORECASE) is not None
