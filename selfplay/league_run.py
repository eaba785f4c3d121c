"""A league inside a training run: it deals, it is told of every step, and it is stored with every checkpoint.

A past version is kept in RUN/league/000010; RUN/league.json says how things stand now, and a checkpoint's own
league.json how they stood then, which is what going on starts from.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfplay import checkpoint, trained
from selfplay.dealing import Dealer, LeagueDealer
from selfplay.dialog import Conversation
from selfplay.errors import UserError
from selfplay.interfaces import Cluster
from selfplay.league import League, past_name
from selfplay.play import Match
from selfplay.train_settings import TrainSettings
from selfplay.whole_files import reason, write_whole

__all__ = ["LEAGUE_FILE", "LeagueRun"]

LEAGUE_FILE = "league.json"


@dataclass(slots=True, kw_only=True)
class LeagueRun:
    """Deals a run's matches against opponents of its league, and keeps the league's books.

    It has the methods of a `Dealer` that `selfplay.train.train` asks for.
    """

    folder: Path  # of the run
    settings: TrainSettings
    dealer: Dealer
    say: Callable[[str], None]
    cluster: Cluster
    league: League
    _dealt: deque[tuple[int, set[str]]] = field(default_factory=deque)  # steps under way -> past players in them

    @classmethod
    def begin(
        cls, folder: Path, settings: TrainSettings, *, dealer: Dealer, cluster: Cluster, say: Callable[[str], None]
    ) -> LeagueRun:
        """Return the league of a run that has not made a step."""
        league = League(settings.league, seed=settings.seed, roles=dealer.free_roles)
        return cls(folder=folder, settings=settings, dealer=dealer, say=say, cluster=cluster, league=league)

    # ----- what the training loop asks -----

    def training(self, step: int) -> list[Match]:
        """Return the matches of one step against the opponents drawn for it."""
        matches = LeagueDealer(dealer=self.dealer, league=self.league).training(step)
        past = {past_name(version) for version in self.league.snapshots}
        self._dealt.append((step, {name for match in matches for name in match.players.values()} & past))
        self._introduce()
        return matches

    def evaluation(self, version: int, *, conversations: int) -> list[Match]:
        """Return matches on held-out scenarios against the policy as it was before training."""
        return LeagueDealer(dealer=self.dealer, league=self.league).evaluation(version, conversations=conversations)

    # ----- what happens -----

    def finish(self, step: int, conversations: Sequence[Conversation], *, version: int) -> dict[str, float]:
        """Take in a step, make a snapshot when one is due, and return what the step's metrics say of the league.

        conversations: in the order of their ids; version: of the policy after the step's update.
        """
        while self._dealt and self._dealt[0][0] <= step:
            self._dealt.popleft()
        self.league.record(conversations)
        self._make_due_snapshot(version)
        write_whole(self.folder / LEAGUE_FILE, self._as_bytes())
        return self.league.metrics()

    def save(self, folder: Path) -> None:
        """Write the league into a checkpoint's folder."""
        write_whole(folder / LEAGUE_FILE, self._as_bytes())

    def restore(self, folder: Path) -> None:
        """Go on from the league in a checkpoint's folder, whose policy the cluster has taken over.

        A snapshot that was due then and could not be written is made now; RUN/league.json goes back too.
        Raises UserError if the league is not there, or a past policy of its pool is not whole and `league.missing` is
        stop.
        """
        file = folder / LEAGUE_FILE
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            self.league = League.from_json(data, settings=self.settings.league, seed=self.settings.seed)
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} has no {LEAGUE_FILE}: the run had no league then, so partner=league cannot go on from it"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{file} cannot be read: {reason(error)}") from error
        self._check_snapshots()
        self._dealt.clear()
        self._make_due_snapshot(checkpoint.version_of(folder))
        write_whole(self.folder / LEAGUE_FILE, self._as_bytes())
        self._introduce()

    def _make_due_snapshot(self, version: int) -> None:
        if version % self.settings.league.save_steps or version in self.league.snapshots:
            return
        info = {"model": self.settings.model, "method": self.settings.learner.method}
        place = checkpoint.LEAGUE
        checkpoint.write(self.folder, version, self.cluster.save_policy, info=info, keep=None, place=place)
        self.league.add(version)
        self._introduce()

    def _check_snapshots(self) -> None:
        """Stop, or go on without those that may be met and are not as they were written."""
        for version in self.league.pool:
            try:
                checkpoint.check(trained.past_policy(self.folder, version))
            except UserError as error:
                if self.settings.league.missing == "stop":
                    raise UserError(
                        f"the past policy {past_name(version)} of the league cannot be met any more: {error}; put it "
                        "back, or go on without it with league.missing=skip"
                    ) from error
                self.say(f"going on without the past policy {past_name(version)}: {error}")
                self.league.drop(version)

    def _introduce(self) -> None:
        """Tell the play workers of whom they may meet: the pool, and who left it while dealt matches name them."""
        names = {past_name(version): version for version in self.league.snapshots}
        wanted = {past_name(version) for version in self.league.pool}.union(*(names for _, names in self._dealt))
        self.cluster.introduce(
            {name: trained.past_policy(self.folder, version) for name, version in names.items() if name in wanted}
        )

    def _as_bytes(self) -> bytes:
        return json.dumps(self.league.to_json(), indent=1, allow_nan=False).encode() + b"\n"
