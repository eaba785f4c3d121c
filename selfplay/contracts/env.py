"""The proof of an environment: it plays scripted games and asks every question twice."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from selfplay.contracts.secrets import check_exchanged, check_told
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
from selfplay.contracts.starts import Starts, compare_starts, opening
from selfplay.dialog import SPLITS, Action, Conversation, Outcome, Scenario, Split, Turn
from selfplay.interfaces import Env, PluginError

PAYOFF_TOLERANCE = 1e-6  # env units
NUM_OTHERS = 16  # scenarios that are not played, to compare with the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """What `check_env` could compare between the scenarios of an environment that keeps its promises."""

    num_private: int  # private parts, of all roles and scenarios
    num_exchanged: int  # those of them that were exchanged, and nobody else was told anything else
    num_held_out: int  # scenarios of that split
    starts: Starts

    def kept(self) -> list[str]:
        """Return in words which promises were kept that compare scenarios."""
        said = []
        if not self.starts.is_one:
            alike = self.starts.num_read_alike
            but = f", though {alike} of {self.num_held_out} held-out ones read to all roles like one of train"
            said.append(f"no scenario in both splits{but if alike else ''}")
        told = f", nor anything else with {self.num_exchanged} of {self.num_private} private parts exchanged"
        secrets = f"no private text told to another role{told if self.num_exchanged else ''}"
        return [*said, secrets if self.num_private else "no role has a private part to be told to another"]

    def doubts(self) -> dict[str, str]:
        """Return what a person should know, by the name of the proof."""
        doubts = {}
        if self.starts.is_one:
            doubts["splits"] = (
                "every game starts alike, whatever the seed and split: held-out scenarios measure nothing new"
            )
        if self.num_private and not self.num_exchanged:
            doubts["secrets"] = (
                f"none of {self.num_private} private parts could be exchanged for another of the same role: only their "
                "texts were looked for, and numbers may be told to another role"
            )
        return doubts


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


def check_env(env: Env, *, num_scenarios: int = 20, max_turns: int = 200, first_seed: int = 0) -> Compared:
    """Prove that an environment keeps the promises of `Env`, by playing scripted games on both splits.

    Plays `num_scenarios` seeds from `first_seed` on, on train and on held_out; each game must end within max_turns.
    Raises PluginError for the first promise that is broken.
    """
    check_attributes(env, Env, "env")
    _check_env_attributes(env)
    games: dict[Split, list[Conversation]] = {split: [] for split in SPLITS}
    for split in SPLITS:
        for seed in range(first_seed, first_seed + num_scenarios):
            games[split].append(_check_game(env, _check_scenario(env, seed, split), max_turns))
    spare = range(first_seed + num_scenarios, first_seed + num_scenarios + NUM_OTHERS)
    others = [_check_scenario(env, seed, "train") for seed in spare]
    spot, played = Spot(plugin=plugin_label(env, "env")), [game.scenario for split in SPLITS for game in games[split]]
    return Compared(
        num_private=sum(bool(part) for one in played for part in one.private.values()) if len(env.roles) > 1 else 0,
        num_exchanged=check_exchanged(spot, env, played, others=others),
        num_held_out=num_scenarios,
        starts=compare_starts(spot, env, games, others=others),
    )


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


def _check_game(env: Env, scenario: Scenario, max_turns: int) -> Conversation:
    spot = spot_of(env, scenario, 0)
    for role in scenario.roles:
        brief = call_twice(spot, "brief", env.brief, scenario, role)
        check_text(spot, "brief", brief)
        check_told(spot, "brief", brief, Conversation(id="", scenario=scenario), role)
    conversation = opening(env, scenario)
    for turn in range(max_turns + 1):
        spot = replace(spot, turn=turn)
        check_position(spot, env, conversation)
        role_or_end = call_twice(spot, "next_role", env.next_role, conversation)
        if role_or_end is None:
            check_end(spot, env, conversation)
            return conversation
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
        check_told(spot, "hears", heard, conversation, role)
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


def spot_of(env: Env, scenario: Scenario, turn: int = 0) -> Spot:
    """Return where a proof stands that is about one scenario."""
    return Spot(plugin=plugin_label(env, "env"), seed=scenario.seed, split=scenario.split, turn=turn)


def endless(spot: Spot, max_turns: int) -> PluginError:
    """Return the error of a game that does not end."""
    return spot.broken("next_role", f"still names a role after {max_turns} turns", "a game must end by itself")


def with_turn(env: Env, conversation: Conversation, role: str, text: str) -> Conversation:
    """Return the conversation after one more message, as the environment understands it."""
    spoken = _spoken(env, conversation, role, text)
    action = env.parse(spoken, conversation.num_turns)
    return replace(spoken, turns=(*conversation.turns, replace(spoken.turns[-1], action=action)))


def _spoken(env: Env, conversation: Conversation, role: str, text: str) -> Conversation:
    turn = Turn(role=role, text=text, heard_text=env.hears(conversation, role), player="scripted")
    return replace(conversation, turns=(*conversation.turns, turn))
