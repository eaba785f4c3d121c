"""A game as lines of text, to be recorded and compared: what a change of an environment changed."""

from __future__ import annotations

from selfplay.contracts.env import play_scripted
from selfplay.dialog import Split
from selfplay.interfaces import Env


def golden_game(env: Env, *, seed: int = 7, split: Split = "train") -> str:
    """Return one scripted game: where it starts, what every role is told, hears and says, and how it ends."""
    conversation = play_scripted(env, env.scenario(seed, split))
    scenario = conversation.scenario
    lines = [f"{scenario.env} seed {scenario.seed} {scenario.split} {dict(scenario.public)}"]
    lines += [f"{role} alone knows: {dict(private)}" for role, private in scenario.private.items()]
    lines += [f"{role} is told: {player.brief}" for role, player in conversation.players.items()]
    for turn in conversation.turns:
        lines += [f"{turn.role} hears: {turn.heard_text}", f"{turn.role} says: {turn.text}", f"  {turn.action}"]
    return "\n".join([*lines, str(conversation.outcome)]) + "\n"
