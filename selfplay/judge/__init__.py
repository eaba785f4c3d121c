"""A language model that says which of two dialogs follows a principle better, or how good one message is."""
