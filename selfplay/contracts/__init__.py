"""Proofs for plug-in authors: each `check_*` passes in silence or raises a PluginError that says what to mend.

The messages name the plug-in, the method, the seed and the turn, and what would be right.
"""

from selfplay.contracts.algorithm import check_algorithm
from selfplay.contracts.env import check_env, play_scripted
from selfplay.contracts.game import GameReport, Proof, check_game
from selfplay.contracts.generator import check_generator
from selfplay.contracts.golden import golden_game
from selfplay.contracts.measured import Measured
from selfplay.contracts.reward import check_reward, sample_conversations
from selfplay.contracts.spot import Spot

__all__ = [
    "GameReport",
    "Measured",
    "Proof",
    "Spot",
    "check_algorithm",
    "check_env",
    "check_game",
    "check_generator",
    "check_reward",
    "golden_game",
    "play_scripted",
    "sample_conversations",
]
