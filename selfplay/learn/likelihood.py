"""How likely a model finds what was said.

Legend: B trajectories, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from selfplay.experience import Trajectory, by_length, pad
from selfplay.interfaces import Likelihood, TokenNumbers
from selfplay.learn.model import score_tokens
from selfplay.learn.report import by_turn


@torch.no_grad()
def likelihoods(
    model: PreTrainedModel,
    trajectories: Sequence[Trajectory],
    *,
    temperature: float = 1.0,
    tokens_per_microbatch: int = 2048,
) -> list[Likelihood]:
    """Return what a frozen model says of the acted tokens of each conversation, in the order they first appear.

    Token for token it is the model's log-probability, and k1: the sampler's minus the model's.
    temperature: the one that the tokens were sampled at; tokens_per_microbatch: padded, scored at once.
    A conversation without acted tokens counts 0 of everything.
    """
    counts = {trajectory.conversation: (0, 0.0, 0.0) for trajectory in trajectories}
    tokens_of: dict[str, dict[int, TokenNumbers]] = {conversation: {} for conversation in counts}
    acting = [trajectory for trajectory in trajectories if trajectory.acted.any()]
    device = next(model.parameters()).device
    for rows in by_length(acting, max_tokens=tokens_per_microbatch):
        batch = pad(rows)
        tokens, acted, exists = (part.to(device) for part in (batch.tokens, batch.acted, batch.exists))
        scores = score_tokens(model, tokens, acted, exists=exists, temperature=temperature)
        sums = scores.logprobs.double().sum(dim=1).tolist()  # [B], 0 where not acted
        for trajectory, logprob, padded in zip(rows, sums, scores.logprobs.cpu().numpy(), strict=True):
            reference = padded[: trajectory.num_tokens]
            columns = {"logprobs_reference": reference, "kl": trajectory.logprobs - reference}
            tokens_of[trajectory.conversation].update(by_turn(trajectory, columns))
            num_tokens, nll, kl = counts[trajectory.conversation]
            sampled = float(trajectory.logprobs.sum(dtype="float64"))
            counts[trajectory.conversation] = (
                num_tokens + int(trajectory.acted.sum()),
                nll - logprob,
                kl + sampled - logprob,
            )
    return [
        Likelihood(conversation=conversation, num_tokens=num_tokens, nll=nll, kl=kl, tokens=tokens_of[conversation])
        for conversation, (num_tokens, nll, kl) in counts.items()
    ]
