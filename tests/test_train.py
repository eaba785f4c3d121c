"""The main loop: its order, what stops it, and that a run that goes on gives what an uninterrupted one gives."""

import json
from collections import deque

import numpy as np
import pytest
import torch
import yaml
from tiny_runs import ENV, create, metrics_of, numbers_in, resume, rewards, said_in, tiny_settings, train

from rewards.asking import QuestionMarks
from selfplay import stored_tokenizer
from selfplay.commands.building import build_env, build_rewards
from selfplay.config import resolve
from selfplay.dealing import Dealer
from selfplay.dialog import Conversation, Outcome, PlayerInfo, ScoredConversation, Scores
from selfplay.errors import UserError
from selfplay.function_reward import reward
from selfplay.interfaces import Update
from selfplay.run_evaluation import evaluated_version
from selfplay.score import WeightedReward
from selfplay.store import RunReader
from selfplay.train import train as run_loop
from selfplay.train_settings import RewardSpec, TrainSettings


class Ledger:
    """A cluster and a record that write down what they are asked, in order."""

    def __init__(self, *, lag=0):
        self.said, self.version, self.lag = deque(), 0, lag
        self.stale = []

    def play(self, matches):
        self.said.append(f"play {matches[0].id[:6]} by {self.version}")
        player = PlayerInfo(policy="learner", version=max(0, self.version - self.lag), model="m", trained=True)
        done = Outcome(status="terminated", reason="turn_limit")
        return iter(
            [
                Conversation(id=m.id, scenario=m.scenario, players={"host": player}, outcome=done)
                for m in reversed(matches)
            ]
        )

    def score(self, conversations):
        assert [c.id for c in conversations] == sorted(c.id for c in conversations)
        return [ScoredConversation(conversation=c, rewards=np.zeros(0)) for c in conversations]

    def learn(self, scored):
        self.said.append(f"learn {len(scored)}")
        return Update(version=self.version + 1, metrics={})

    def publish(self, update):
        self.version = update.version

    def save(self, version, _fill):
        self.said.append(f"save {version}")

    def start(self, step):
        pass

    def watch(self, conversations):
        return conversations

    def keep(self, scored):
        pass

    def finish(self, step, scored, update, *, num_stale):
        self.stale.append(num_stale)


def loop(ledger, *words):
    settings = tiny_settings(*words)
    dealer = Dealer(env=ENV, seed=0, conversations=settings.conversations, group_size=settings.group_size)
    run_loop(settings, dealer=dealer, cluster=ledger, record=ledger)
    return list(ledger.said)


def test_on_policy_a_step_is_played_by_the_version_it_updates():
    assert loop(Ledger(), "steps=3") == [
        "play 000000 by 0",
        "learn 4",
        "play 000001 by 1",
        "learn 4",
        "save 2",
        "play 000002 by 2",
        "learn 4",
        "save 3",
    ]


def test_with_staleness_steps_are_dealt_ahead_and_never_past_the_end():
    said = [word for word in loop(Ledger(), "steps=4", "max_staleness=2") if word.startswith("play")]
    assert said == ["play 000000 by 0", "play 000001 by 0", "play 000002 by 0", "play 000003 by 1"]


def test_conversations_past_the_bound_are_dropped_and_counted():
    ledger = Ledger(lag=2)
    said = [word for word in loop(ledger, "steps=4", "max_staleness=1") if word.startswith("learn")]
    # Steps 0 and 1 are played by version 0; the ledger plays steps 2 and 3 with max(0, version - 2) = 0.
    assert said == ["learn 4", "learn 4", "learn 0", "learn 0"]
    assert ledger.stale == [0, 0, 4, 4]


class Broken:
    """A reward that cannot score the second conversation of a group, unless scripts play it."""

    name = "broken"

    def score(self, conversations):
        if any(c.id.endswith("-1") and c.players["host"].policy != "scripted" for c in conversations):
            raise RuntimeError("no idea")
        return [Scores(values=np.ones(c.num_turns, dtype=np.float32)) for c in conversations]


def test_too_many_failures_stop_the_run_and_everything_said_is_stored(tmp_path):
    with pytest.raises(UserError, match=r"of 4 conversations failed, more than max_failed_share=0\.05.*no idea"):
        train(tmp_path / "run", "steps=2", "max_failed_share=0.05", rewards=[WeightedReward(reward=Broken())])
    reader = RunReader(tmp_path / "run")
    stored = list(reader.conversations())
    assert reader.manifest["status"] == "failed"
    assert [c.id for c in stored if c.outcome.reason == "reward_error"] == ["000000-g00-1", "000000-g01-1"]


def test_reward_that_fails_on_scripted_conversations_starts_nothing(tmp_path):
    @reward
    def broken(turn):
        raise RuntimeError("no idea")

    with pytest.raises(UserError, match=r"so nothing was started.*no idea"):
        train(tmp_path / "run", "steps=2", rewards=[WeightedReward(reward=broken)])
    assert not (tmp_path / "run").exists()


def test_role_and_gate_of_rewards_made_in_python_are_recorded_and_built_again(tmp_path):
    given = [
        WeightedReward(reward=QuestionMarks(), role="guest"),
        WeightedReward(reward=QuestionMarks(), is_gate=True, label="calm"),
    ]
    create(tmp_path / "run", rewards=given)
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())["rewards"]
    built = build_rewards({name: RewardSpec.model_validate(spec) for name, spec in config.items()})
    assert [(one.name, one.role, one.is_gate) for one in built] == [
        ("question_marks", "guest", False),
        ("calm", "", True),
    ]


def test_gate_of_rewards_made_in_python_is_refused_where_parts_are_standardised(tmp_path):
    gate = WeightedReward(reward=QuestionMarks(), is_gate=True)
    with pytest.raises(UserError, match="is a gate, which learner"):
        create(tmp_path / "run", "learner.returns=normalised_parts", rewards=[gate])


def test_failures_within_the_bound_are_stored_and_never_trained_on(tmp_path):
    train(tmp_path / "run", "steps=1", "max_failed_share=0.75", rewards=[WeightedReward(reward=Broken())])
    [line] = metrics_of(tmp_path / "run")
    assert line["play/failed"] >= 2
    # Two conversations of two turns of 8 tokens at most are left of four.
    assert line["learn/acted_tokens"] <= 32


def test_a_run_writes_conversations_metrics_notes_and_checkpoints(tmp_path):
    result = train(tmp_path / "run", "steps=3")
    assert (result.version, result.is_stopped, result.comparison) == (3, False, None)
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [0, 1, 2]
    assert len(said_in(tmp_path / "run")) == 12
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"000002", "000003", "latest.json"}
    record = next(RunReader(tmp_path / "run").records())
    assert record["rewards"]["parts"][0]["name"] == "question_marks"
    assert record["players"]["host"] | {"policy": "learner", "version": 0, "trained": True} == record["players"]["host"]


class Length:
    """A reward that turns of a random model differ in."""

    name = "length"

    def score(self, conversations):
        return [Scores(values=np.array([len(t.text) / 8 for t in c.turns], dtype=np.float32)) for c in conversations]


MOVING = ("steps=3", "learner.learning_rate=0.01")


def test_a_run_stores_what_the_learner_found_of_each_token(tmp_path):
    train(tmp_path / "run", *MOVING, "evaluation.conversations=2", rewards=[WeightedReward(reward=Length())])
    reader = RunReader(tmp_path / "run")
    assert reader.manifest["kl_tokens"] == {"train": "k1", "held_out": "k1"}
    learned = [record for record in reader.records() if record["outcome"]["status"] != "failed"]
    assert {note["kind"] for record in learned for note in record["annotations"]} == {"learner", "likelihood"}
    for record in learned:
        [note], tokens = record["annotations"], reader.tokens_record(record["id"])
        known = [turn for turn in tokens["turns"] if turn["kl"] is not None]
        kl = np.concatenate([turn["kl"] for turn in known])
        assert (np.abs(kl).max() > 1e-3) == (record["step"] > 0)
        assert len(kl) == sum(len(turn["said"]) for turn in tokens["turns"])
        if note["kind"] == "learner":
            assert kl.mean() == pytest.approx(note["data"]["kl_per_token"], abs=2e-6)
            for turn in known:
                assert turn["logprobs_learner"] == pytest.approx(turn["logprobs"], abs=1e-3)
                assert len(turn["entropy"]) == len(turn["advantage"]) == len(turn["said"])
        else:
            data = note["data"]
            assert (len(kl), kl.sum()) == (data["num_tokens"], pytest.approx(data["kl"], abs=1e-4))
            said = np.concatenate([turn["logprobs_reference"] for turn in known])
            assert -said.sum() == pytest.approx(data["nll"], abs=1e-4)
            assert {turn["entropy"] for turn in known} == {None}


def test_the_manifest_says_where_the_divergence_of_tokens_is_exact(tmp_path):
    exact = ("kl.estimator=full", "kl.controller=fixed")
    train(tmp_path / "run", *MOVING, *exact, rewards=[WeightedReward(reward=Length())])
    assert RunReader(tmp_path / "run").manifest["kl_tokens"] == {"train": "full", "held_out": "k1"}
    # A conversation that failed is not learned from.
    turns = [turn for turns in numbers_in(tmp_path / "run").values() for turn in turns if turn["kl"] is not None]
    nats = [value for turn in turns for value in turn["kl"]]
    # Unlike k1 it cannot be negative, but for rounding.
    assert max(nats) > 1e-3
    assert min(nats) > -1e-5


def test_tokens_that_a_run_does_not_keep_are_not_stored_after_the_update_either(tmp_path):
    train(tmp_path / "run", "steps=1", "evaluation.conversations=2", "transcripts.tokens=evaluation")
    lines = [json.loads(line) for line in (tmp_path / "run/tokens/000.jsonl").read_text().splitlines()]
    assert {line["conversation"][7] for line in lines} == {"e"}
    train(tmp_path / "none", "steps=1", "evaluation.conversations=2", "transcripts.tokens=none")
    assert not {"tokens", "tokenizers"} & {path.name for path in (tmp_path / "none").iterdir()}


def test_a_run_keeps_the_tokenizer_its_tokens_are_read_with(tmp_path):
    train(tmp_path / "run", "steps=1")
    reader = RunReader(tmp_path / "run")
    record = reader.record("0")
    tokens = reader.tokens_record(record["id"])
    tokenizer = stored_tokenizer.load(tmp_path / "run", tokens["tokenizer"])
    texts = tokenizer.texts(tokens["turns"][0]["heard"])
    # The tiny model has one token a byte, and a chat's control tokens.
    assert texts[:7] == ["<|im_start|>", *"system"]
    assert record["players"]["host"]["brief"] in "".join(texts)


def test_a_run_that_fails_before_it_begins_leaves_no_tokenizer(tmp_path):
    run = create(tmp_path / "run", "steps=1", "evaluation.conversations=2")
    run.screen = CrashInEvaluation(version=0)
    with pytest.raises(RuntimeError, match="power cut"):
        run.train()
    assert list(tmp_path.iterdir()) == []


def weights_of(folder, version):
    from safetensors.torch import load_file

    return load_file(folder / "checkpoints" / version / "model.safetensors")


@pytest.mark.parametrize("kind", [(), ("learner.method=lora", "lora.rank=2")], ids=["full", "lora"])
def test_a_resumed_run_gives_what_an_uninterrupted_one_gives_token_for_token(tmp_path, kind):
    adaptive = ("kl.controller=adaptive", "kl.coefficient=0.3", "learner.schedule=linear", *kind)
    train(tmp_path / "whole", "steps=5", *adaptive)
    interrupted = create(tmp_path / "parts", "steps=5", *adaptive)
    interrupted.screen = StopAt(interrupted, step=3)
    assert interrupted.train().version == 3
    assert resume(tmp_path / "parts", "steps=5", *adaptive).train().version == 5
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    assert said_in(tmp_path / "parts") == said_in(tmp_path / "whole")
    assert numbers_in(tmp_path / "parts") == numbers_in(tmp_path / "whole")


def test_what_was_written_after_the_checkpoint_moves_aside(tmp_path):
    interrupted = create(tmp_path / "parts", "steps=5")
    interrupted.screen = CrashAt(step=3)
    with pytest.raises(RuntimeError, match="power cut"):
        interrupted.train()
    # Checkpoint 2 is the newest; step 2 was finished and step 3 begun.
    assert [line["step"] for line in metrics_of(tmp_path / "parts")] == [0, 1, 2]
    resume(tmp_path / "parts", "steps=5").train()
    train(tmp_path / "whole", "steps=5")
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    assert numbers_in(tmp_path / "parts") == numbers_in(tmp_path / "whole")
    files = (tmp_path / "parts/aside").rglob("train*")
    aside = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert {record["step"] for record in aside} == {2}
    # Of each of the step's four conversations both tokens lines, as played and as learned from.
    [tokens] = (tmp_path / "parts/aside").rglob("tokens/000.jsonl")
    ids = [json.loads(line)["conversation"] for line in tokens.read_text().splitlines()]
    assert sorted(ids) == sorted(2 * [record["id"] for record in aside])
    torch.testing.assert_close(
        weights_of(tmp_path / "parts", "000005"), weights_of(tmp_path / "whole", "000005"), rtol=0, atol=0
    )


def test_resume_refuses_a_run_without_a_checkpoint_and_one_that_is_done(tmp_path):
    train(tmp_path / "run", "steps=2")
    with pytest.raises(UserError, match="has made its 2 updates; for more say steps=4"):
        resume(tmp_path / "run", "steps=2")
    interrupted = create(tmp_path / "young", "steps=5")
    interrupted.screen = CrashAt(step=1)
    with pytest.raises(RuntimeError):
        interrupted.train()
    with pytest.raises(UserError, match="has no checkpoint to go on from"):
        resume(tmp_path / "young", "steps=5")


def test_a_run_ends_with_base_and_trained_compared(tmp_path):
    result = train(tmp_path / "run", "steps=2", "evaluation.conversations=6")
    assert result.comparison is not None
    ids = [id for id in said_in(tmp_path / "run") if "-e" in id]
    assert ids == [f"{version}-e0{group}-0" for version in ("000000", "000002") for group in range(6)]
    assert (tmp_path / "run/evaluation.json").is_file()


def test_frozen_partner_is_never_trained(tmp_path):
    train(tmp_path / "run", "steps=2", "partner=frozen", "group_size=4")
    for record in RunReader(tmp_path / "run").records():
        players = sorted((p["policy"], p["version"], p["trained"]) for p in record["players"].values())
        assert players == [("frozen", 0, False), ("learner", record["step"], True)]


def test_staleness_is_corrected_and_counted(tmp_path):
    train(tmp_path / "run", "steps=4", "max_staleness=1")
    versions = {r["step"]: r["players"]["host"]["version"] for r in RunReader(tmp_path / "run").records()}
    assert versions == {0: 0, 1: 0, 2: 1, 3: 2}


def test_one_failure_stops_no_run_however_small_its_steps(tmp_path):
    class OnceBroken(Broken):
        def score(self, conversations):
            if any(c.id == "000001-g00-1" for c in conversations):
                raise RuntimeError("no idea")
            return [Scores(values=np.ones(c.num_turns, dtype=np.float32)) for c in conversations]

    reward = [WeightedReward(reward=OnceBroken())]
    train(tmp_path / "run", "steps=2", "max_failed_share=0.05", "seed=3", rewards=reward)
    assert metrics_of(tmp_path / "run")[1]["play/failed"] == 1


def test_a_run_that_failures_stop_keeps_what_it_learned(tmp_path):
    class LaterBroken(Broken):
        def score(self, conversations):
            if conversations[0].step == 1:
                raise RuntimeError("no idea")
            return [Scores(values=np.ones(c.num_turns, dtype=np.float32)) for c in conversations]

    reward = [WeightedReward(reward=LaterBroken())]
    with pytest.raises(UserError, match="no idea"):
        train(tmp_path / "run", "steps=3", "checkpoints.save_every=3", rewards=reward)
    assert (tmp_path / "run/checkpoints/000001").is_dir()


def test_a_run_from_python_records_the_env_and_the_rewards_it_was_given(tmp_path):
    train(tmp_path / "run", "steps=1")
    kept = resolve(TrainSettings, [f"config={tmp_path / 'run/config.yaml'}"])
    assert build_env(kept.env) == ENV
    assert [(one.name, one.reward, one.weight) for one in build_rewards(kept.rewards)] == [
        (one.name, one.reward, one.weight) for one in rewards()
    ]


def test_stopped_before_its_first_update_a_run_can_go_on(tmp_path):
    run = create(tmp_path / "run", "steps=2")
    run.screen = StopAt(run, step=0)
    assert run.train().version == 0
    assert resume(tmp_path / "run", "steps=2").train().version == 2
    train(tmp_path / "whole", "steps=2")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


def test_an_unfinished_evaluation_is_finished_and_an_old_one_is_not_taken_for_it(tmp_path):
    words = ("evaluation.conversations=4",)
    train(tmp_path / "run", "steps=2", *words)
    longer = resume(tmp_path / "run", "steps=4", *words)
    longer.screen = CrashInEvaluation(version=4)
    with pytest.raises(RuntimeError, match="power cut"):
        longer.train()
    assert evaluated_version(tmp_path / "run") == 2
    assert resume(tmp_path / "run", "steps=4", *words).train().comparison is not None
    assert evaluated_version(tmp_path / "run") == 4


def test_going_on_from_other_weights_is_refused_and_changes_nothing(tmp_path):
    train(tmp_path / "run", "steps=2")
    before = (tmp_path / "run/config.yaml").read_text()
    with pytest.raises(UserError, match="model=tiny:3 has other weights than when run"):
        resume(tmp_path / "run", "steps=4", "model=tiny:3").train()
    assert (tmp_path / "run/config.yaml").read_text() == before
    assert resume(tmp_path / "run", "steps=3").train().version == 3


def test_a_model_that_is_a_run_keeps_the_step_it_meant(tmp_path):
    train(tmp_path / "first", "steps=2")
    train(tmp_path / "second", "steps=1", f"model={tmp_path / 'first'}")
    assert RunReader(tmp_path / "second").manifest["model"] == f"{tmp_path / 'first'}@2"


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_that_goes_on_from_an_adapter_plays_with_the_weights_that_it_learns(tmp_path, method):
    letters = [WeightedReward(reward=reward(lambda turn: float(len(turn.text))), label="letters")]
    far = "learner.learning_rate=0.05"
    train(tmp_path / "first", "steps=2", "learner.method=lora", far, rewards=letters)
    onward = [f"model={tmp_path / 'first'}@2", f"learner.method={method}", far]
    train(tmp_path / "second", *onward, "steps=2", rewards=letters)
    train(tmp_path / "third", *onward, "steps=1", rewards=letters)
    resume(tmp_path / "third", *onward, "steps=2", rewards=letters).train()
    for run in ("second", "third"):
        gaps = [line["learn/sampler_gap_nats"] for line in metrics_of(tmp_path / run)]
        assert len(gaps) == 2
        # Adding the adapter to weights that hold it already puts the second step's far off.
        assert max(gaps) < 1e-4


def test_what_the_learner_warns_of_is_said_once(tmp_path):
    class AllBroken(Broken):
        def score(self, conversations):
            raise RuntimeError("no idea")

    run = create(tmp_path / "run", "steps=3", "max_failed_share=1", rewards=[WeightedReward(reward=AllBroken())])
    run.screen = said = Said()
    run.train()
    # Three steps without a conversation to learn from, one warning.
    assert [line for line in said.lines if line.startswith("warning")] == [
        "warning: version 1: no token of a trained player, nothing was learned"
    ]


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_refused_by_name_and_an_older_one_goes_on(tmp_path):
    train(tmp_path / "run", "steps=4")
    damage(tmp_path / "run/checkpoints/000004/model.safetensors")
    with pytest.raises(UserError, match=r"000004 is no whole checkpoint: .*an older one is resume=run@2"):
        resume(tmp_path / "run", "steps=5")
    resume(tmp_path / "run", "steps=5", version=2).train()
    train(tmp_path / "whole", "steps=5")
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")


def test_a_reward_that_exits_fails_its_conversations_and_not_the_program(tmp_path):
    class Exits(Broken):
        def score(self, conversations):
            raise SystemExit(3)

    with pytest.raises(UserError, match="raised SystemExit: 3"):
        train(tmp_path / "run", "steps=1", rewards=[WeightedReward(reward=Exits())])


class StopAt:
    """A screen that asks its run to stop when a step begins."""

    def __init__(self, run, *, step):
        self.run, self.step = run, step

    def start_step(self, step, version):
        if step == self.step:
            self.run.stop()

    def __getattr__(self, name):
        return lambda *arguments, **others: None


class CrashInEvaluation(StopAt):
    """A screen that breaks when a version is evaluated."""

    def __init__(self, *, version):
        self.version = version

    def doing(self, what, *, conversations=0):
        if f"version {self.version} " in what:
            raise RuntimeError("power cut")

    def start_step(self, step, version):
        pass


class Said(StopAt):
    """A screen that remembers what it is told to say."""

    def __init__(self):
        self.lines = []

    def say(self, text):
        self.lines.append(text)

    def start_step(self, step, version):
        pass


class CrashAt(StopAt):
    """A screen that breaks when a step begins."""

    def __init__(self, *, step):
        super().__init__(None, step=step)

    def start_step(self, step, version):
        if step == self.step:
            raise RuntimeError("power cut")


ALARMING = (
    "steps=9",
    "alarms.watch=true",
    "alarms.kl_nats=1e-9",
    "alarms.window=2",
    "learner.learning_rate=0.02",
    "kl.controller=off",
)


def test_an_alarm_that_begins_is_said_stored_and_stops_the_run_if_asked(tmp_path):
    run = create(tmp_path / "run", *ALARMING, "alarms.stop_on=[kl_accelerating]")
    run.screen = said = Said()
    result = run.train()
    lines = [json.loads(line) for line in (tmp_path / "run/alarms.jsonl").read_text().splitlines()]
    begun = next(line for line in lines if line["name"] == "kl_accelerating")
    assert (result.is_stopped, result.version) == (True, begun["step"] + 1)
    assert f"show {tmp_path / 'run'} {begun['look_at'][0]}" in begun["text"]
    assert begun["text"] in said.lines
    assert said.lines[-1] == "stopping with a checkpoint: kl_accelerating is in alarms.stop_on"
    assert (tmp_path / "run/checkpoints" / f"{result.version:06d}").is_dir()
    on = [line.get("alarm/kl_accelerating") for line in metrics_of(tmp_path / "run")]
    assert on[-1] == 1.0
    assert 1.0 not in on[:-1]


def test_an_alarm_that_is_on_is_not_said_again_when_the_run_goes_on(tmp_path):
    words = (*ALARMING, "alarms.stop_on=[kl_accelerating]")
    stopped = create(tmp_path / "run", *words).train()
    later = resume(tmp_path / "run", *words)
    later.screen = said = Said()
    # The newest line has the alarm on: nothing begins, so nothing stops the run a second time either.
    assert (stopped.version < 9, later.train().version) == (True, 9)
    assert not [line for line in said.lines if line.startswith("alarm kl_accelerating:")]
    lines = [json.loads(line) for line in (tmp_path / "run/alarms.jsonl").read_text().splitlines()]
    assert [(line["step"], line["state"]) for line in lines if line["name"] == "kl_accelerating"][:1] == [
        (stopped.version - 1, "began")
    ]


def test_alarms_can_be_switched_off(tmp_path):
    train(tmp_path / "run", *ALARMING, "alarms.watch=false")
    assert not (tmp_path / "run/alarms.jsonl").exists()
    assert not [name for line in metrics_of(tmp_path / "run") for name in line if name.startswith("alarm/")]
