"""What a game's sheet may say, and what it demands of every outcome."""

from __future__ import annotations

from collections.abc import Sequence

from selfplay.contracts.spot import Spot, is_finite, kind_of
from selfplay.dialog import REASONS_OF_STATUS, Outcome
from selfplay.interfaces import GameSheet

__all__ = ["check_game_outcome", "check_sheet"]

EXACT = 1e-6  # env units


def check_sheet(spot: Spot, sheet: object, *, is_zero_sum: bool) -> None:
    """Raise PluginError unless the sheet can be true at all."""
    if not isinstance(sheet, GameSheet):
        raise spot.broken("sheet", f"returned {kind_of(sheet)}", "it must return a GameSheet")
    allowed = REASONS_OF_STATUS["terminated"]
    if not sheet.ends or len(set(sheet.ends)) < len(sheet.ends) or not allowed.issuperset(sheet.ends):
        raise spot.broken(
            "sheet", f"has ends={sheet.ends!r}", f"they must be different ones of {', '.join(sorted(allowed))}"
        )
    low, high = sheet.payoffs
    numbers = (low, sheet.chance, sheet.best, high)
    if not all(map(is_finite, numbers)) or not low <= sheet.chance <= sheet.best <= high or low == high:
        shown = f"has payoffs={sheet.payoffs}, chance={sheet.chance}, best={sheet.best}"
        raise spot.broken("sheet", shown, "they must be finite, and least <= chance <= best <= greatest")
    if is_zero_sum and (sheet.chance or sheet.best):
        shown = f"has chance={sheet.chance:g}, best={sheet.best:g}"
        raise spot.broken("sheet", shown, "with zero_sum the mean over roles is 0 whoever plays")


def check_game_outcome(spot: Spot, outcome: Outcome, sheet: GameSheet, roles: Sequence[str]) -> None:
    """Raise PluginError for an outcome, of an unfinished game too, that is not as the sheet says."""
    missing = [role for role in roles if role not in outcome.payoff]
    if missing:
        raise spot.broken("outcome", f"has no payoff of {missing[0]}", "a game pays every role, unfinished or not")
    low, high = sheet.payoffs
    for role, value in outcome.payoff.items():
        if not low - EXACT <= value <= high + EXACT:
            raise spot.broken("outcome", f"pays {role} {value:g}", f"the sheet says {low:g} to {high:g}")
    success = outcome.facts.get("success")
    if not isinstance(success, bool):
        raise spot.broken("outcome", f'has facts["success"]={success!r}', "it must be True or False, unfinished or not")
    if outcome.reason == "rule_violation" and (outcome.by is None or outcome.protocol_ok):
        right = "a rule_violation needs by=ROLE, whose fault it is, and protocol_ok=False"
        raise spot.broken("outcome", f"has by={outcome.by!r}, protocol_ok={outcome.protocol_ok}", right)
