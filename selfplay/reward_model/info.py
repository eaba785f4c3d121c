"""Where a reward model is: by its path, or by its name under reward_models/.  Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path

from selfplay.errors import UserError
from selfplay.reward_model.settings import REWARD_MODELS
from selfplay.written import nearest

__all__ = ["RECORD", "find"]

RECORD = "reward_model.json"


def find(name: str, *, root: Path = REWARD_MODELS) -> Path:
    """Return the folder of a reward model, by its path or by its name under reward_models/.

    Raises UserError if there is none.
    """
    places = (Path(name).expanduser(), root / name)
    for place in places:
        if name and (place / RECORD).is_file():
            return place
    for place in places:
        if name and place.is_file():
            raise UserError(
                f"{place} is a file, and a reward model is a folder; `reward train {name}` makes one of data, and "
                f"`reward report RM on={name}` measures one on it"
            )
        if name and place.is_dir():
            raise UserError(f"{place} is no reward model: it has no {RECORD}")
    known = sorted(path.parent.name for path in root.glob(f"*/{RECORD}"))
    rest = nearest(name, known) or f"; {root}/ holds none, and `reward train` makes one"
    raise UserError(f"there is no reward model {name!r}{rest}")
