"""The two files that `reward new` writes: a reward that works, to be changed, and its test."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfplay.errors import UserError

__all__ = ["NewReward", "write_reward"]

NAME = re.compile(r"[a-z][a-z0-9_]*")
TEST_NAMES = ("asked", "check_reward", "heard", "message", "partner_turn", "reward", "turn", "word")
# Modules of these names would hide ours in the folder that they are written to.
OWN_MODULES = ("envs", "rewards", "selfplay")

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
    _check_name(name, taken)
    texts = {folder / f"{name}.py": REWARD.format(name=name), folder / f"test_{name}.py": TEST.format(name=name)}
    for file in texts:
        if file.exists():
            raise UserError(f"{file} exists already; give another name or out=FOLDER, nothing is overwritten")
    for file, text in texts.items():
        _write(file, text)
    reward, test = texts
    return NewReward(reward=reward, test=test)


def _is_installed(name: str) -> bool:
    """Whether a package or module of that name is there; a file in the folder where this runs is none."""
    found = importlib.util.find_spec(name)
    return found is not None and (found.origin is None or Path(found.origin).parent != Path.cwd())


def _check_name(name: str, taken: Sequence[str]) -> None:
    if not NAME.fullmatch(name) or name.startswith("test_"):
        raise UserError(
            f"{name!r} cannot be the name of a reward: it is a function's, small letters, digits and underlines, "
            "without test_ before it, such as asks_back"
        )
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UserError(f"{name!r} is a word of Python's; give the reward another name")
    if name in TEST_NAMES or hasattr(builtins, name):
        raise UserError(
            f"{name!r} has a meaning in Python, or in the test that is written; give the reward another name"
        )
    if name in sys.stdlib_module_names or name in OWN_MODULES or _is_installed(name):
        raise UserError(f"{name}.py would hide the module {name!r}; give the reward another name")
    if name in taken:
        raise UserError(f"there is a reward {name!r} already; give yours another name")


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from error
