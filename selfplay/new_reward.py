"""The two files that `reward new` writes: a reward that works, to be changed, and its test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfplay.errors import UserError
from selfplay.new_files import check_module_name, write_files

__all__ = ["NewReward", "write_reward"]

TEST_NAMES = ("asked", "check_reward", "heard", "message", "partner_turn", "reward", "turn", "word")

REWARD = '''"""The reward {name}: what a message is worth, as a number from 0 to 1."""

from selfplay import reward


@reward(range=(0, 1))
def {name}(turn, partner_turn):
    """1 for a message that takes up a longer word of the message before it, else 0.

    Change what it returns.  It may also ask for conversation, scenario, role, next_turn, history, messages, group or
    log.  None means that it does not apply to the message.
    Exploit: an echo of the partner; -r copying=1 beside it takes that away.
    """
    if partner_turn is None:
        return None
    heard = {{word for word in partner_turn.text.lower().split() if len(word) > 4}}
    return any(word in heard for word in turn.text.lower().split())
'''

TEST = '''"""The reward {name} on messages whose numbers are known by hand."""

from {name} import {name}
from selfplay.contracts import check_reward
from selfplay.dialog import Turn


def message(role, text):
    return Turn(role=role, text=text, heard_text="", player="scripted")


def test_{name}_pays_for_a_word_of_the_message_before():
    asked = message("host", "Do you like gardens?")
    assert {name}(message("guest", "Which gardens? I like them all."), asked) == 1
    assert {name}(message("guest", "I do."), asked) == 0


def test_{name}_does_not_apply_to_the_first_message():
    assert {name}(message("host", "Hello."), None) is None


def test_{name}_keeps_the_contract_of_a_reward():
    check_reward({name})
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReward:
    """The files that were written."""

    reward: Path
    test: Path


def write_reward(name: str, folder: Path, *, taken: Sequence[str] = ()) -> NewReward:
    """Write NAME.py and test_NAME.py into a folder, which is made if need be.

    Raises UserError for a name that a function or a module cannot have or that is taken, and where a file exists.
    """
    check_module_name(name, what="reward", example="asks_back", taken=taken)
    if name in TEST_NAMES:
        raise UserError(f"{name!r} has a meaning in the test that is written; give the reward another name")
    texts = {folder / f"{name}.py": REWARD.format(name=name), folder / f"test_{name}.py": TEST.format(name=name)}
    write_files(texts)
    reward, test = texts
    return NewReward(reward=reward, test=test)
