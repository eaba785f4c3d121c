"""Self-play reinforcement learning for dialog.

The names below are the public ones; each is imported when it is first used, so that `import selfplay` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfplay.errors import UserError
    from selfplay.function_reward import RewardResult, reward
    from selfplay.score import WeightedReward
    from selfplay.store import RunReader
    from selfplay.train_settings import TrainSettings
    from selfplay.training_run import Result, TrainingRun

__version__ = "0.1.0"
__all__ = [
    "Result",
    "RewardResult",
    "RunReader",
    "TrainSettings",
    "TrainingRun",
    "UserError",
    "WeightedReward",
    "reward",
]

_HOMES = {
    "Result": "selfplay.training_run",
    "RewardResult": "selfplay.function_reward",
    "RunReader": "selfplay.store",
    "TrainSettings": "selfplay.train_settings",
    "TrainingRun": "selfplay.training_run",
    "UserError": "selfplay.errors",
    "WeightedReward": "selfplay.score",
    "reward": "selfplay.function_reward",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'selfplay' has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)
