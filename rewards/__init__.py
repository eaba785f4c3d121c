"""The rewards that come with the package, by name."""

from __future__ import annotations

from rewards.outcome import Payoff

REWARDS: dict[str, type] = {"payoff": Payoff}
