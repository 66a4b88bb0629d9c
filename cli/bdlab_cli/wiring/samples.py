"""Reviews that `bdlab demo` sends, written for it: (summary, text, found helpful by, votes)."""

from __future__ import annotations

from typing import NamedTuple


class Sample(NamedTuple):
    summary: str
    text: str
    helpful: int
    votes: int

    def as_request(self) -> dict[str, str | int]:
        """The body of POST /predict."""
        return {
            "text": self.text,
            "summary": self.summary,
            "HelpfulnessNumerator": self.helpful,
            "HelpfulnessDenominator": self.votes,
        }


#: The first is the reference request of the documentation.
OVER_HTTP = (
    Sample("Product review", "This product is terrible!", 1, 1),
    Sample(
        "Our new morning tea",
        "Smooth, full of flavour and not bitter at all. The family loves it, and we have ordered it again.",
        4,
        4,
    ),
    Sample(
        "Stale",
        "The crackers arrived stale and half of them were crushed. I threw the box away: money back, please.",
        7,
        8,
    ),
    Sample(
        "Nothing special",
        "Just average: mostly vinegar, too little heat, and expensive for the size. I will try another one.",
        2,
        5,
    ),
    Sample(
        "My cat asks for more",
        "The best food we have tried so far. She is picky, yet the bowl is empty in a minute. Recommended!",
        3,
        3,
    ),
    Sample(
        "Weak coffee",
        "Very disappointed. The cups brew a thin, watery coffee with a burnt taste. A waste of money.",
        11,
        12,
    ),
)

FROM_FILE = (
    Sample(
        "Delicious and easy",
        "These noodles are delicious, ready in four minutes, and a great price for a pack of twelve.",
        6,
        6,
    ),
    Sample(
        "Ingredients have changed",
        "I bought this for years, but the new recipe tastes awful and artificial. I will not buy it again.",
        15,
        17,
    ),
    Sample(
        "Good, but too sweet",
        "The granola is crunchy and the nuts are fresh. For me there is too much sugar in it, so four stars.",
        1,
        2,
    ),
    Sample("Perfect gift", "Wonderful chocolate, beautifully packed, and it arrived early. Thank you!", 2, 2),
    Sample(
        "Leaking bottle",
        "The bottle leaked all over the parcel. The oil may be fine, but I never found out. No refund.",
        3,
        4,
    ),
    Sample(
        "A pantry staple",
        "Excellent beans with a rich, nutty taste. We use them in soups, salads and chili every week.",
        5,
        5,
    ),
)
