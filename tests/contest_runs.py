"""Run folders of a tournament and of a league, small and quickly written: who meets whom is real, payoffs are drawn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from envs.haggle import Haggle
from selfplay.dealing import LEARNER
from selfplay.dialog import Conversation, Outcome, PlayerInfo, Scenario, Turn, conversation_id
from selfplay.label_by import AutoLabel
from selfplay.league import League
from selfplay.pair_sampling import PairToLabel
from selfplay.preferences import Choice
from selfplay.store import RunWriter
from selfplay.tournament import Entry, Tournament, tournament_of
from selfplay.tournament_by import EloTournament, elo_tournament_of, pairs_of, said_of, store_said, talk_matches
from selfplay.tournament_json import ELO, TOURNAMENT, elo_tournament_to_json, tournament_to_json
from selfplay.train_settings import LeagueGroup

ROLES = ("seller", "buyer")  # of haggle
ODD = 'odd & "name" | <img src=x onerror=alert(1)>'  # of a player: every sign of a filter, and markup


def _talk(id: str, *, split: str, seed: int, players: dict[str, PlayerInfo], payoff: dict[str, float]) -> Conversation:
    turns = tuple(Turn(role=role, text=f"{role} offers {seed}", heard_text="", player="x") for role in players)
    return Conversation(
        id=id,
        scenario=Scenario(env="haggle", seed=seed, split=split, roles=ROLES),  # type: ignore[arg-type]  # a split
        players=players,
        turns=turns,
        outcome=Outcome(status="terminated", reason="agreement", payoff=payoff),
    )


def write_tournament(folder: Path, names: Sequence[str], *, num_scenarios: int = 2, seed: int = 0) -> Tournament:
    """Write a tournament in which whoever is named first is paid most; everybody meets everybody in both roles."""
    generator = np.random.default_rng(seed)
    strength = {name: 1.0 - 2.0 * place / max(1, len(names) - 1) for place, name in enumerate(names)}
    played = []
    for scenario in range(num_scenarios):
        pairs = [(one, other) for one in names for other in names]
        for index, (one, other) in enumerate(pairs):
            lead = float(np.clip((strength[one] - strength[other]) / 2 + generator.normal(0, 0.3), -1, 1))
            lead = 0.0 if one == other else round(lead, 2)
            played.append(
                _talk(
                    conversation_id(step=0, letter="t", group=scenario, index=index),
                    split="held_out",
                    seed=scenario,
                    players={role: PlayerInfo(policy=name) for role, name in zip(ROLES, (one, other), strict=True)},
                    payoff=dict(zip(ROLES, (lead, -lead), strict=True)),
                )
            )
    entries = [Entry(name=name) for name in names]
    found = tournament_of(played, entries, env="haggle", roles=ROLES, seed=0, num_resamples=200)
    with RunWriter.create(folder, {"kind": "tournament", "env": "haggle"}, "seed: 0\n") as writer:
        for one in played:
            writer.append(one)
    (folder / TOURNAMENT).write_text(json.dumps(tournament_to_json(found)))
    return found


class PrefersLower:
    """A judge to whom (A) is a bit better than it is, and of what two roles say the seller's more clear."""

    by, question, needs_tokens = "judge:script", "Which follows the principle better?", False

    def label(self, pairs: Sequence[PairToLabel]) -> list[AutoLabel | None]:
        return [self._of(pair) for pair in pairs]

    def _of(self, pair: PairToLabel) -> AutoLabel:
        is_left = pair.left.id < pair.right.id
        likely = (0.75 if pair.focus == "seller" else 0.625) if is_left else (0.25 if pair.focus == "seller" else 0.375)
        detail = {"first_order": likely + 0.125, "second_order": 1.0 - likely + 0.125}
        choice: Choice = "left" if is_left else "right"
        return AutoLabel(probability=likely, choice=choice, principle="listens", detail=detail)

    def finish(self) -> None:
        """Nothing is left to do."""


def write_elo(folder: Path, names: Sequence[str], *, num_scenarios: int = 2) -> EloTournament:
    """Write a tournament by preferences, in which the name that sorts first is always preferred.

    The last two entries say the same on scenario 0, which is a tie.
    """
    talks: dict[str, list[Conversation]] = {name: [] for name in names}
    for match in talk_matches(Haggle(), names, seed=0, num_scenarios=num_scenarios):
        name = match.players[ROLES[0]]
        group = int(match.id.split("-p")[1].split("-")[0])
        is_same = group == 0 and name in sorted(names)[-2:]
        talk = _talk(
            match.id,
            split="held_out",
            seed=match.scenario.seed,
            players=dict.fromkeys(ROLES, PlayerInfo(policy=name)),
            payoff=dict.fromkeys(ROLES, 0.0),
        )
        turns = tuple(replace(turn, text="as ever" if is_same else f"{name} says") for turn in talk.turns)
        talks[name].append(replace(talk, turns=turns))
    judge, pairs = PrefersLower(), pairs_of(talks)
    said = said_of(pairs, judge)
    found = elo_tournament_of(talks, judge, said, seed=0)
    with RunWriter.create(folder, {"kind": "tournament", "env": "haggle"}, "seed: 0\n") as writer:
        for one in (talk for own in talks.values() for talk in own):
            writer.append(one)
        store_said(folder, said, judge)
    (folder / ELO).write_text(json.dumps(elo_tournament_to_json(found)))
    return found


def write_league(folder: Path, *, steps: int = 12, seed: int = 0) -> League:
    """Write a training run whose policy wins the more against a snapshot the older that is."""
    generator = np.random.default_rng(seed)
    settings = LeagueGroup(save_steps=3, window=3, frozen_ratio=0.1, scripted_ratio=0.2, opponents=2)
    league = League(settings, seed=seed, roles=ROLES)
    config = f"steps: {steps}\npartner: league\nalarms:\n  watch: false\n"
    with RunWriter.create(folder, {"kind": "train", "env": "haggle", "model": "tiny"}, config) as writer:
        for step in range(steps):
            played = []
            for index, opponent in enumerate(name for name in league.opponents(step) for _ in range(4)):
                own = ROLES[index % 2]
                age = 0.0 if opponent == LEARNER else 0.25 + 0.02 * step
                lead = round(float(np.clip(generator.normal(age, 0.4), -1, 1)), 2)
                names = {role: LEARNER if role == own else opponent for role in ROLES}
                players = {
                    role: PlayerInfo(policy=name, version=step, model="tiny", trained=name == LEARNER)
                    for role, name in names.items()
                }
                payoff = {role: lead if role == own else -lead for role in ROLES}
                id = conversation_id(step=step, letter="g", group=index, index=0)
                played.append(_talk(id, split="train", seed=100 * step + index, players=players, payoff=payoff))
            for one in played:
                writer.append(one)
            league.record(played)
            if (step + 1) % 3 == 0:
                league.add(step + 1)
            writer.log_metrics(step, {**league.metrics(), "reward/per_conversation": 0.1 * step})
    (folder / "league.json").write_text(json.dumps(league.to_json()))
    return league
