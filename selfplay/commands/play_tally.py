"""What a run of `play` made, counted as conversations end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from selfplay.best_of import Choice
from selfplay.commands.terminal import one_line, plural, share
from selfplay.dialog import Conversation

__all__ = ["Tally"]


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was played, and what it was chosen from."""

    by: str = ""  # what chose, for people; empty: nothing was chosen
    unit: str = "conversation"  # what was chosen: conversation or turn
    conversations: int = 0
    turns: int = 0
    cut: int = 0
    said: int = 0  # tokens of the conversations that stayed
    failed: int = 0
    first_error: str = ""
    silent: int = 0  # cut by a limit before a word was said
    over: int = 0  # replays of conversations that had ended already
    seconds: float = 0.0
    choices: list[Choice] = field(default_factory=list)

    def add(self, conversation: Conversation, *, num_past: int, seconds: float, choices: Sequence[Choice] = ()) -> None:
        """Count a conversation's turns but for its first `num_past`, which were stored before."""
        new = conversation.turns[num_past:]
        self.seconds = seconds
        self.conversations += 1
        self.turns += len(new)
        self.cut += sum(turn.is_cut for turn in new)
        self.said += sum(len(turn.said) for turn in new)
        self.choices.extend(choices)
        if not new and conversation.outcome is not None:
            self.silent += conversation.outcome.status == "truncated"
            self.over += conversation.outcome.status == "terminated"
        if conversation.error is not None:
            self.failed += 1
            self.first_error = self.first_error or conversation.error

    @property
    def sampled(self) -> int:
        """How many tokens were said, those of the candidates that did not stay among them."""
        return sum(choice.num_tokens for choice in self.choices) if self.choices else self.said

    @property
    def tokens_per_second(self) -> float:
        """The rate at which tokens were sampled, whatever became of them."""
        return self.sampled / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """Return all counts; what was chosen from only where something was chosen."""
        known = {
            "conversations": self.conversations,
            "turns": self.turns,
            "cut_turns": self.cut,
            "said_tokens": self.said,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
        }
        if not self.choices:
            return known
        kept, candidates = self._kept_values(), self._candidate_values()
        chosen = {
            "kept": len(self.choices),
            "candidates": self._num_candidates(),
            "sampled_tokens": self.sampled,
            "mean_reward_kept": round(fmean(kept), 6) if kept else None,
            "mean_reward_candidates": round(fmean(candidates), 6) if candidates else None,
        }
        return {**known, "best_of": chosen}

    def lines(self) -> list[str]:
        """Return what a person wants to know at the end."""
        rate = f" ({self.tokens_per_second:.0f} tokens/s)" if self.sampled and self.seconds else ""
        counted = f"{plural(self.conversations, 'conversation')}, {plural(self.turns, 'turn')}, {self.said} tokens said"
        cut = f"{share(self.cut, self.turns)} of the turns were cut by a limit" if self.turns else "nobody spoke"
        took = f"in {self.seconds:.1f} s{rate}"
        if not self.choices:
            return [f"{counted} {took}; {cut}"]
        kept = str(len(self.choices)) if self.unit == "conversation" else plural(len(self.choices), "turn")
        drawn = f"{kept} kept of {plural(self._num_candidates(), 'candidate')}, {self.sampled} tokens sampled {took}"
        return [f"{counted}; {drawn}; {cut}", *self._worth()]

    def _worth(self) -> list[str]:
        kept, candidates = self._kept_values(), self._candidate_values()
        if not kept:
            return ["no candidate could be ranked: all failed, or said nothing"]
        each = " a turn" if self.unit == "conversation" else ""
        is_all = len(candidates) == self._num_candidates()
        which = "all candidates" if is_all else f"the {plural(len(candidates), 'candidate')} that could be ranked"
        worth = f"{fmean(kept):z.2f} of those kept, {fmean(candidates):z.2f} of {which}"
        return [one_line(f"mean reward{each} by {self.by}: {worth}")]

    def _num_candidates(self) -> int:
        return sum(len(choice.values) for choice in self.choices)

    def _kept_values(self) -> list[float]:
        chosen = [choice.values[choice.chosen] for choice in self.choices]
        return [value for value in chosen if not math.isnan(value)]

    def _candidate_values(self) -> list[float]:
        return [value for choice in self.choices for value in choice.values if not math.isnan(value)]
