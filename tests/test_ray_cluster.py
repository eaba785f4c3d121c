"""Ray: the same results as in one process, whatever dies meanwhile.  Processes are really killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_runs import ENV, create, metrics_of, numbers_in, resume, rewards, said_in, tiny_settings, train

from selfplay.cluster.model_files import ModelFiles
from selfplay.dialog import Scores
from selfplay.errors import UserError
from selfplay.interfaces import Update
from selfplay.play_plan import play_plan
from selfplay.score import WeightedReward

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module", autouse=True)
def running_ray():
    """One Ray for all tests here; runs find it and leave it running."""
    from selfplay.cluster import ray_cluster  # its environment variables come before Ray's start

    assert ray_cluster
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class SlowLength:
    """A reward for a reward worker."""

    name = "slow_length"
    is_slow = True

    def score(self, conversations):
        return [Scores(values=np.array([len(t.text) / 8 for t in c.turns], dtype=np.float32)) for c in conversations]


def make_cluster(folder, *words, scored_by=None):
    from selfplay.cluster.ray_cluster import RayCluster

    settings = tiny_settings("cluster=ray", *words)
    model = ModelFiles.of(settings.model, runs=settings.runs, say=lambda _text: None)
    chosen = scored_by or rewards()
    folder.mkdir(exist_ok=True)
    plan = play_plan(settings, env=ENV, model=model, rewards=chosen)
    return RayCluster(settings, plan=plan, model=model, rewards=chosen, run=folder)


def same_runs(first, second):
    assert said_in(first) == said_in(second)
    assert numbers_in(first) == numbers_in(second)
    kept = [{path.name: path.read_bytes() for path in (run / "tokenizers").iterdir()} for run in (first, second)]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 1
    events = "cluster/"
    clean = [
        [{k: v for k, v in line.items() if not k.startswith(events)} for line in metrics_of(run)]
        for run in (first, second)
    ]
    assert clean[0] == clean[1]


@pytest.mark.parametrize("kind", [(), ("learner.method=lora", "lora.rank=2")], ids=["full", "lora"])
def test_ray_gives_what_one_process_gives(tmp_path, kind):
    train(tmp_path / "local", "steps=3", "block_size=2", *kind)
    train(tmp_path / "ray", "steps=3", "block_size=2", "cluster=ray", "ray.play_workers=2", *kind)
    same_runs(tmp_path / "local", tmp_path / "ray")


@pytest.mark.parametrize("method", ["full", "lora"])
def test_ray_gives_a_league_what_one_process_gives(tmp_path, method):
    words = ("steps=5", "block_size=2", f"learner.method={method}", "partner=league", "league.save_steps=1")
    words += ("league.play_against_latest_model_ratio=0.2", "league.opponents=2", "league.window=2")
    train(tmp_path / "local", *words)
    train(tmp_path / "ray", *words, "cluster=ray", "ray.play_workers=2")
    same_runs(tmp_path / "local", tmp_path / "ray")
    leagues = [(tmp_path / name / "league.json").read_text() for name in ("local", "ray")]
    assert leagues[0] == leagues[1]


def test_slow_rewards_are_scored_by_reward_workers_with_the_same_result(tmp_path):
    both = [*rewards(), WeightedReward(reward=SlowLength(), weight=0.5)]
    train(tmp_path / "local", "steps=2", rewards=both)
    train(tmp_path / "ray", "steps=2", "cluster=ray", "ray.reward_workers=2", rewards=both)
    same_runs(tmp_path / "local", tmp_path / "ray")


class KillAt:
    """A screen that kills an actor's process when a step begins."""

    def __init__(self, run, *, step, kind):
        self.run, self.step, self.kind = run, step, kind

    def start_step(self, step, version):
        if step == self.step:
            os.kill(self.run.cluster.places()[self.kind][0].pid, signal.SIGKILL)

    def __getattr__(self, name):
        return lambda *arguments, **others: None


@pytest.mark.parametrize("kind", ["play", "reward"])
def test_a_killed_worker_is_replaced_and_the_step_completes(tmp_path, kind):
    both = [*rewards(), WeightedReward(reward=SlowLength(), weight=0.5)]
    train(tmp_path / "whole", "steps=3", rewards=both)
    run = create(tmp_path / "killed", "steps=3", "cluster=ray", rewards=both)
    run.screen = KillAt(run, step=1, kind=kind)
    run.train()
    same_runs(tmp_path / "whole", tmp_path / "killed")
    assert metrics_of(tmp_path / "killed")[-1][f"cluster/replaced_{kind}_workers"] == 1


def test_a_worker_killed_while_it_plays_has_its_block_played_again(tmp_path):
    cluster = make_cluster(tmp_path / "run", "conversations=8", "ray.play_workers=2", "block_size=4")
    try:
        from selfplay.dealing import Dealer

        dealer = Dealer(env=ENV, seed=0, conversations=8, group_size=2)
        expected = {c.id: [t.text for t in c.turns] for c in cluster.play(dealer.training(0))}
        playing = cluster.play(dealer.training(0))
        first = next(playing)
        os.kill(cluster.places()["play"][0].pid, signal.SIGKILL)
        got = [first, *playing]
        assert {c.id: [t.text for t in c.turns] for c in got} == expected
        assert len(got) == 8
    finally:
        cluster.close()


def test_a_killed_learner_ends_the_run_with_what_to_type(tmp_path):
    run = create(tmp_path / "run", "steps=4", "cluster=ray")
    run.screen = KillAt(run, step=3, kind="learner")
    with pytest.raises(UserError, match=r"the learner died.*train resume=RUN"):
        run.train()
    train(tmp_path / "whole", "steps=4")
    assert resume(tmp_path / "run", "steps=4", "cluster=ray").train().version == 4
    same_runs(tmp_path / "whole", tmp_path / "run")


def test_more_than_there_is_is_refused_with_the_shortfall(tmp_path):
    started = time.monotonic()
    with pytest.raises(UserError, match=r"has 4 CPUs and this run asks for 12 .*: 8 too few"):
        create(tmp_path / "run", "cluster=ray", "ray.play_workers=5", "ray.play_cpus=2", "ray.learner_cpus=2").train()
    assert time.monotonic() - started < 30
    assert not (tmp_path / "run").exists()


def test_memory_stays_flat_over_200_publishes(tmp_path):
    cluster = make_cluster(tmp_path / "run")
    try:
        sizes = []
        for number in range(200):
            cluster.publish(Update(version=number, metrics={}))
            if number in (40, 199):
                sizes.append({kind: rss_mib(found[0].pid) for kind, found in cluster.places().items() if found})
        objects = ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]
    finally:
        cluster.close()
    # The tiny model is 0.4 MB: 160 kept versions would be 64 MB in every process.
    assert all(sizes[1][kind] - sizes[0][kind] < 20 for kind in sizes[0]), sizes
    assert objects < 20e6


def rss_mib(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_driver_that_is_killed_costs_the_steps_since_the_last_checkpoint(tmp_path):
    words = ["preset=tiny", "cluster=local", "steps=400", "evaluation.conversations=0", "checkpoints.save_every=2"]
    command = [sys.executable, str(ROOT / "run.py"), "train", *words, "conversations=4", f"out={tmp_path / 'run'}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run/checkpoints/000004").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    done = [line["step"] for line in metrics_of(tmp_path / "run")]
    again = [sys.executable, str(ROOT / "run.py"), "train", f"resume={tmp_path / 'run'}", f"steps={done[-1] + 3}"]
    subprocess.run(again, check=True, stdout=subprocess.DEVNULL)
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == list(range(done[-1] + 3))
