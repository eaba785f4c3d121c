"""Readers that answer by a rule, in place of a language model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

OPTION = re.compile(r"\((\w)\) \[\[\[\n(.*?)\n\]\]\]", re.DOTALL)


def options_of(prompt) -> dict[str, str]:
    """Return what stands behind each letter of the question, the last one a prompt asks."""
    return dict(OPTION.findall(prompt[-2]["content"]))


class ScriptedReader:
    """Gives each option the log-probability that a rule gives it, and keeps what it was asked."""

    identity = "script 1"

    def __init__(self, rule: Callable, *, most_characters: int = 10**9) -> None:
        self.rule = rule  # (prompt, option) -> log-probability
        self.most_characters = most_characters
        self.asked = []

    def log_probs(self, prompts, options):
        self.asked += prompts
        return np.array([[self.rule(prompt, option) for option in options] for prompt in prompts])

    def has_room(self, prompt) -> bool:
        return sum(len(message["content"]) for message in prompt) <= self.most_characters

    def said_instead(self, prompt) -> str:
        return "'Sure' (90%)"


def likes_word(word: str, *, bias_to_a: float = 0.0) -> Callable:
    """Return a rule: the log-odds of an option grow by 1 with each time it says a word, and by a bias for being A."""

    def rule(prompt, letter):
        worth = {key: text.count(word) + (bias_to_a if key == "A" else 0.0) for key, text in options_of(prompt).items()}
        return worth[letter] - math.log(sum(math.exp(one) for one in worth.values()))

    return rule
