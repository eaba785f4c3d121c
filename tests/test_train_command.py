"""`train` as it is typed."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from selfplay.commands import main
from selfplay.commands.words import program_name
from selfplay.store import RunReader

ROOT = Path(__file__).parents[1]
SMALL = ["preset=tiny", "cluster=local", "conversations=4", "evaluation.conversations=4"]
REWARD = """
from selfplay import reward


@reward(range=(0, 1))
def short(conversation):
    return [1 / max(1, len(turn.text)) for turn in conversation.turns]
"""


def settings_of(capsys, *words):
    assert main(["train", *words, "--dry-run"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_r_replaces_the_rewards_of_the_preset_and_keeps_their_settings(capsys):
    settings = settings_of(capsys, "-r", "question=0.5", "-r", "sentiment=2", "rewards.question.form=way_off_policy")
    assert settings["rewards"] == {
        "question": {"name": "", "weight": 0.5, "form": "way_off_policy"},
        "sentiment": {"name": "", "weight": 2.0},
    }


def test_gate_and_role_are_kept_where_they_are_given(capsys):
    rewards = settings_of(capsys, "-r", "question=gate", "-r", "sentiment=2", "rewards.sentiment.role=guest")["rewards"]
    assert rewards == {
        "question": {"name": "", "weight": 1.0, "gate": True},
        "sentiment": {"name": "", "weight": 2.0, "role": "guest"},
    }


def test_weight_takes_the_place_of_a_gate(tmp_path, capsys):
    file = tmp_path / "gate.yaml"
    file.write_text("rewards: {question: gate}\n")
    rewards = settings_of(capsys, f"config={file}", "-r", "question=0.5")["rewards"]
    assert rewards == {"question": {"name": "", "weight": 0.5}}


def test_words_beside_r_change_or_add_rewards(capsys):
    words = ("rewards.sentiment.of=next", "rewards.copying=2", "rewards.own_length.role=guest")
    rewards = settings_of(capsys, "-r", "mix:vhrl=1", "-r", "question=3", *words)["rewards"]
    # The mix's weights of sentiment and own_length stay, and the one of -r wins over the mix's.
    assert rewards["sentiment"] == {"name": "", "weight": 0.3, "of": "next"}
    assert rewards["own_length"] == {"name": "", "weight": 0.25, "role": "guest"}
    assert (rewards["question"]["weight"], rewards["copying"]["weight"]) == (3.0, 2.0)
    assert settings_of(capsys, "-r", "question=3", "-r", "mix:vhrl=1")["rewards"]["question"]["weight"] == 3.0


def test_gate_of_r_is_refused_where_parts_are_standardised(capsys):
    assert main(["train", "preset=vhrl", "-r", "question=1", "-r", "well_formed=gate", "--dry-run"]) == 2
    assert "rewards.well_formed is a gate" in capsys.readouterr().err


def test_gate_is_refused_where_parts_are_standardised(capsys):
    assert main(["train", "preset=vhrl", "rewards.question=gate", "--dry-run"]) == 2
    assert (
        "rewards.question is a gate, which learner.returns=normalised_parts has no place for" in capsys.readouterr().err
    )


def test_a_word_changes_one_reward_and_keeps_the_others(capsys):
    rewards = settings_of(capsys, "rewards.sentiment=0.5")["rewards"]
    assert {name: spec["weight"] for name, spec in rewards.items()} == {
        "question": 1.0,
        "utterance_repetition": 0.1,
        "conversation_repetition": 0.1,
        "sentiment": 0.5,
    }


def test_what_dry_run_prints_can_be_fed_back(tmp_path, capsys):
    settings = settings_of(capsys, "preset=vhrl", "seed=3")
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(settings))
    assert settings_of(capsys, f"config={file}") == settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-r", "question=abc"], "error: -r question=abc: the weight must be a number, or gate\n"),
        (["-r", "question=1", "-r", "question=2"], "error: -r question is given twice; give it one weight"),
        (["-r", "question"], "error: -r question: expected a reward and its weight, as in -r question=0.5\n"),
        (["resume="], "error: resume= needs a run: a path, or a name under runs/\n"),
        (["players.host=scripted", "players.guest=scripted"], "error: players: every role of env chitchat is taken"),
        (["players.host=human"], "error: players.host=human: a person plays with `play`"),
        (["resume=x", "learner.gamma=0.5"], "error: learner.gamma: a run that goes on keeps what it computes"),
        (["resume=x", "-r", "question=1"], "error: -r question: a run that goes on keeps what it computes"),
    ],
)
def test_a_mistake_is_one_sentence_and_makes_no_run(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *words]) == 2
    assert capsys.readouterr().err.startswith(message)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["env=signal", "model=tiny-letters:2"], "against opponents:  {program} eval g against=base,scripted"),
        (["env=twenty_questions", "model=tiny"], "beside the scripts: {program} eval g"),
        (["env=chitchat"], None),
    ],
)
def test_end_of_training_at_a_game_says_how_to_compare(words, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ("steps=1", "conversations=2", "group_size=2", "evaluation.conversations=0", "sampling.max_new_tokens=2")
    assert main(["train", *SMALL, *short, *words, "out=runs/g"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if " eval " in line]
    assert told == ([] if hint is None else [hint.format(program=program_name())])


@pytest.mark.parametrize(
    ("words", "hints"),
    [
        (["preset=signal", "env.name=kuhn", "partner=league"], ["tournament g@all against=base,scripted"]),
        (["preset=signal", "env.name=kuhn", "partner=frozen"], []),
        # Nothing is paid there: a tournament would have to be told who judges.
        (["preset=tiny", "env.max_turns=2", "partner=league"], []),
    ],
)
def test_end_of_training_in_a_league_names_its_tournament(words, hints, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ("cluster=local", "steps=1", "conversations=4", "evaluation.conversations=0", "out=runs/g")
    assert main(["train", *words, *short]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " tournament " in line]
    assert [line.partition(program_name())[2].strip() for line in lines] == hints


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["env=signal"], "play model=g players.receiver=human"),
        # The policy learnt the other role.
        (["env=signal", "players.sender=scripted"], "play model=g players.sender=human"),
        (["env=twenty_questions"], "play model=g"),
        (["runs=my runs", "out=my runs/g"], "play model='my runs/g' players.guest=human"),
    ],
)
def test_end_of_training_names_a_command_that_plays_the_same_game(words, hint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ("steps=1", "conversations=2", "group_size=2", "evaluation.conversations=0", "sampling.max_new_tokens=2")
    assert main(["train", *SMALL, *short, "out=runs/g", *words]) == 0
    [told] = [
        line.partition(program_name())[2] for line in capsys.readouterr().out.splitlines() if " play model=" in line
    ]
    assert told.strip() == hint
    assert main([*shlex.split(told), "--dry-run"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["env"]["name"] == (words[0].removeprefix("env=") if "env=" in words[0] else "chitchat")
    assert settings["sampling"]["max_new_tokens"] == 2


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["env.name=kuhn", "partner=frozen"], ["won"]),
        (["env.name=kuhn"], ["success"]),  # with itself: nobody else could have won
        (["env.name=signal", "partner=frozen"], ["success"]),  # both are paid the same
    ],
)
def test_table_at_the_end_of_training_says_what_fits_the_game(words, shown, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short = ("steps=1", "conversations=16", "evaluation.conversations=16", "out=runs/g")
    assert main(["train", "preset=signal", "cluster=local", *words, *short]) == 0
    out = capsys.readouterr().out
    rows = [line.split()[0] for line in out[out.index("held out") :].splitlines() if line.strip()]
    assert [row for row in rows if row in ("won", "success")] == shown
    (line,) = [line for line in out.splitlines() if line.startswith("step 1/1  reward")]
    assert [name for name in ("won", "success") if f"{name} " in line] == shown


def test_train_play_eval_and_go_on_with_a_reward_from_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(REWARD)
    assert main(["train", *SMALL, "steps=2", "out=runs/first", "-r", "mine.py:short=1"]) == 0
    said = capsys.readouterr().out
    assert "held out" in said
    assert "play model=first players.guest=human" in said
    assert RunReader("runs/first").manifest["sources"]["reward mine.py:short"].startswith("sha256:")
    assert main(["play", "model=first@2", "conversations=1", "out=talk", "sampling.max_new_tokens=4"]) == 0
    assert main(["eval", "first", "conversations=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_scenarios"] <= 3
    assert main(["train", "resume=first", "steps=3"]) == 0
    assert [line["step"] for line in RunReader("runs/first").metrics()] == [0, 1, 2]


FUNCTIONS = """
import asyncio
from selfplay import reward

def short(turn):
    return 1 / (1 + len(turn.text))

@reward(scope="group", range=(-1, 1))
def rank(group):
    longest = max(len(turn.text) for one in group for turn in one.turns)
    return [{"host": len(one.turns[0].text) / max(1, longest)} for one in group]

@reward(range=(0, 1))
async def later(turn, log):
    await asyncio.sleep(0)
    log("letters", len(turn.text))
    return 0.5

def ids(prompts, completion_ids, **kwargs):
    return [float(len(one)) for one in completion_ids]
"""


@pytest.mark.slow
@pytest.mark.ray
def test_functions_of_every_kind_score_alike_on_ray_and_in_one_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mix.py").write_text(FUNCTIONS)
    rewards = {"short": "1", "rank": "0.5", "later": "0.2", "ids": "0.01"}
    words = [part for name, weight in rewards.items() for part in ("-r", f"mix.py:{name}={weight}")]
    metrics = {}
    for cluster in ("local", "ray"):
        run = [f"cluster={cluster}", "steps=2", "evaluation.conversations=0", f"out={cluster}"]
        command = [sys.executable, str(ROOT / "run.py"), "train", *SMALL, *run, *words, "-r", "function_words=gate"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        lines = RunReader(cluster).metrics()
        metrics[cluster] = [{name: line[name] for name in line if name.startswith("reward/")} for line in lines]
    assert metrics["ray"] == metrics["local"]
    assert metrics["ray"][0]["reward/mix.py:later"] == 0.5
    assert "reward/mix.py:later.letters" in metrics["ray"][0]


def test_json_is_all_that_stdout_gets(tmp_path, capsys):
    assert main(["train", *SMALL, "steps=1", f"out={tmp_path / 'run'}", "--json"]) == 0
    [line] = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert (result["version"], result["stopped"]) == (1, False)
    assert set(result["comparison"]["metrics"]) >= {"reward/per_conversation", "kl/per_token_nats"}


def on_a_terminal(command, *, until, timeout_seconds=120.0):
    """Run a command on a pseudo-terminal, press Ctrl-C once its output matches; return (output, status)."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    seen, is_pressed, deadline = b"", False, time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # the terminal's other end has gone
            break
        if not is_pressed and re.search(until, seen):
            is_pressed = True
            os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    return seen.decode(errors="replace"), os.waitstatus_to_exitcode(status)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("cluster", ["local", "ray"])
def test_ctrl_c_ends_with_a_checkpoint_and_resume_goes_on(tmp_path, cluster):
    run = tmp_path / "run"
    words = [*SMALL, f"cluster={cluster}", "steps=4000", "evaluation.conversations=0", f"out={run}"]
    said, status = on_a_terminal([sys.executable, str(ROOT / "run.py"), "train", *words], until=rb"step \D*[3-9]\b")
    assert status == 130, said[-2000:]
    assert "Traceback" not in said
    reader = RunReader(run)
    done = [line["step"] for line in reader.metrics()]
    assert reader.manifest["status"] == "interrupted"
    newest = json.loads((run / "checkpoints/latest.json").read_text())["version"]
    assert newest == len(done)
    again = [sys.executable, str(ROOT / "run.py"), "train", f"resume={run}", f"steps={newest + 1}", "cluster=local"]
    subprocess.run(again, check=True, stdout=subprocess.DEVNULL)
    assert [line["step"] for line in RunReader(run).metrics()] == list(range(newest + 1))


@pytest.mark.slow
def test_sigterm_ends_as_ctrl_c_does(tmp_path):
    run = tmp_path / "run"
    words = [*SMALL, "steps=4000", "evaluation.conversations=0", f"out={run}"]
    process = subprocess.Popen([sys.executable, str(ROOT / "run.py"), "train", *words], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130
    assert (run / "checkpoints/latest.json").is_file()
