"""Scripted turns a second of every game, and of TextArena's games through the adapter beside TextArena's own loop.

    python -m benchmarks.envs [games=200] [repeats=3] [envs=all] [textarena=TicTacToe-v0,ConnectFour-v0,...]

Nothing is sampled and no model is loaded: scripts fill all roles, on one core.  Seconds are processor time.  "plain"
plays game after game with `contracts.play_scripted`, drawing the scenarios included; "engine" plays the same through
`selfplay.play`, 64 games at a time, as training does when a script fills a role.  Every repeat has scenarios of its
own, for what games remember of texts they have seen would make the second one faster.  A TextArena game is played by
its script through the adapter, and then its actions are given to TextArena alone, with the same seed: the adapter's
seconds include the choice of every move.  envs=none or textarena=none leaves a part out.
"""

from __future__ import annotations

import importlib.util
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import in_turn, machine, ratio, table, words
from envs import ENVS
from selfplay.commands.building import build_env
from selfplay.config import PluginSpec
from selfplay.contracts import play_scripted
from selfplay.dialog import Conversation
from selfplay.interfaces import Env
from selfplay.play import make_matches, play
from selfplay.players import SCRIPTED, PlayerSettings, make_players

GAMES = "TicTacToe-v0,ConnectFour-v0,Nim-v0,KuhnPoker-v0,IteratedPrisonersDilemma-v0"
DEFAULTS = {"games": 200, "repeats": 3, "envs": "all", "textarena": GAMES}
# The other settings under which a game is another one.
VARIANTS: dict[str, dict[str, str]] = {
    "taboo": {"variant": "adversarial"},
    "deal": {"variant": "issues8"},
    "twenty_questions": {"variant": "free_answerer"},
    "pointing": {"variant": "mutual_friend"},
}
GOAL, TEXTARENA_GOAL = 2000, 500  # turns a second

Arm = Callable[[], float]


def main() -> None:
    """Measure and print the tables."""
    chosen = words(DEFAULTS)
    print(machine())
    if chosen["envs"] != "none":
        rows = [_row(spec, chosen) for spec in _specs(chosen["envs"])]
        print(f"\nScripted turns a second, one core (goal: {GOAL:,})\n")
        print(table(("game", "turns a game", "plain", "engine"), rows))
    if chosen["textarena"] == "none":
        return
    if importlib.util.find_spec("textarena") is None or "textarena" not in ENVS:
        print("\ntextarena is not installed: pip install 'selfplay-dialog[textarena]'")
        return
    rows = [_textarena_row(game, chosen) for game in chosen["textarena"].split(",")]
    print(f"\nTextArena's games, turns a second (goal: {TEXTARENA_GOAL:,})\n")
    print(table(("game", "turns a game", "adapter", "TextArena alone", "ratio (range)"), rows))


def _specs(wanted: str) -> list[PluginSpec]:
    names = [name for name in ENVS if name != "textarena"] if wanted == "all" else wanted.split(",")
    specs = []
    for name in names:
        specs.append(PluginSpec(name=name))
        if name in VARIANTS:
            specs.append(PluginSpec.model_validate({"name": name, **VARIANTS[name]}))
    return specs


def _row(spec: PluginSpec, chosen: dict[str, Any]) -> list[str]:
    env, num_games = build_env(spec), chosen["games"]
    seeds = itertools.count(step=num_games)
    turns: list[float] = []

    def plain() -> float:
        first, start = next(seeds), time.process_time()
        played = [play_scripted(env, env.scenario(seed, "train")) for seed in range(first, first + num_games)]
        return _rate(played, start, turns)

    def engine() -> float:
        start = time.process_time()
        return _rate(_through_engine(env, num_games, seed=next(seeds)), start, turns)

    arms: dict[str, Arm] = {"plain": plain, "engine": engine}
    rates = in_turn(arms, repeats=chosen["repeats"])
    label = " ".join([spec.name, *(f"{key}={value}" for key, value in spec.settings.items())])
    return [label, f"{statistics.mean(turns):.1f}", *(f"{statistics.median(rates[arm]):,.0f}" for arm in arms)]


def _through_engine(env: Env, num_games: int, *, seed: int) -> list[Conversation]:
    settings = PlayerSettings(device="cpu")
    players = make_players([SCRIPTED], env=env, settings=settings, say=lambda _: None, write=lambda _: None).players
    matches = make_matches(env, dict.fromkeys(env.roles, SCRIPTED), seed=seed, num_matches=num_games, split="train")
    played = list(play(matches, env=env, players=players))
    assert all(one.error is None for one in played), next(one.error for one in played if one.error)
    return played


def _rate(played: Sequence[Conversation], start: float, turns: list[float]) -> float:
    seconds = time.process_time() - start
    num_turns = sum(one.num_turns for one in played)
    turns.append(num_turns / len(played))
    return num_turns / seconds


def _textarena_row(game: str, chosen: dict[str, Any]) -> list[str]:
    env = build_env(PluginSpec.model_validate({"name": "textarena", "game": game}))
    num_games, seeds = max(1, chosen["games"] // 10), itertools.count()
    turns: list[float] = []
    ours, theirs = [], []
    for _ in range(chosen["repeats"]):
        scenarios = [env.scenario(next(seeds), "train") for _ in range(num_games)]
        start = time.process_time()
        played = [play_scripted(env, scenario) for scenario in scenarios]
        ours.append(_rate(played, start, turns))
        theirs.append(_alone(game, played))
    medians = (f"{statistics.median(rates):,.0f}" for rates in (ours, theirs))
    return [game, f"{statistics.mean(turns):.1f}", *medians, ratio(ours, theirs)]


def _alone(game: str, played: Sequence[Conversation]) -> float:
    """Return the turns a second of TextArena itself, with the seeds and the actions of games that were played."""
    import textarena

    num_turns, start = 0, time.process_time()
    for conversation in played:
        env = textarena.make(game)
        env.reset(num_players=2, seed=int(conversation.scenario.public["textarena_seed"]))
        is_over = False
        for turn in conversation.turns:
            assert not is_over, f"{game}: TextArena ended the game before turn {turn}"
            env.get_observation()
            is_over, _ = env.step(turn.text)
        assert is_over, f"{game}: TextArena would go on after {conversation.num_turns} turns"
        num_turns += conversation.num_turns
        env.close()
    return num_turns / (time.process_time() - start)


if __name__ == "__main__":
    main()
