"""`tournament` as it is typed: who takes part, what is played, what is stored."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from selfplay.commands import main
from selfplay.evaluate_play import BASE
from selfplay.interfaces import Sampling
from selfplay.learn.adapters import FACTORS, read_adapter
from selfplay.play import make_group
from selfplay.players import PlayerSettings
from selfplay.run_reader import RunReader
from selfplay.tournament import Entry, tournament_of
from selfplay.tournament_json import tournament_from_json
from selfplay.tournament_play import (
    Entrant,
    entrants_of,
    make_entrants,
    pays,
    play_matches,
    tournament_matches,
    without_doubles,
)
from selfplay.transcript_index import TranscriptIndex
from tests.duel import ROLES, Duel

GAME = (
    *("preset=tiny", "env=signal", "model=tiny-letters:2", "-r", "payoff=1", "cluster=local", "steps=2"),
    *("conversations=16", "group_size=8", "sampling.max_new_tokens=1", "evaluation.conversations=0"),
    *("checkpoints.save_every=1", "learner.learning_rate=0.05"),
)
SIGNAL = ("sender", "receiver")
Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, capsys) -> Train:
    """Train a small run at the signalling game in `runs` and return its folder."""

    def train(name: str, *words: str) -> Path:
        assert main(["train", *GAME, *words, f"out={tmp_path}/runs/{name}"]) == 0
        capsys.readouterr()
        return tmp_path / "runs" / name

    return train


def printed(capsys, *words: str) -> dict:
    assert main(["tournament", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def names_of(found: dict) -> set[str]:
    return {one["name"] for one in found["standings"]}


# ----- matches and players -----


def test_matches_have_the_scenarios_and_draws_of_eval_in_each_role():
    env = Duel()
    matches = tournament_matches(env, ["b", "a"], seed=3, num_scenarios=2)
    assert [(match.id, *(match.players[role] for role in ROLES)) for match in matches] == [
        *(("000000-t00-0", "a", "a"), ("000000-t01-0", "a", "a")),
        *(("000000-t00-1", "a", "b"), ("000000-t01-1", "a", "b")),
        *(("000000-t00-2", "b", "a"), ("000000-t01-2", "b", "a")),
        *(("000000-t00-3", "b", "b"), ("000000-t01-3", "b", "b")),
    ]
    first, second = make_group(env, {}, seed=3, split="held_out", place=(0, 1), size=2)
    assert [match.scenario for match in matches[1::2]] == [first.scenario] * 4
    assert [match.seed for match in matches[1::2]] == [first.seed, first.seed, second.seed, first.seed]


def test_whether_a_game_pays_is_seen_in_a_scripted_conversation():
    from envs.chitchat import ChitChat

    assert pays(Duel(), seed=0)
    assert not pays(ChitChat(max_turns=2), seed=0)


def test_the_same_model_under_two_names_is_one_model_and_even(tmp_path):
    env = Duel()
    given = {"x": "tiny:1", "y": "tiny:1", "z": "tiny:2"}
    entrants = [Entrant(entry=Entry(name=name, model=model), model_name=model) for name, model in given.items()]
    entrants += entrants_of("scripted", runs=tmp_path)
    settings = PlayerSettings(device="cpu", sampling=Sampling(max_new_tokens=3))
    table = make_entrants(entrants, env=env, settings=settings, say=print)
    alone = make_entrants(entrants[:1], env=env, settings=settings, say=print)
    assert table.engine.weight_bytes == 2 * alone.engine.weight_bytes
    matches = tournament_matches(env, [one.entry.name for one in entrants], seed=0, num_scenarios=3)
    talks = list(play_matches(matches, env=env, players=table, settings=settings, concurrency=64, say=print))
    found = tournament_of(talks, [one.entry for one in entrants], env="duel", roles=ROLES, seed=0)
    # Who wins a duel depends on the scenario alone, so everybody is as good as everybody else.
    assert {cell.payoff.value for cell in found.cells} == {0.0}
    said = {
        tuple(talk.players[role].policy for role in ROLES): [turn.text for turn in talk.turns]
        for talk in talks
        if talk.id.startswith("000000-t00-")
    }
    assert said["x", "x"] == said["x", "y"] == said["y", "y"] != said["z", "z"]


# ----- the command -----


def test_scripts_and_chance_need_no_model_and_give_the_same_table_again(tmp_path, capsys):
    out = tmp_path / "out"
    words = ["scripted", "chance", "env=haggle", "conversations=3", "seed=4"]
    first, again = printed(capsys, *words, f"out={out}"), printed(capsys, *words)
    swapped = printed(capsys, *words[2:], "against=chance,scripted")
    stored = json.loads((out / "tournament.json").read_text())
    assert {**first, "run": None} == again == swapped == {"run": None, **stored}
    # Counted again from what is stored.
    talks = list(RunReader(out).conversations())
    assert len(talks) == 3 * 4
    assert {talk.scenario.split for talk in talks} == {"held_out"}
    paid = [
        talk.outcome.payoff[role]
        for talk in talks
        for role in ("buyer", "seller")
        if talk.players[role].policy == "scripted" and len({player.policy for player in talk.players.values()}) == 2
    ]
    cell = tournament_from_json(stored).cell("scripted", "chance")
    assert cell.payoff.value == pytest.approx(sum(paid) / 6)
    assert (cell.num_conversations, cell.num_scenarios) == (6, 3)
    assert printed(capsys, *words[:-1], "seed=5")["cells"] != again["cells"]


def test_runs_models_and_scripts_meet_and_each_cell_finds_its_conversations(train: Train, capsys, tmp_path):
    run, out = train("g"), tmp_path / "runs" / "final"
    words = ["g@1,2", "tiny-letters:5", "against=base,chance", "conversations=2", f"runs={run.parent}", f"out={out}"]
    found = printed(capsys, *words)
    assert names_of(found) == {"g@1", "g@2", "tiny-letters:5", BASE, "chance"}
    versions = {one["name"]: (one["version"], one["model"]) for one in found["standings"]}
    assert versions["g@2"] == (2, f"{run}@2")
    assert versions[BASE] == (0, "tiny-letters:2")
    tournament = tournament_from_json({key: value for key, value in found.items() if key != "run"})
    index = TranscriptIndex(out)
    index.refresh()
    talks = {talk.id: talk for talk in RunReader(out).conversations()}
    assert len(talks) == 2 * (5 + 2 * 10)
    for cell in tournament.cells:
        ids = index.ids(cell.filter)
        assert len(ids) == cell.num_conversations == (2 if cell.row == cell.column else 4)
        for role, text in cell.role_filters.items():
            other = SIGNAL[1 - SIGNAL.index(role)]
            casts = {(talks[id].players[role].policy, talks[id].players[other].policy) for id in index.ids(text)}
            assert casts == {(cell.row, cell.column)}
        values = [talks[id].outcome.payoff["sender"] for id in ids]  # both are always paid the same
        assert cell.payoff.value == pytest.approx(sum(values) / len(values))
    index.close()
    players = [player for talk in talks.values() for player in talk.players.values()]
    assert {player.sampling["temperature"] for player in players if player.model} == {1.0}
    assert {"g@1@1", "g@2@2", "base@0", "chance"} <= {player.label for player in players}


def test_what_a_tournament_stores_is_a_run_like_others(train: Train, capsys, tmp_path):
    out = tmp_path / "runs" / "final"
    assert main(["tournament", "scripted", "chance", "env=signal", "conversations=2", f"out={out}"]) == 0
    shown = capsys.readouterr().out
    for text in ("no ratings", "payoff as sender", "tournament.json", "player.sender="):
        assert text in shown, text
    manifest = RunReader(out).manifest
    assert (manifest["kind"], manifest["status"], manifest["env"]) == ("tournament", "finished", "signal")
    assert [entry["name"] for entry in manifest["entries"]] == ["scripted", "chance"]
    assert main(["ls", str(out), "player.sender=chance & player.receiver=scripted"]) == 0
    assert capsys.readouterr().out.count("000000-t") == 2
    assert main(["show", str(out), "0"]) == 0
    assert main(["ls", f"runs={out.parent}"]) == 0
    assert "final" in capsys.readouterr().out
    assert main(["tournament", "scripted", "chance", "env=signal", f"out={out}"]) == 2
    assert "already holds a run" in capsys.readouterr().err


def test_ratings_are_shown_where_somebody_wins(capsys):
    assert main(["tournament", "scripted", "chance", "env=haggle", "conversations=2"]) == 0
    shown = capsys.readouterr().out
    for text in ("rating", "as seller", "won", "form kept", "payoff as buyer"):
        assert text in shown, text
    assert "stored" not in shown


@pytest.mark.parametrize(("env", "sign"), [("kuhn", "with the other sign"), ("signal", "as they are")])
def test_a_matrix_that_only_repeats_another_is_not_shown(env, sign, capsys):
    words = ("scripted", "chance", f"env={env}", "conversations=12")
    assert main(["tournament", *words]) == 0
    shown = capsys.readouterr().out
    assert (shown.count("payoff as"), sign in shown) == (3, True)  # one matrix, and the line that tells of the other
    found = printed(capsys, *words)
    first, second = found["roles"]
    cells = {(cell["row"], cell["column"]): cell["numbers"] for cell in found["cells"]}
    for row, column in cells:
        own, other = cells[row, column][f"game/payoff/{first}"], cells[column, row][f"game/payoff/{second}"]
        assert own["value"] == pytest.approx(-other["value"] if env == "kuhn" else other["value"])


def test_adapters_of_one_model_share_it_and_whole_ones_do_not(train: Train, tmp_path):
    adapters, whole = train("a", "learner.method=lora"), train("w", "learner.method=full")
    settings = PlayerSettings(device="cpu", runs=tmp_path / "runs")
    env = Duel()

    def weight_bytes(*words: str) -> int:
        entrants = [one for word in words for one in entrants_of(word, runs=settings.runs)]
        return make_entrants(entrants, env=env, settings=settings, say=print).engine.weight_bytes

    model = weight_bytes("tiny-letters:2")
    one, both = weight_bytes("a@1"), weight_bytes("a@all", "tiny-letters:2")
    assert model < one < both
    assert both - model == 2 * (one - model)
    assert weight_bytes(f"{whole}@1,2") == 2 * model
    assert adapters.name == "a"


def test_an_adapter_plays_as_it_does_merged(train: Train, capsys, tmp_path):
    run = train("a", "learner.method=lora")
    assert main(["merge", str(run), f"out={tmp_path}/merged"]) == 0
    capsys.readouterr()
    out = tmp_path / "out"
    words = [str(run), f"{tmp_path}/merged", "against=scripted", "conversations=6", f"out={out}"]
    assert names_of(printed(capsys, *words)) == {"a@2", f"{tmp_path}/merged", "scripted"}
    said = {
        name: [
            [turn.text for turn in talk.turns]
            for talk in RunReader(out).conversations()
            if {player.policy for player in talk.players.values()} == {name}
        ]
        for name in ("a@2", f"{tmp_path}/merged")
    }
    assert said["a@2"] == said[f"{tmp_path}/merged"]
    assert len(said["a@2"]) == 6
    adapter = read_adapter(run / "checkpoints" / "000002")
    assert max(float(factor.abs().max()) for name, factor in adapter.state.items() if name.endswith(FACTORS[1])) > 0.01


def test_a_run_says_on_which_terms_it_is_played_and_words_win(train: Train, capsys, tmp_path):
    run = train("g", "env.symbols=2", "sampling.temperature=0.5")
    out = tmp_path / "out"
    printed(capsys, str(run), "against=scripted", "conversations=1", f"out={out}", "sampling.max_new_tokens=2")
    [*talks] = RunReader(out).conversations()
    sampled = [player.sampling for talk in talks for player in talk.players.values() if player.model]
    assert {(one["temperature"], one["max_new_tokens"]) for one in sampled} == {(0.5, 2)}
    assert "symbols: 2" in (out / "config.yaml").read_text()


def test_runs_that_learnt_with_other_settings_are_told_apart_and_play_on(train: Train, capsys):
    small, large = train("small", "env.symbols=2"), train("large", "env.symbols=4")
    words = ["tournament", str(small), str(large), "conversations=1", "--json"]
    assert main(words) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if " learnt with " in line]
    assert told == ["run large learnt with env.symbols=4; here all play with env.symbols=2"]
    assert main([*words, "env.symbols=4"]) == 0
    assert "run small learnt with env.symbols=2; here all play with env.symbols=4" in capsys.readouterr().err


def test_version_0_of_a_run_is_the_model_that_it_started_from(train: Train, capsys, tmp_path):
    run, out = train("g"), tmp_path / "out"
    found = printed(capsys, f"{run}@0,2", f"{run}@0", "tiny-letters:2", "conversations=2", f"out={out}")
    models = {one["name"]: (one["model"], one["version"]) for one in found["standings"]}
    assert models == {"g@0": ("tiny-letters:2", 0), "g@2": (f"{run}@2", 2), "tiny-letters:2": ("tiny-letters:2", 0)}
    said = {
        name: [
            [turn.text for turn in talk.turns]
            for talk in RunReader(out).conversations()
            if {player.policy for player in talk.players.values()} == {name}
        ]
        for name in models
    }
    assert said["g@0"] == said["tiny-letters:2"] != said["g@2"]


def test_several_steps_after_against_stay_one_entry(train: Train, capsys):
    run = train("g")
    found = printed(capsys, "scripted", f"against={run}@1, 2,chance", "conversations=1")
    assert names_of(found) == {"scripted", "g@1", "g@2", "chance"}


def test_runs_of_one_name_in_two_folders_are_told_apart(tmp_path):
    entrants = [Entrant(entry=Entry(name="g@1", model=f"{place}/g@1", version=1)) for place in ("x", "y", "x")]
    assert [one.entry.name for one in without_doubles(entrants)] == ["g@1", "y/g@1"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scripted", "env=haggle"], "needs two entries, and only scripted takes part: add against=base,scripted"),
        (["env=haggle"], "needs two entries, and nobody takes part"),
        (["scripted", "scripted", "env=haggle"], "needs two entries, and only scripted takes part"),
        (["scripted", "chance"], "a tournament without a RUN needs a game"),
        (["scripted", "tiny", "env=chitchat"], "env chitchat pays nothing"),
        (["scripted", "chance", "env=chitchat"], "env chitchat has no player by chance"),
        (["scripted", "chance", "env=twenty_questions"], "has one role, so nobody is met there"),
        (["scripted", "against=base", "env=haggle"], "no RUN is named; name the model itself"),
        (["scripted", "human", "env=haggle"], "human is no entry of a tournament: a person plays with `play`"),
        (["nobody", "scripted"], "nobody: there is no such model"),
        (["nobody@1,2", "scripted"], "there is no run 'nobody'"),
        (["nobody@0", "scripted"], "there is no run 'nobody'"),
        (["scripted", "against=7,8", "env=haggle"], "7: there is no such model"),
        (["scripted", "chance", "env=haggle", "conversation=3"], "did you mean conversations?"),
    ],
)
def test_what_cannot_be_held_is_refused_in_a_sentence(words, says, capsys):
    assert main(["tournament", *words]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_a_run_of_another_game_and_a_step_that_is_not_there_are_refused(train: Train, capsys):
    run = train("g")
    assert main(["tournament", str(run), "scripted", "env=haggle"]) == 2
    assert "learnt env signal, and this tournament is of env haggle" in capsys.readouterr().err
    assert main(["tournament", f"{run}@1,7", "scripted"]) == 2
    assert "has no checkpoint 7; it has 1, 2" in capsys.readouterr().err
