"""Reward models: what is learnt from preferences, and what it is learnt from."""
