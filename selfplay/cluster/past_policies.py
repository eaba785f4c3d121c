"""Past versions of a policy, on their way from a run's folder to the play workers that meet them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfplay import checkpoint, models, trained
from selfplay.errors import UserError
from selfplay.interfaces import Weights
from selfplay.play import Match


@dataclass(slots=True, kw_only=True)
class PastPolicies:
    """Which past versions matches may name, and what a play worker must load and drop before a block of them.

    keeps_all: whether a worker keeps all that may be met, as it can with adapters; whole models come one block at a
    time, and go when the next block does without them.
    """

    keeps_all: bool
    folders: Mapping[str, Path] = field(default_factory=dict)  # player's name -> where its policy is stored

    def introduce(self, folders: Mapping[str, Path]) -> None:
        """Let matches name these players from now on, and no others."""
        self.folders = dict(folders)

    def changes(self, known: Collection[str], matches: Sequence[Match]) -> tuple[list[str], list[str]]:
        """Return which players a worker that knows some must load for these matches, and which it may drop."""
        named = dict.fromkeys(name for match in matches for name in match.players.values() if name in self.folders)
        kept = self.folders if self.keeps_all else named
        return [name for name in named if name not in known], [name for name in known if name not in kept]

    def read(self, name: str) -> Weights:
        """Return the weights of a player.  Raises UserError if its folder is gone, or was changed since."""
        folder = self.folders[name]
        try:
            version = checkpoint.check(folder).version
        except UserError as error:
            raise UserError(f"the past policy {name} cannot be met: {error}") from error
        return read_policy(folder, version=version)


def read_policy(folder: Path, *, version: int) -> Weights:
    """Return the weights of a policy that a learner saved: its adapter, or all of it."""
    if trained.is_adapter(folder):
        from selfplay.learn.adapters import read_adapter

        return read_adapter(folder, version=version)
    loaded = models.load(str(folder), device="cpu", dtype="float32")
    return Weights(version=version, state=loaded.model.state_dict())
