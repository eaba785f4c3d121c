"""The algorithms by name.

The critic-free ones differ in two settings: what is subtracted from a return (the baseline) and what the difference is
divided by:

    name          baseline       scale    clip   source
    reinforce     batch          none     0      Williams 1992
    rloo          leave_one_out  none     0      Ahmadian et al. 2024, arXiv:2402.14740
    grpo          group_mean     group    0.2    Shao et al. 2024, arXiv:2402.03300
    dr_grpo       group_mean     none     0.2    Liu et al. 2025, arXiv:2503.20783
    reinforce++   group_mean     batch    0.2    Hu 2025, arXiv:2501.03262, the variant with a baseline
    ppo           learned value  batch    0.2    Schulman et al. 2017, arXiv:1707.06347
"""

from __future__ import annotations

from selfplay.errors import UserError
from selfplay.learn.ppo import PPO
from selfplay.learn.reinforce import Reinforce

ALGORITHMS: dict[str, Reinforce | PPO] = {
    "reinforce": Reinforce(baseline="batch"),
    "rloo": Reinforce(baseline="leave_one_out"),
    "grpo": Reinforce(baseline="group_mean", scale="group", clip=0.2),
    "dr_grpo": Reinforce(baseline="group_mean", clip=0.2),
    "reinforce++": Reinforce(baseline="group_mean", scale="batch", clip=0.2),
    "ppo": PPO(clip=0.2),
}


def algorithm(name: str) -> Reinforce | PPO:
    """Return the algorithm of that name.  Raises UserError for an unknown one."""
    if name not in ALGORITHMS:
        raise UserError(f"learner.algorithm={name}: there is no such algorithm; choose from {', '.join(ALGORITHMS)}")
    return ALGORITHMS[name]
