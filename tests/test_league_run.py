"""Training runs with a league: what they store, and that going on is as never having stopped."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from duel import Duel
from tiny_runs import create, metrics_of, resume, said_in, tiny_settings

from rewards import Payoff
from selfplay import checkpoint, models
from selfplay.commands import main
from selfplay.dialog import Conversation, Outcome
from selfplay.errors import UserError
from selfplay.score import WeightedReward
from selfplay.store import RunReader
from selfplay.training_run import Result, TrainingRun
from selfplay.training_screen import Silence

WORDS = (
    *("partner=league", "league.save_steps=2", "league.play_against_latest_model_ratio=0.2", "league.opponents=2"),
    *("steps=6", "checkpoints.keep=1", "sampling.max_new_tokens=4", "league.choose=prioritised"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest(Duel):
    """Whoever says more characters in its one turn wins."""

    name: ClassVar[str] = "contest"

    turns: int = 2

    def outcome(self, conversation: Conversation) -> Outcome:
        said = {turn.role: len(turn.text) for turn in conversation.turns}
        lead = said.get("left", 0) - said.get("right", 0)
        sign = float((lead > 0) - (lead < 0))
        payoff = {"left": sign, "right": -sign}
        return Outcome(status="terminated", reason="agreement", facts={"success": sign != 0}, payoff=payoff)


@dataclass(frozen=True, slots=True, kw_only=True)
class Even(Contest):
    """Both are paid the same."""

    def outcome(self, conversation: Conversation) -> Outcome:
        said = float(sum(len(turn.text) for turn in conversation.turns))
        return Outcome(status="terminated", reason="agreement", payoff={"left": said, "right": said})


CONTEST = {"env": Contest(), "rewards": [WeightedReward(reward=Payoff())]}


class StopAfter(Silence):
    """Asks a run to stop when it has made a step."""

    def __init__(self, run: TrainingRun, step: int) -> None:
        self.run = run
        self.step = step

    def end_step(self, step: int, metrics: object) -> None:
        if step == self.step:
            self.run.stop()


def train(folder: Path, *words: str) -> Result:
    return create(folder, *WORDS, *words, **CONTEST).train()


def stopped_after(folder: Path, step: int, *words: str) -> Path:
    run = create(folder, *WORDS, *words, **CONTEST)
    run.screen = StopAfter(run, step)
    assert run.train().is_stopped
    return folder


def league_of(folder: Path) -> dict:
    return json.loads((folder / "league.json").read_text())


def players_in(folder: Path) -> dict[str, dict[str, tuple[str, int, bool]]]:
    return {
        one.id: {role: (player.policy, player.version, player.trained) for role, player in one.players.items()}
        for one in RunReader(folder).conversations()
    }


@pytest.mark.parametrize("method", ["lora", "full"])
def test_resumed_league_run_has_the_pool_ratings_and_opponents_of_an_uninterrupted_one(tmp_path, method):
    whole, folder = tmp_path / "whole", tmp_path / "parts"
    train(whole, f"learner.method={method}")
    stopped_after(folder, 2, f"learner.method={method}")
    resume(folder, *WORDS, f"learner.method={method}", **CONTEST).train()
    assert league_of(folder) == league_of(whole)
    assert players_in(folder) == players_in(whole)
    assert said_in(folder) == said_in(whole)
    assert metrics_of(folder) == metrics_of(whole)
    # The comparison is of something: past policies were met, and games were won.
    met = {policy for players in players_in(whole).values() for policy, _, _ in players.values()}
    assert any(policy.startswith("past:") for policy in met), met
    ratings = league_of(whole)["ratings"]
    assert any(mu != 25.0 for roles in ratings.values() for mu, _ in roles.values())


def test_going_back_to_an_older_checkpoint_moves_later_past_policies_aside(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "back"
    train(whole)
    train(folder, "checkpoints.keep=9")
    resume(folder, *WORDS, **CONTEST, version=2).train()
    assert league_of(folder) == league_of(whole)
    assert said_in(folder) == said_in(whole)
    [aside] = (folder / "aside").iterdir()
    assert sorted(path.name for path in (aside / "league").iterdir()) == ["000004", "000006"]


def test_going_back_without_a_step_more_leaves_the_books_of_then(tmp_path):
    folder = tmp_path / "run"
    train(folder, "checkpoints.keep=9")
    then = json.loads((folder / "checkpoints/000002/league.json").read_text())
    assert then != league_of(folder)
    resume(folder, *WORDS, "steps=2", "evaluation.conversations=2", **CONTEST, version=2).train()
    assert league_of(folder) == then


def test_past_policies_are_never_trained_and_are_sampled_as_the_policy_is(tmp_path):
    train(tmp_path / "run")
    for one in RunReader(tmp_path / "run").conversations():
        trained = [player for player in one.players.values() if player.trained]
        others = [player for player in one.players.values() if not player.trained]
        assert {player.policy for player in trained} == {"learner"}
        assert len(trained) == 2 or [player.sampling for player in trained] == [player.sampling for player in others]
        for player in others:
            assert player.policy in ("frozen", f"past:{player.version}")
            assert player.version <= one.step


def test_past_policy_is_a_model_when_its_checkpoint_is_gone(tmp_path):
    train(tmp_path / "run")
    assert checkpoint.versions(tmp_path / "run") == [6]
    assert checkpoint.versions(tmp_path / "run", place=checkpoint.LEAGUE) == [2, 4, 6]
    early, late = (models.load(f"{tmp_path / 'run'}@{version}").model.state_dict() for version in (2, 6))
    assert any(not tensor.equal(late[name]) for name, tensor in early.items())
    with pytest.raises(UserError, match="has no checkpoint 2; it has 6"):
        resume(tmp_path / "run", *WORDS, "steps=8", **CONTEST, version=2)


def test_vanished_past_policy_stops_a_run_that_goes_on_or_is_skipped(tmp_path):
    folder = stopped_after(tmp_path / "run", 4)
    shutil.rmtree(folder / "league" / "000002")
    with pytest.raises(UserError, match=r"past:2 of the league cannot be met any more: .*000002.*league\.missing=skip"):
        resume(folder, *WORDS, **CONTEST).train()
    assert resume(folder, *WORDS, "league.missing=skip", **CONTEST).train().version == 6
    assert league_of(folder)["snapshots"] == [4, 6]


def test_damaged_past_policy_is_named(tmp_path):
    folder = stopped_after(tmp_path / "run", 4, "learner.method=lora")
    for past in (folder / "league").glob("0*"):
        weights = past / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"past:2 of the league cannot be met any more: .*safetensors was changed"):
        resume(folder, *WORDS, "learner.method=lora", **CONTEST).train()
    skipping = resume(folder, *WORDS, "learner.method=lora", "league.missing=skip", **CONTEST)
    assert skipping.train().version == 6
    assert league_of(folder)["snapshots"] == [6]


def test_snapshot_that_was_due_and_could_not_be_written_is_made_on_resume(tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "hindered"
    train(whole)
    run = create(folder, *WORDS, **CONTEST)
    (folder / "league").write_text("in the way")
    with pytest.raises(UserError, match="cannot be written"):
        run.train()
    (folder / "league").unlink()
    resume(folder, *WORDS, **CONTEST).train()
    assert league_of(folder) == league_of(whole)
    assert said_in(folder) == said_in(whole)


def test_league_meets_the_scripted_player_in_either_role(tmp_path):
    train(tmp_path / "run", "league.scripted_ratio=0.8")
    trained = [one for one in RunReader(tmp_path / "run").conversations() if one.scenario.split == "train"]
    roles = {role for one in trained for role, player in one.players.items() if player.policy == "scripted"}
    assert roles == {"left", "right"}
    assert league_of(tmp_path / "run")["results"]["scripted"]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_league_run_is_evaluated_against_its_base(tmp_path, capsys, method):
    words = ("preset=tiny", "env=signal", "model=tiny-letters:2", "-r", "payoff=1", "cluster=local", "steps=2")
    words += ("partner=league", "league.save_steps=1", f"learner.method={method}", "conversations=4", "group_size=2")
    assert main(["train", *words, "evaluation.conversations=0", f"out={tmp_path / 'run'}"]) == 0
    for at in ("0,latest", "1,2"):  # 1 is a snapshot, or a checkpoint
        opponents = "against=base,self,scripted"
        assert main(["eval", str(tmp_path / "run"), f"at={at}", opponents, "conversations=2", "--json"]) == 0
    assert '"against": "base"' in capsys.readouterr().out


def test_league_where_nobody_wins_has_no_ratings_also_after_a_restart(tmp_path):
    same = {"env": Even(), "rewards": [WeightedReward(reward=Payoff())]}
    create(tmp_path / "whole", *WORDS, **same).train()
    run = create(tmp_path / "parts", *WORDS, **same)
    run.screen = StopAfter(run, 2)
    run.train()
    resume(tmp_path / "parts", *WORDS, **same).train()
    found = league_of(tmp_path / "whole")
    assert found == league_of(tmp_path / "parts")
    assert not any(found["ratings"].values())
    assert sum(one["ties"] for roles in found["results"].values() for one in roles.values()) > 0
    assert metrics_of(tmp_path / "whole") == metrics_of(tmp_path / "parts")
    assert not any("rating" in name for line in metrics_of(tmp_path / "whole") for name in line)


def test_league_needs_two_free_roles(tmp_path):
    with pytest.raises(UserError, match="partner=league needs a role for the policy and one for its opponent"):
        create(tmp_path / "run", *WORDS, "players.right=scripted", **CONTEST).train()


def test_league_of_a_run_without_one_cannot_be_gone_on_from(tmp_path):
    create(tmp_path / "run", "steps=2", **CONTEST).train()
    with pytest.raises(UserError, match=r"has no league\.json: the run had no league then"):
        resume(tmp_path / "run", *WORDS, **CONTEST).train()


def test_settings_of_a_league_are_stored_with_the_run(tmp_path):
    run = create(tmp_path / "run", *WORDS, **CONTEST)
    assert run.settings.league == tiny_settings(*WORDS).league
    assert "save_steps: 2" in (tmp_path / "run" / "config.yaml").read_text()
