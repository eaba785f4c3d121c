"""The proof of an algorithm.  Legend for shapes: B trajectories, T tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from selfplay.contracts.spot import Spot, call, plugin_label
from selfplay.interfaces import Algorithm, Outputs

if TYPE_CHECKING:
    import torch

    from selfplay.experience import Batch

LOSS_TOLERANCE = 1e-5


def check_algorithm(algorithm: Algorithm) -> None:
    """Raise PluginError for the first promise of `selfplay.interfaces.Algorithm` that is broken.

    Its state must be plain data; `prepare` and `loss` must be pure, and blind to padding and to tokens nobody acted;
    the losses of a split batch must add up to that of the whole.
    """
    spot = Spot(plugin=plugin_label(algorithm, "algorithm"))
    batch = sample_batch()
    state = call(spot, "initial_state", algorithm.initial_state)
    _check_plain(spot, "initial_state", state)
    prepared, after = _prepare(spot, algorithm, batch, state)
    _check_plain(spot, "prepare", after)
    if prepared.advantages is None or prepared.advantages.shape != batch.tokens.shape:
        raise spot.broken("prepare", "gave no advantages of shape [B, T]", "every acted token needs one")
    if not bool(prepared.advantages.isfinite().all()):
        raise spot.broken("prepare", "gave advantages that are not finite", "a constant reward must give 0, not NaN")
    _check_padding(spot, algorithm, batch, prepared, state)
    whole, gradient = _loss(spot, algorithm, prepared)
    if bool(gradient[~batch.acted].abs().max() > 0):
        raise spot.broken("loss", "has a gradient where nothing was acted", "heard tokens and padding are context")
    _check_split(spot, algorithm, prepared, whole)


def sample_batch() -> Batch:
    """Return a small batch: two groups, two roles, rows of different length, a turn without reward.

    The third row was truncated, and the fourth played by an older version.
    """
    import numpy as np
    import torch

    from selfplay.experience import Trajectory, pad

    def trajectory(group: str, index: int, runs: list[tuple[int, int]], rewards: list[float]) -> Trajectory:
        sizes = [size for run in runs for size in run]
        acted = np.repeat([False, True] * len(runs), sizes)
        values = np.zeros(sum(sizes), dtype=np.float32)
        values[np.cumsum(sizes)[1::2] - 1] = rewards
        return Trajectory(
            conversation=f"{group}-{index}",
            group=group,
            version=0,
            truncated=False,
            roles=("a", "b"),
            tokens=np.arange(1, sum(sizes) + 1, dtype=np.int32),
            acted=acted,
            role_index=np.zeros(sum(sizes), dtype=np.int8),
            turn=np.repeat(np.arange(len(runs)) * 2, [sum(run) for run in runs]).astype(np.int32),
            logprobs=np.where(acted, -0.5, 0.0).astype(np.float32),
            rewards=values,
        )

    batch = pad(
        [
            trajectory("000000-g00", 0, [(2, 3), (1, 2)], [1.0, 0.5]),
            trajectory("000000-g00", 1, [(2, 2)], [0.0]),
            trajectory("000000-g01", 0, [(1, 1), (2, 1)], [0.3, 0.3]),
            trajectory("000000-g01", 1, [(1, 1), (2, 1)], [0.3, 0.3]),
        ]
    )
    return replace(
        batch,
        truncated=torch.tensor([False, False, True, False]),
        stale=torch.tensor([False, False, False, True]),
        parts={"total": batch.rewards},
        weights={"total": 1.0},
        reference=batch.logprobs - 0.1 * batch.acted,
        values=0.2 * batch.acted,
        last_values=torch.full((4,), 0.25),
    )


def _prepare(
    spot: Spot, algorithm: Algorithm, batch: Batch, state: Mapping[str, Any]
) -> tuple[Batch, Mapping[str, Any]]:
    before = {field.name: _copy(getattr(batch, field.name)) for field in fields(batch)}
    written = json.dumps(state)
    prepared, after = call(spot, "prepare", algorithm.prepare, batch, state)
    changed = [name for name, value in before.items() if not _is_same(value, getattr(batch, name))]
    if changed or json.dumps(state) != written:
        raise spot.broken("prepare", f"changed {(changed or ['state'])[0]}", "it must return a new batch and state")
    again, _ = call(spot, "prepare", algorithm.prepare, batch, state)
    if not _is_same(prepared.advantages, again.advantages):
        raise spot.broken("prepare", "gave other advantages the second time", "it depends on its arguments only")
    return prepared, after


def _check_padding(spot: Spot, algorithm: Algorithm, batch: Batch, prepared: Batch, state: Mapping[str, Any]) -> None:
    noisy = {
        name: getattr(batch, name).masked_fill(~batch.exists, 7)
        for name in ("tokens", "role_index", "logprobs", "rewards", "reference", "values")
    }
    parts = {name: part.masked_fill(~batch.exists, 7) for name, part in batch.parts.items()}
    other, _ = call(spot, "prepare", algorithm.prepare, replace(batch, **noisy, parts=parts), state)
    if not _is_same(prepared.advantages, other.advantages):
        raise spot.broken("prepare", "gave other advantages for other padding", "only acted tokens count")


def _loss(spot: Spot, algorithm: Algorithm, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    logprobs = (batch.logprobs * 1.1).requires_grad_()
    entropy, divergence = -logprobs * batch.acted, logprobs.square() * batch.acted
    outputs = Outputs(logprobs=logprobs, entropy=entropy, divergence=divergence, values=logprobs * batch.acted)
    value = call(spot, "loss", algorithm.loss, outputs, batch).value
    if value.shape != () or not bool(value.isfinite()):
        raise spot.broken("loss", f"is {value}", "it must be one finite number")
    return value.detach(), torch.autograd.grad(value, logprobs)[0]


def _check_split(spot: Spot, algorithm: Algorithm, prepared: Batch, whole: torch.Tensor) -> None:
    from selfplay.experience import rows_of

    parts = [_loss(spot, algorithm, rows_of(prepared, rows))[0] for rows in ((0, 3), (1,), (2,))]
    difference = float((sum(parts) - whole).abs())
    if difference > LOSS_TOLERANCE:
        problem = f"of a split batch is off by {difference:.2g}"
        raise spot.broken("loss", problem, "divide by batch.num_acted, which is that of the whole")


def _check_plain(spot: Spot, method: str, state: object) -> None:
    try:
        same = json.loads(json.dumps(state, allow_nan=False)) == state
    except (TypeError, ValueError):
        same = False
    if not same:
        raise spot.broken(method, "returned a state that JSON cannot hold", "it is saved in checkpoints")


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _copy(item) for name, item in value.items()}
    return value.clone() if hasattr(value, "clone") else value


def _is_same(first: Any, second: Any) -> bool:
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(_is_same(first[name], second[name]) for name in first)
    return bool((first == second).all()) if hasattr(first, "all") else bool(first == second)
