"""Self-play reinforcement learning for dialog."""

__version__ = "0.1.0"
