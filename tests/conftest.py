"""What every test may ask for."""

from __future__ import annotations

import pytest
import torch

from selfplay import models

# The suite shares its machine with others, and one thread gives the same numbers everywhere.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> models.LoadedModel:
    """The two-layer random model over bytes, of seed 0."""
    return models.load("tiny", device="cpu")
