"""The games that come with the package, by name."""

from __future__ import annotations

from envs.chitchat import ChitChat
from envs.deal import Deal
from envs.demand import Demand
from envs.haggle import Haggle
from envs.kuhn import Kuhn
from envs.pointing import Pointing
from envs.secret import Secret
from envs.signal import Signal
from envs.taboo import Taboo
from envs.textarena import TextArenaEnv
from envs.twenty_questions import TwentyQuestions

ENVS: dict[str, type] = {
    "chitchat": ChitChat,
    "signal": Signal,
    "kuhn": Kuhn,
    "demand": Demand,
    "taboo": Taboo,
    "twenty_questions": TwentyQuestions,
    "haggle": Haggle,
    "deal": Deal,
    "pointing": Pointing,
    "secret": Secret,
    "textarena": TextArenaEnv,
}
