"""What an annotation says of its conversation that the index keeps: numbers of the learner and of measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["learnt"]


def learnt(kind: object, data: Mapping[str, Any]) -> dict[str, object]:
    """Return what an annotation says of its conversation, as columns of table learnt; numbers are finite."""
    if kind == "learner":
        advantages = data.get("advantage")
        values = map(_number, advantages.values()) if isinstance(advantages, dict) else ()
        numbers = [value for value in values if value is not None]
        mean = _number(sum(numbers) / len(numbers)) if numbers else None
        return {"advantage": mean, "kl": _number(data.get("kl_per_token")), "nll": _number(data.get("nll_per_token"))}
    if kind == "likelihood":
        num_tokens = _number(data.get("num_tokens"))
        kl, nll = _number(data.get("kl")), _number(data.get("nll"))
        if not num_tokens:
            return {}
        return {
            "measured_kl": None if kl is None else _number(kl / num_tokens),
            "measured_nll": None if nll is None else _number(nll / num_tokens),
        }
    return {"is_invalid": 1} if kind == "invalid" else {}


def _number(value: object) -> float | None:
    """Return a finite number; anything else is None."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of very many digits
        return None
    return number if math.isfinite(number) else None
