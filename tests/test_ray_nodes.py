"""A cluster of three machines, simulated on one, that loses one of them."""

import pytest
from tiny_runs import create, metrics_of, said_in, train

ray = pytest.importorskip("ray")

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class RemoveNodeAt:
    """A screen that takes away a machine with a play worker on it when a step begins."""

    def __init__(self, run, cluster, *, step):
        self.run, self.cluster, self.step = run, cluster, step

    def start_step(self, step, version):
        if step == self.step:
            used = {place.node for place in self.run.cluster.places()["play"]}
            victim = next(node for node in self.cluster.worker_nodes if node.node_id in used)
            self.cluster.remove_node(victim)

    def __getattr__(self, name):
        return lambda *arguments, **others: None


def test_a_run_finishes_while_one_of_three_nodes_is_removed(tmp_path):
    from ray.cluster_utils import Cluster

    from selfplay.cluster import ray_cluster

    assert ray_cluster
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        words = ("steps=3", "block_size=2", "evaluation.conversations=0")
        run = create(tmp_path / "nodes", *words, "cluster=ray", "ray.play_workers=2", "ray.play_cpus=1")
        run.screen = RemoveNodeAt(run, cluster, step=1)
        assert run.train().version == 3
    finally:
        ray.shutdown()
        cluster.shutdown()
    train(tmp_path / "local", *words)
    assert said_in(tmp_path / "nodes") == said_in(tmp_path / "local")
    assert metrics_of(tmp_path / "nodes")[-1]["cluster/replaced_play_workers"] >= 1
