"""The rewards that come with the package, by name."""

from __future__ import annotations

from rewards.affect import Cheerful, Compliments, Laughter, Politeness, Supportive
from rewards.asking import OpenQuestion, Question, QuestionDensity, QuestionMarks
from rewards.coherence import Coherence, CoherenceTfidf
from rewards.engagement import ConversationLength, OwnLength, Stopping, WordsElicited
from rewards.guards import FunctionWords, Unanswered
from rewards.judge import JudgeReward
from rewards.language import (
    CutReply,
    DistinctWords,
    EmptyReply,
    OnlyQuestionWords,
    TooLong,
    UnknownWords,
    WellFormed,
)
from rewards.likelihood import ReferenceNll
from rewards.outcome import Payoff, SharedPayoff
from rewards.preference import PreferenceReward
from rewards.repetition import (
    ConversationRepetition,
    Copying,
    NgramLoops,
    SaidBefore,
    SelfOverlap,
    UtteranceRepetition,
)
from rewards.safety import ClassifierReward, PersonalData, PrivateLeak, Profanity
from rewards.sentiment import Sentiment, SentimentTransition

REWARDS: dict[str, type] = {
    "cheerful": Cheerful,
    "classifier": ClassifierReward,
    "coherence": Coherence,
    "coherence_tfidf": CoherenceTfidf,
    "compliments": Compliments,
    "conversation_length": ConversationLength,
    "conversation_repetition": ConversationRepetition,
    "copying": Copying,
    "cut": CutReply,
    "distinct_words": DistinctWords,
    "empty": EmptyReply,
    "function_words": FunctionWords,
    "judge": JudgeReward,
    "laughter": Laughter,
    "ngram_loops": NgramLoops,
    "only_question_words": OnlyQuestionWords,
    "open_question": OpenQuestion,
    "own_length": OwnLength,
    "payoff": Payoff,
    "personal_data": PersonalData,
    "politeness": Politeness,
    "private_leak": PrivateLeak,
    "profanity": Profanity,
    "question": Question,
    "question_density": QuestionDensity,
    "question_marks": QuestionMarks,
    "reference_nll": ReferenceNll,
    "rm": PreferenceReward,
    "said_before": SaidBefore,
    "self_overlap": SelfOverlap,
    "sentiment": Sentiment,
    "sentiment_transition": SentimentTransition,
    "shared_payoff": SharedPayoff,
    "stopping": Stopping,
    "supportive": Supportive,
    "too_long": TooLong,
    "unanswered": Unanswered,
    "unknown_words": UnknownWords,
    "utterance_repetition": UtteranceRepetition,
    "well_formed": WellFormed,
    "words_elicited": WordsElicited,
}
