"""What is haggled over, and what the scripted players say."""

from __future__ import annotations

from collections.abc import Mapping

# Things of one kind, and the least and greatest list price, multiples of 5.
ITEMS: tuple[tuple[tuple[str, ...], int, int], ...] = (
    (("road bike", "mountain bike", "folding bike", "city bike", "cargo trailer for a bike"), 100, 600),
    (("office desk", "oak table", "bookshelf", "armchair", "three-seat sofa", "chest of drawers"), 80, 500),
    (("laptop", "desktop computer", "computer monitor", "tablet", "laser printer"), 100, 800),
    (("acoustic guitar", "electric piano", "violin", "drum kit", "saxophone", "accordion"), 120, 900),
    (("film camera", "digital camera", "zoom lens", "tripod with a case", "video projector"), 80, 700),
    (("washing machine", "fridge", "dishwasher", "gas cooker", "tumble dryer"), 100, 600),
    (("cordless drill", "table saw", "tool chest", "air compressor", "pressure washer"), 80, 400),
    (("family tent", "kayak", "inflatable boat", "camping stove", "hiking backpack"), 80, 500),
    (("treadmill", "rowing machine", "weight bench", "exercise bike", "pair of skis"), 80, 700),
    (("mobile phone", "pair of headphones", "smart watch", "game console", "radio with a record player"), 80, 500),
    (("cot with a mattress", "pushchair", "high chair", "doll's house", "train set"), 80, 300),
    (("lawn mower", "garden bench", "hedge trimmer", "greenhouse", "patio heater"), 80, 600),
)
CONDITIONS = ("like new", "lightly used", "well kept", "a bit scratched", "old but working", "just serviced")

# Role -> situation -> what it says; "stay" is an offer that it made before.
LINES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "seller": {
        "open": (
            "Thanks for your interest, it has been looked after. I ask",
            "Hello! It works just as it should. My price is",
            "It is a good one and ready to go. I want",
            "Happy to sell it to you today. I would say",
            "I have kept it with care. Let us begin at",
        ),
        "counter": (
            "That is too low for me, but I can come down to",
            "I understand. Let me meet you part of the way:",
            "It is worth more than that. I could do",
            "You drive a hard bargain. For a quick sale,",
            "I have others asking, but for you",
            "Let us find a middle. My price is now",
        ),
        "stay": (
            "I can go no lower. It stays at",
            "That is a fair price already. Still",
            "I am sorry, I have no room left. Again",
        ),
        "accept": (
            "That works for me. [accept]",
            "All right, it is yours. [accept]",
            "Fine, we have a deal. [accept]",
            "Good, come and pick it up. [accept]",
        ),
        "reject": (
            "I am sorry, that is not enough for me. [reject]",
            "Then I would rather keep it. [reject]",
            "We are too far apart, I am afraid. [reject]",
        ),
    },
    "buyer": {
        "open": (
            "I like it, but my budget is small. I can pay",
            "Hi, I could pick it up today for",
            "It looks nice, but it is used. I would give",
            "I have seen cheaper ones. My first price is",
            "I am interested. Would you take less, say",
        ),
        "counter": (
            "That is still a lot for me. I can go up to",
            "I see your point. Let me raise that to",
            "I really like it, so I would pay",
            "Cash in hand today, I can do",
            "A little more from my side, then:",
            "Let us find a middle. I would pay",
        ),
        "stay": (
            "I can go no higher. It stays at",
            "That is all I have for it. Still",
            "I am sorry, I have no room left. Again",
        ),
        "accept": (
            "That is fine with me. [accept]",
            "All right, I take it. [accept]",
            "Deal, I will come by today. [accept]",
            "Good, that fits my budget. [accept]",
        ),
        "reject": (
            "Sorry, that is more than I can pay. [reject]",
            "Then I will look somewhere else. [reject]",
            "We are too far apart, I am afraid. [reject]",
        ),
    },
}
