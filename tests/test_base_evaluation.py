"""A run that goes on takes the evaluation of its base as it was, and ends as if it had never stopped."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from test_league_run import CONTEST
from test_league_run import WORDS as LEAGUE
from tiny_runs import ENV, create, resume, rewards, tiny_settings

from selfplay import base_evaluation
from selfplay.base_evaluation import BASE_EVALUATION, fingerprint
from selfplay.commands import main
from selfplay.dialog import Scores
from selfplay.evaluate import comparison_to_json
from selfplay.function_reward import reward
from selfplay.play_plan import dealer_of
from selfplay.score import WeightedReward
from selfplay.store import RunReader
from selfplay.training_run import Result, described
from selfplay.training_screen import Silence

WORDS = ("evaluation.conversations=6", "steps=4")
# What differs between two runs that did the same: clocks, names, and where a run was interrupted.
CLOCKED = re.compile(rb'"(at|run|git|started_at)": ("[^"]*"|null)|"[a-z_/]*seconds?[a-z_/]*": [-+.0-9e]+')
OF_THE_START = re.compile(r"evaluating version 0 ")


class Thirds:
    """A reward of turns and parts that four decimals do not hold; one part is as precise as Python's numbers."""

    name = "thirds"

    def score(self, conversations):
        return [
            Scores(
                values=np.array([len(turn.text) / 3 for turn in c.turns], dtype=np.float32),
                parts={"fine": np.array([math.sqrt(1 + len(turn.text)) for turn in c.turns])},
            )
            for c in conversations
        ]


THIRDS = {"rewards": [WeightedReward(reward=Thirds())]}


class Listening(Silence):
    """Hears what a run does, and asks it to stop at a word, or when a step begins."""

    def __init__(self, run, *, at=None):
        self.run, self.at, self.heard = run, at, []

    def start_step(self, step, version):
        self._hear(f"step {step}")

    def doing(self, what, *, conversations=0):
        self._hear(what)

    def _hear(self, what):
        self.heard.append(what)
        if what == self.at:
            self.run.stop()

    @property
    def has_played_the_base(self):
        return any(map(OF_THE_START.match, self.heard))


def go(run, *, at=None) -> tuple[Result, Listening]:
    run.screen = screen = Listening(run, at=at)
    return run.train(), screen


def table_of(result):
    return comparison_to_json(result.comparison)


def files_in(folder):
    """Return path -> bytes of what a run stored, but for how it was started, and its checkpoints."""
    apart = {"run.json", "config.yaml", ".lock", "checkpoints", "league"}
    kept = (path for path in sorted(folder.rglob("*")) if path.is_file() and apart.isdisjoint(path.parts))
    return {str(path.relative_to(folder)): CLOCKED.sub(b"", path.read_bytes()) for path in kept}


@pytest.mark.parametrize(
    ("words", "things"),
    [(WORDS, THIRDS), ((*WORDS, "learner.method=lora", "partner=frozen"), THIRDS), ((*LEAGUE, *WORDS), CONTEST)],
    ids=["full", "lora against the start", "league"],
)
def test_resumed_run_plays_its_base_once_and_stores_what_an_uninterrupted_one_stores(tmp_path, words, things):
    whole, _ = go(create(tmp_path / "whole", *words, **things))
    assert go(create(tmp_path / "parts", *words, **things), at="step 3")[1].has_played_the_base
    result, screen = go(resume(tmp_path / "parts", *words, **things))
    assert not screen.has_played_the_base
    assert table_of(result) == table_of(whole)
    stored = files_in(tmp_path / "parts")
    assert {"evaluation.json", BASE_EVALUATION, "conversations/evaluation-000.jsonl"} <= set(stored)
    assert stored == files_in(tmp_path / "whole")


def test_run_stopped_in_the_evaluation_of_its_base_plays_and_stores_it_when_it_goes_on(tmp_path):
    go(create(tmp_path / "whole", *WORDS, **THIRDS))
    begun = "evaluating version 0 on held-out scenarios"
    assert go(create(tmp_path / "parts", *WORDS, **THIRDS), at=begun)[0].version == 0
    assert RunReader(tmp_path / "parts").ids() == []
    assert go(resume(tmp_path / "parts", *WORDS, **THIRDS))[1].has_played_the_base
    assert files_in(tmp_path / "parts") == files_in(tmp_path / "whole")


def without_numbers(folder):
    (folder / BASE_EVALUATION).unlink()


def with_half_of_the_numbers(folder):
    text = (folder / BASE_EVALUATION).read_text()
    (folder / BASE_EVALUATION).write_text(text[: len(text) // 2])


def without_a_conversation(folder):
    file = folder / "conversations/evaluation-000.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def without_tokens(folder):
    (folder / "tokens/000.jsonl").unlink()


@pytest.mark.parametrize("spoil", [without_numbers, with_half_of_the_numbers, without_a_conversation, without_tokens])
def test_half_stored_base_is_played_again_and_the_table_is_the_same(tmp_path, spoil):
    whole, _ = go(create(tmp_path / "whole", *WORDS, **THIRDS))
    go(create(tmp_path / "parts", *WORDS, **THIRDS), at="step 3")
    spoil(tmp_path / "parts")
    before = (tmp_path / "parts/conversations/evaluation-000.jsonl").read_text()
    result, screen = go(resume(tmp_path / "parts", *WORDS, **THIRDS))
    assert screen.has_played_the_base
    assert table_of(result) == table_of(whole)
    # What there was of it stays, and none of it is there twice.
    assert (tmp_path / "parts/conversations/evaluation-000.jsonl").read_text().startswith(before)
    ids = [record["id"] for record in RunReader(tmp_path / "parts").records() if "000000-e" in record["id"]]
    assert len(ids) == len(before.splitlines())


def test_longer_run_takes_its_base_and_one_with_more_scenarios_plays_it(tmp_path):
    go(create(tmp_path / "run", *WORDS, **THIRDS))
    longer, screen = go(resume(tmp_path / "run", "evaluation.conversations=6", "steps=5", **THIRDS))
    assert not screen.has_played_the_base
    assert longer.comparison.num_scenarios == 6
    more, screen = go(resume(tmp_path / "run", "evaluation.conversations=8", "steps=6", **THIRDS))
    assert screen.has_played_the_base
    assert more.comparison.num_scenarios == 8


def test_resumed_command_takes_the_base_it_has_evaluated(tmp_path, capsys):
    small = ("preset=tiny", "cluster=local", "conversations=4", "group_size=2", "evaluation.conversations=4")
    assert main(["train", *small, "steps=2", f"out={tmp_path / 'run'}"]) == 0
    capsys.readouterr()
    assert main(["train", f"resume={tmp_path / 'run'}", "steps=3"]) == 0
    said = "".join(capsys.readouterr())
    assert "the base was evaluated before" in " ".join(said.split())


def of(*words, facts=None, env=ENV, reward=None):
    settings = tiny_settings(*WORDS, *words)
    matches = dealer_of(settings, env).evaluation(0, conversations=settings.evaluation.conversations)
    given = reward or rewards()
    settings = described(settings, env=env, rewards=given)
    return fingerprint(settings, matches, env=env, rewards=given, facts=facts or {"device": "cpu"})


def test_fingerprint_stays_where_nothing_of_the_base_changes():
    assert of() == of("steps=9", "checkpoints.keep=7", "alarms.window=5", "max_failed_share=1")
    assert of().startswith("sha256:")


@pytest.mark.parametrize(
    "changed",
    [
        lambda: of("seed=1"),
        lambda: of("sampling.temperature=0.7"),
        lambda: of("evaluation.conversations=7"),
        lambda: of("partner=frozen"),
        lambda: of(facts={"device": "cuda"}),
        lambda: of(env=replace(ENV, opener="Hello.")),
        lambda: of(reward=[replace(rewards()[0], weight=0.5)]),
        lambda: of(reward=[replace(rewards()[0], source="sha256:1")]),
        lambda: of(reward=[WeightedReward(reward=Thirds())]),
    ],
    ids=["seed", "temperature", "scenarios", "partner", "device", "env", "weight", "source", "reward"],
)
def test_fingerprint_changes_with_what_the_base_says_or_gets(changed):
    assert changed() not in ("", of())


def test_fingerprint_changes_with_the_file_that_a_reward_is_written_in(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_reward_of_base.py"
    file.write_text("from selfplay import reward\n\n\n@reward\ndef own(turn):\n    return 1.0\n")
    import own_reward_of_base

    own = [WeightedReward(reward=own_reward_of_base.own)]
    before = of(reward=own)
    file.write_text(file.read_text().replace("1.0", "2.0"))
    assert before not in ("", of(reward=own))


def test_base_is_played_again_where_nobody_can_tell_whether_it_would_be_the_same(tmp_path):
    assert of("players.guest=smollm2-135m") == ""
    assert of("players.guest=scripted") != ""
    written: dict = {}
    exec(compile("def typed(turn):\n    return 1.0\n", "<stdin>", "exec"), written)
    assert of(reward=[WeightedReward(reward=reward(written["typed"]))]) == ""
    base_evaluation.write(tmp_path, [], of="")
    assert list(tmp_path.iterdir()) == []
    assert base_evaluation.read(tmp_path, of="") is None
