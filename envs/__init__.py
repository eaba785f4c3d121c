"""The games that come with the package, by name."""

from __future__ import annotations

from envs.chitchat import ChitChat
from envs.deal import Deal
from envs.haggle import Haggle
from envs.pointing import Pointing
from envs.secret import Secret
from envs.signal import Signal
from envs.taboo import Taboo

ENVS: dict[str, type] = {
    "chitchat": ChitChat,
    "signal": Signal,
    "taboo": Taboo,
    "haggle": Haggle,
    "deal": Deal,
    "pointing": Pointing,
    "secret": Secret,
}
