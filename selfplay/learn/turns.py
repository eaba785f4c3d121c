"""Between tokens and steps: a batch's acted tokens as a table with one row a (trajectory, role).

A step, a column of the table, is a role's own turn, or each of its own tokens.
Legend: B trajectories, T tokens, S rows of the table, K own steps, N acted tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from selfplay.experience import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnTable:
    """Where each acted token stands in the table; what is not acted is in no step."""

    acted: Tensor  # [B, T] bool
    row: Tensor  # [N] int64, of the acted tokens in the order of `acted.nonzero()`
    column: Tensor  # [N] int64
    exists: Tensor  # [S, K] bool
    group: Tensor  # [S] int64: same scenario and same role
    trajectory: Tensor  # [S] int64: which row of the batch it is of
    role: tuple[int, ...]  # [S] role index of each row

    @classmethod
    def of(cls, batch: Batch) -> TurnTable:
        """Return the table of a batch's own turns, in the order they were spoken."""
        rows, places = batch.acted.nonzero(as_tuple=True)
        triples = torch.stack([rows, batch.role_index[rows, places], batch.turn[rows, places]], dim=1)  # [N, 3]
        speakers, row = torch.unique(triples[:, :2], dim=0, return_inverse=True)  # [S, 2], [N]
        turns, place = torch.unique(triples, dim=0, return_inverse=True)  # sorted: [number of turns, 3], [N]
        first = torch.ones(len(turns), dtype=torch.bool)
        first[1:] = (turns[1:, :2] != turns[:-1, :2]).any(dim=1)
        starts = first.nonzero()[:, 0]
        # A turn's column is how many turns of its row were before it.
        column_of_turn = torch.arange(len(turns)) - starts[first.cumsum(0) - 1]
        column = column_of_turn[place]
        num_columns = int(column.max()) + 1 if len(column) else 0
        exists = torch.zeros(len(speakers), num_columns, dtype=torch.bool)
        exists[row, column] = True
        labels = torch.stack([batch.group[speakers[:, 0]], speakers[:, 1]], dim=1)
        _, group = torch.unique(labels, dim=0, return_inverse=True)
        roles = tuple(speakers[:, 1].tolist())
        return cls(
            acted=batch.acted,
            row=row,
            column=column,
            exists=exists,
            group=group,
            trajectory=speakers[:, 0],
            role=roles,
        )

    @classmethod
    def of_tokens(cls, batch: Batch) -> TurnTable:
        """Return the table in which every own token is a step."""
        places = torch.arange(batch.turn.shape[1]).expand_as(batch.turn)
        return cls.of(replace(batch, turn=places))

    def gather(self, values: Tensor) -> Tensor:
        """Return the sum of token values [B, T] over each step: [S, K], 0 where there is none."""
        table = torch.zeros(self.exists.shape, dtype=values.dtype)
        return table.index_put((self.row, self.column), values[self.acted], accumulate=True)

    def first(self, values: Tensor) -> Tensor:
        """Return the token value [B, T] at each step's first token: [S, K], 0 where there is none."""
        place = torch.stack([self.row, self.column])
        is_first = torch.ones_like(self.row, dtype=torch.bool)
        is_first[1:] = (place[:, 1:] != place[:, :-1]).any(dim=0)
        table = torch.zeros(self.exists.shape, dtype=values.dtype)
        return table.index_put((self.row[is_first], self.column[is_first]), values[self.acted][is_first])

    def spread(self, table: Tensor) -> Tensor:
        """Return for every acted token its step's number from a table [S, K]: [B, T], 0 elsewhere."""
        values = torch.zeros(self.acted.shape, dtype=table.dtype)
        values[self.acted] = table[self.row, self.column]
        return values
