"""What actors reserve, how threads are shared, and what is said when there is no room."""

import pytest

from selfplay.cluster.resources import Ask, check_room, lay_out
from selfplay.errors import UserError
from selfplay.train_settings import RayGroup, TrainSettings


def layout(cores=2, *, is_one_machine=True, has_slow_rewards=False, max_staleness=0, **ray):
    settings = TrainSettings(max_staleness=max_staleness, ray=RayGroup(**ray))
    return lay_out(settings, cores=cores, is_one_machine=is_one_machine, has_slow_rewards=has_slow_rewards)


def test_two_cores_get_one_play_worker_and_actors_that_take_turns_use_both():
    two = layout(2)
    assert (two.play.count, two.play.cpus, two.play.threads) == (1, 1.0, 2)
    assert (two.learner.count, two.learner.cpus, two.learner.threads) == (1, 1.0, 2)
    assert two.reward.count == 0


def test_from_eight_cores_on_there_is_a_worker_for_every_four():
    assert layout(7).play.count == 1
    assert layout(16).play.count == 4
    # 16 cores: learner 8; 4 workers share the other 8, and play with all 16 while the learner waits.
    assert (layout(16).play.cpus, layout(16).play.threads, layout(16).learner.threads) == (2.0, 4, 16)


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 13, 64])
@pytest.mark.parametrize("workers", [0, 1])
def test_actors_that_work_at_once_never_have_more_threads_than_cores(cores, workers):
    both = layout(cores, max_staleness=1, play_workers=workers)
    together = both.play.count * both.play.threads + both.learner.threads
    # A thread each is the least there is.
    assert together <= max(cores, both.play.count + 1)


@pytest.mark.parametrize("cores", [1, 2, 3, 5, 8, 13, 64])
def test_the_defaults_fit_the_machine_they_are_made_for(cores):
    chosen = layout(cores)
    check_room(chosen.asks, [{"CPU": float(cores)}])


def test_a_slow_reward_gets_a_worker_that_reserves_nothing():
    assert (layout(has_slow_rewards=True).reward.count, layout(has_slow_rewards=True).reward.cpus) == (1, 0.0)


def test_on_several_machines_an_actor_has_the_threads_it_reserves():
    several = layout(32, is_one_machine=False, play_cpus=4, learner_cpus=8, learner_gpus=1, play_workers=8)
    assert (several.play.threads, several.learner.threads, several.learner.gpus) == (4, 8, 1)


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_the_gpus_of_one_machine_are_shared_where_nobody_was_given_any(gpus):
    shared = lay_out(TrainSettings(), cores=16, gpus=gpus, is_one_machine=True, has_slow_rewards=False)
    check_room(shared.asks, [{"CPU": 16.0, "GPU": float(gpus)}])
    assert {1: (0.5, 0.12), 2: (1.0, 0.25), 4: (1.0, 0.75)}[gpus] == (shared.learner.gpus, shared.play.gpus)
    assert (shared.play.device("auto"), shared.play.device("cpu")) == ("cuda", "cpu")


def test_who_reserves_no_gpu_keeps_off_it():
    several = layout(32, is_one_machine=False, learner_gpus=1)
    assert (several.learner.device("auto"), several.play.device("auto")) == ("cuda", "cpu")


def test_more_workers_than_cores_are_refused_unless_their_part_is_said():
    with pytest.raises(UserError, match=r"ray\.play_workers=5 are more than the 2 cores"):
        layout(2, play_workers=5)
    assert layout(2, play_workers=5, play_cpus=0.1).play.count == 5


def test_check_room_names_the_exact_shortfall():
    asks = [Ask(kind="learner", count=1, cpus=2), Ask(kind="play worker", count=4, cpus=2)]
    with pytest.raises(UserError, match=r"has 4 CPUs and this run asks for 10 .*4 play workers x 2.*: 6 too few"):
        check_room(asks, [{"CPU": 2.0}, {"CPU": 2.0}])


def test_check_room_wants_each_actor_on_one_machine():
    with pytest.raises(UserError, match=r"no machine .* play worker 2 of 2, which asks for 3 CPUs"):
        check_room([Ask(kind="play worker", count=2, cpus=3)], [{"CPU": 4.0}, {"CPU": 2.0}])


def test_check_room_counts_gpus():
    with pytest.raises(UserError, match=r"has 0 GPUs and this run asks for 1 \(1 learner x 1\): 1 too few"):
        check_room([Ask(kind="learner", count=1, cpus=1, gpus=1)], [{"CPU": 4.0}])
