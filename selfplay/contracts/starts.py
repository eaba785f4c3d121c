"""The proof that held-out games are others: no starting position in both splits, and not the same game every time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from selfplay.contracts.spot import Spot, call, plain_value
from selfplay.dialog import SPLITS, Conversation, PlayerInfo, Scenario, Split, Turn
from selfplay.interfaces import Env

__all__ = ["Starts", "compare_starts", "opening"]

NUM_RECITED, NUM_SCENARIOS = 2, 8  # of each split: whose texts are said again, and where


@dataclass(frozen=True, slots=True, kw_only=True)
class Starts:
    """What starting positions have in common."""

    is_one: bool  # every scenario is the same game, whatever its seed and split
    num_read_alike: int  # held-out starts that read to all roles like one of train


def compare_starts(
    spot: Spot, env: Env, games: Mapping[Split, Sequence[Conversation]], *, others: Sequence[Scenario]
) -> Starts:
    """Raise PluginError if a scenario's values are in both splits; return what else starts have in common.

    games: scripted games of each split; others: scenarios that were not played.  A game without chance can pass for
    many by a seed that stands in its scenarios.  It is found out by what roles are told at the start, and by saying the
    same texts again elsewhere: in a game that hides something, the same guess is not right everywhere.
    """
    _check_no_position_in_both(spot, games)
    read = {split: [_read(env, replace(game, turns=(), outcome=None)) for game in games[split]] for split in SPLITS}
    more = [opening(env, scenario) for scenario in others]
    seen = set(read["train"])
    num_read_alike = sum(start in seen for start in read["held_out"])
    is_one = len(seen.union(read["held_out"], (_read(env, start) for start in more))) == 1
    is_one = is_one and _is_one_game(spot, env, games, more)
    return Starts(is_one=is_one, num_read_alike=num_read_alike)


def opening(env: Env, scenario: Scenario, id: str = "000000-g00-0") -> Conversation:
    """Return the conversation before anyone spoke."""
    players = {role: PlayerInfo(policy="scripted", brief=env.brief(scenario, role)) for role in scenario.roles}
    return Conversation(id=id, scenario=scenario, players=players)


def _check_no_position_in_both(spot: Spot, games: Mapping[Split, Sequence[Conversation]]) -> None:
    train: dict[str, int] = {}
    for game in games["train"]:
        train.setdefault(_position(game), game.scenario.seed)
    for game in games["held_out"]:
        if (position := _position(game)) in train:
            here = replace(spot, seed=game.scenario.seed, split="held_out", turn=0)
            problem = f"returned the same starting position as train with seed {train[position]}"
            raise here.broken("scenario", problem, "the two splits must have none in common")


def _position(game: Conversation) -> str:
    scenario = game.scenario
    return json.dumps([scenario.roles, scenario.public, scenario.private], sort_keys=True)


def _read(env: Env, start: Conversation) -> str:
    """Return who begins and what all roles read before anyone spoke."""
    briefs = {role: player.brief for role, player in start.players.items()}
    return json.dumps([env.next_role(start), briefs, {role: env.hears(start, role) for role in env.roles}])


def _is_one_game(
    spot: Spot, env: Env, games: Mapping[Split, Sequence[Conversation]], more: Sequence[Conversation]
) -> bool:
    starts = [replace(game, turns=(), outcome=None) for split in SPLITS for game in games[split][:NUM_SCENARIOS]]
    starts += more[:NUM_SCENARIOS]
    for game in (game for split in SPLITS for game in games[split][:NUM_RECITED]):
        texts = [turn.text for turn in game.turns]
        first = _recited(spot, env, starts[0], texts)
        if any(_recited(spot, env, start, texts) != first for start in starts[1:]):
            return False
    return True


def _recited(spot: Spot, env: Env, start: Conversation, texts: Sequence[str]) -> object:
    """Return all that a game answers to texts that are said in it, whoever is next."""
    conversation, answers = start, []
    for text in (*texts, ""):
        here = spot.at(conversation)
        role = call(here, "next_role", env.next_role, conversation)
        heard = [call(here, "hears", env.hears, conversation, one) for one in env.roles]
        answers.append([role, heard, plain_value(call(here, "outcome", env.outcome, conversation))])
        if role is None:
            break
        turn = Turn(role=role, text=text, heard_text=heard[env.roles.index(role)], player="scripted")
        spoken = replace(conversation, turns=(*conversation.turns, turn))
        action = call(here, "parse", env.parse, spoken, conversation.num_turns)
        conversation = replace(spoken, turns=(*conversation.turns, replace(turn, action=action)))
    return answers
