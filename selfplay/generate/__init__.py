"""From messages to tokens, and from tokens to the next turn."""
