"""The rewards that come with the package, by name."""

from __future__ import annotations

from rewards.asking import Question, QuestionDensity, QuestionMarks
from rewards.outcome import Payoff
from rewards.repetition import ConversationRepetition, UtteranceRepetition
from rewards.sentiment import Sentiment

REWARDS: dict[str, type] = {
    "conversation_repetition": ConversationRepetition,
    "payoff": Payoff,
    "question": Question,
    "question_density": QuestionDensity,
    "question_marks": QuestionMarks,
    "sentiment": Sentiment,
    "utterance_repetition": UtteranceRepetition,
}
