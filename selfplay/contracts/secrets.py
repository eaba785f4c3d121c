"""The proof that no role is told what another alone knows: its texts are looked for, and its values exchanged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from selfplay.contracts.spot import Spot
from selfplay.contracts.starts import opening
from selfplay.dialog import Conversation, Scenario
from selfplay.interfaces import Env

__all__ = ["check_exchanged", "check_told"]

AROUND = 24  # characters shown on either side of where two texts differ


def check_told(spot: Spot, method: str, text: str, conversation: Conversation, role: str) -> None:
    """Raise PluginError if a text for one role holds a private text of another, as whole words.

    Texts that are public, the role's own, or were said before are no secrets.
    """
    scenario = conversation.scenario
    known = [*_texts_in(scenario.public), *_texts_in(scenario.private.get(role, {}))]
    known += [((), turn.text) for turn in conversation.turns]
    for other in scenario.roles:
        for path, secret in _texts_in(scenario.private.get(other, {})) if other != role else ():
            if _holds(text, secret) and not any(_holds(already, secret) for _, already in known):
                place = f"scenario.private[{other!r}]{''.join(f'[{key!r}]' for key in path)}"
                problem = f"tells {role} {secret!r}, which {place} keeps for {other} alone"
                right = (
                    f"leave it out of what {role} reads; or, if {role} may know it, put it into scenario.public, as "
                    "with the words of a table that both roles see"
                )
                raise spot.broken(method, problem, right)


def check_exchanged(spot: Spot, env: Env, scenarios: Sequence[Scenario], *, others: Sequence[Scenario]) -> int:
    """Raise PluginError if a role's brief, or what it hears at first, changes with another role's private part.

    In each scenario the private part of each role is exchanged for a different one of another scenario, or of `others`
    if all are the same, numbers included.  A value that `public`, or another role's part, has under the same name is no
    secret and stays.  Where the environment raises an error because the private part must fit the public one, nothing
    can be compared.  Returns the number of parts that were exchanged and compared.
    """
    num_compared = 0
    for index, scenario in enumerate(scenarios):
        donors = [*scenarios[index + 1 :], *scenarios[:index], *others]
        for role in scenario.roles if len(scenario.roles) > 1 else ():
            num_compared += _is_compared(spot, env, scenario, role, donors)
    return num_compared


def _is_compared(spot: Spot, env: Env, scenario: Scenario, role: str, donors: Sequence[Scenario]) -> bool:
    told = _told(env, scenario)
    for donor in donors:
        exchanged = _exchanged(scenario, role, donor)
        if exchanged is None:
            continue
        try:
            told_then = _told(env, exchanged)
        except Exception:  # noqa: BLE001 (the private part need not fit this scenario)
            continue
        for (method, reader), text in told.items():
            if reader != role and (other := told_then[method, reader]) != text:
                here = replace(spot, seed=scenario.seed, split=scenario.split, turn=0)
                raise here.broken(method, *_leak(role, reader, donor, (text, other)))
        return True
    return False


def _exchanged(scenario: Scenario, role: str, donor: Scenario) -> Scenario | None:
    """Return the scenario with the role's secrets of another one; None: they are the same, or it has none."""
    own, given = scenario.private.get(role, {}), donor.private.get(role, {})
    known = [scenario.public, *(part for other, part in scenario.private.items() if other != role)]
    secrets = {key for key in own if not any(key in part and part[key] == own[key] for part in known)}
    changed = {key: given[key] for key in secrets if key in given and given[key] != own[key]}
    return replace(scenario, private={**scenario.private, role: {**own, **changed}}) if changed else None


def _told(env: Env, scenario: Scenario) -> Mapping[tuple[str, str], str]:
    """Return what each role reads before anyone spoke, by method and role."""
    start = opening(env, scenario)
    briefs = {("brief", role): player.brief for role, player in start.players.items()}
    return briefs | {("hears", role): env.hears(start, role) for role in scenario.roles}


def _leak(role: str, reader: str, donor: Scenario, texts: tuple[str, str]) -> tuple[str, str]:
    shared = next((n for n, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), min(map(len, texts)))
    here, there = (json.dumps(text[max(0, shared - AROUND) : shared + AROUND], ensure_ascii=False) for text in texts)
    problem = (
        f"tells {reader} something that {role} alone knows: it has {here}, and {there} once scenario.private[{role!r}] "
        f"is exchanged for that of seed {donor.seed}"
    )
    return problem, f"what {reader} reads may depend on scenario.public and private[{reader!r}], not on {role}'s part"


def _texts_in(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[tuple[object, ...], str]]:
    """Yield every text in a JSON value and the keys that lead to it."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _texts_in(item, (*path, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts_in(item, (*path, index))


def _holds(text: str, part: str) -> bool:
    """Whether a text holds the part as whole words, in any case; blank parts are no secret."""
    pattern = rf"(?<!\w){re.escape(part.strip())}(?!\w)"
    return bool(part.strip()) and re.search(pattern, text, re.IGNORECASE) is not None
