"""Whether a judge is kin to the policy that it judges: models tend to prefer what they would have said themselves."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfplay import models, trained
from selfplay.errors import UserError
from selfplay.run_folder import RUNS

__all__ = ["Family", "family_of", "kinship"]

logger = logging.getLogger(__name__)

TINY = "tiny"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What tells a model's relations."""

    model_type: str  # as transformers names the architecture
    vocab_size: int
    hidden_size: int


def kinship(judge: str, policy: str, *, runs: Path = RUNS) -> str:
    """Return one sentence if a judge is the policy's model or shares its family; "": not, or that is not known.

    Models of one architecture with vocabularies of one size count as a family; with one width too, as one model that
    was trained on.  Nothing is loaded or fetched.
    """
    advice = "it tends to prefer what it would say itself; a judge of another family is safer"
    if judge == policy:
        return f"the judge is the policy's own model ({judge}): {advice}"
    one, other = family_of(judge, runs=runs), family_of(policy, runs=runs)
    if one is None or other is None or (one.model_type, one.vocab_size) != (other.model_type, other.vocab_size):
        return ""
    what = f"{one.model_type} with {one.vocab_size} tokens"
    if one.hidden_size == other.hidden_size:
        return (
            f"the judge {judge} looks like the model of the policy {policy} ({what}, width {one.hidden_size}): {advice}"
        )
    return f"the judge {judge} is of the same family as the policy {policy} ({what}): {advice}"


def family_of(name: str, *, runs: Path = RUNS) -> Family | None:
    """Return a model's family from its configuration; None: it is not on this machine, or does not say."""
    try:
        if name.partition(":")[0] == TINY:
            return _family(models.load(name, device="cpu").model.config.to_dict())
        if not models.is_ready(name, runs=runs):
            return None
        folder = models.folder_of(name, runs=runs)
        if folder is None:
            return None
        if trained.is_adapter(folder):
            return family_of(trained.base_of(folder), runs=runs)
        return _family(json.loads((folder / trained.MODEL_CONFIG).read_bytes()))
    except (UserError, OSError, ValueError) as error:
        logger.info("the family of model %s is not known: %s", name, error)
        return None


def _family(config: dict[str, Any]) -> Family | None:
    # A model that also sees keeps what speaks in a group of its own.
    text = config.get("text_config") or config
    keys = ("vocab_size", "hidden_size")
    model_type = text.get("model_type") or config.get("model_type")
    if not isinstance(model_type, str) or not all(isinstance(text.get(key), int) for key in keys):
        return None
    return Family(model_type=model_type, vocab_size=text["vocab_size"], hidden_size=text["hidden_size"])
