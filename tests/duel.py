"""A game for tests of imitation: two roles, two turns each, and one of them wins."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from selfplay.dialog import Action, Conversation, Finish, Outcome, PlayerInfo, Scenario, Split, Turn
from selfplay.interfaces import Completion, Request, Weights

ROLES = ("left", "right")


@dataclass(frozen=True, slots=True, kw_only=True)
class Duel:
    """`left` wins where the seed is even: payoffs differ by role, and the aim is always reached."""

    name: ClassVar[str] = "duel"
    roles: ClassVar[tuple[str, str]] = ROLES
    zero_sum: ClassVar[bool] = True

    turns: int = 4

    def scenario(self, seed: int, split: Split) -> Scenario:
        return Scenario(env=self.name, seed=seed, split=split, roles=ROLES, public={"seed": seed})

    def next_role(self, conversation: Conversation) -> str | None:
        return None if conversation.num_turns >= self.turns else ROLES[conversation.num_turns % 2]

    def brief(self, scenario: Scenario, role: str) -> str:
        return f"You are {role}."

    def hears(self, conversation: Conversation, role: str) -> str:
        return conversation.turns[-1].text if conversation.turns else ""

    def parse(self, conversation: Conversation, turn: int) -> Action | None:
        return None

    def outcome(self, conversation: Conversation) -> Outcome:
        sign = 1.0 if conversation.scenario.seed % 2 == 0 else -1.0
        payoff = {"left": sign, "right": -sign}
        return Outcome(status="terminated", reason="agreement", facts={"success": True}, payoff=payoff)

    def scripted(self, conversation: Conversation, role: str) -> str:
        return f"{role} says {conversation.num_turns}, isn't that <|im_end|> odd?\nYes."


def duel(seed: int, *, finishes: tuple[Finish, ...] = ("stop",) * 4, outcome: Outcome | None = None) -> Conversation:
    """Return a duel that two policies played, of which that of `left` was trained; texts only."""
    env = Duel()
    players = {
        role: PlayerInfo(policy=policy, model="tiny", trained=policy == "learner", brief=f"You are {role}.")
        for role, policy in zip(ROLES, ("learner", "frozen"), strict=True)
    }
    scenario = env.scenario(seed, "train")
    conversation = Conversation(id=f"000000-g{seed:02d}-0", scenario=scenario, players=players)
    for finish in finishes:
        role = ROLES[conversation.num_turns % 2]
        turn = Turn(
            role=role,
            text=env.scripted(conversation, role),
            heard_text=env.hears(conversation, role),
            player=players[role].label,
            finish=finish,
        )
        conversation = replace(conversation, turns=(*conversation.turns, turn))
    return replace(conversation, outcome=outcome or env.outcome(conversation))


@dataclass
class FluentGenerator:
    """Answers as a model that says what the game's scripts say, token by token."""

    env: Duel
    bridge: object
    queue: list[Request] = field(default_factory=list)

    def submit(self, request: Request) -> None:
        self.queue.append(request)

    def step(self) -> list[Completion]:
        queue, self.queue = self.queue, []
        return [self._answer(request) for request in queue]

    def close(self, stream: str) -> None:
        pass

    def load(self, policy: str, weights: Weights) -> None:
        raise AssertionError("nothing is trained here")

    def _answer(self, request: Request) -> Completion:
        said = self.bridge.saying(self.env.scripted(request.conversation, request.role))
        logprobs = (0.0 * said).astype("float32")
        return Completion(request=request, said=said, logprobs=logprobs, finish="stop", version=request.version or 0)
