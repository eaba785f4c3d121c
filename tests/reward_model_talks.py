"""Made-up dialogs with a judge whose reward is known: questions are good, tea is better than rain."""

from __future__ import annotations

import numpy as np

from selfplay.reward_model.dialogs import Dialog, Message
from selfplay.reward_model.examples import Example

WORDS = ["cat", "dog", "sun", "rain", "tea", "book", "film", "game", "music", "city", "walk", "cook"]


def dialog_of_texts(*texts: str) -> Dialog:
    """A dialog whose second, fourth, ... message is judged."""
    return Dialog(messages=tuple(Message(text=text, is_focus=bool(place % 2)) for place, text in enumerate(texts)))


def random_dialog(rng: np.random.Generator, *, num_messages: int = 4) -> Dialog:
    texts = [" ".join(rng.choice(WORDS, 5)) + ("?" if rng.random() < 0.5 else ".") for _ in range(num_messages)]
    return dialog_of_texts(*texts)


def hidden_reward(dialog: Dialog) -> float:
    """What the judge feels: the mean over the judged messages of a linear function of their words."""
    texts = [dialog.messages[place].text for place in dialog.focus_places]
    return float(np.mean([2 * text.endswith("?") + ("tea" in text) - ("rain" in text) for text in texts]))


def judged_pairs(num: int, *, seed: int, flipped: float = 0.0, num_messages: int = 4) -> list[Example]:
    """Pairs of which the judge prefers one, a share of the labels turned round; without equal ones."""
    rng = np.random.default_rng(seed)
    examples: list[Example] = []
    while len(examples) < num:
        dialogs = (random_dialog(rng, num_messages=num_messages), random_dialog(rng, num_messages=num_messages))
        better = hidden_reward(dialogs[0]) - hidden_reward(dialogs[1])
        if better:
            target = float((better > 0) != (rng.random() < flipped))
            key = f"{seed}-{len(examples)}"
            examples.append(Example(dialogs=dialogs, kind="pair", targets=(target,), source="judge", keys=(key,)))
    return examples
