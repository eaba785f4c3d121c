"""Numbers that texts say."""

from __future__ import annotations

import itertools
import time

import pytest

from envs.numbers import Number, numbers_in, only_number

ONE_NUMBER = [
    ("120", 120),
    ("$120", 120),
    ("120.", 120),
    ("$1,200.50", 1200.5),
    ("1,200,000", 1_200_000),
    ("1.2k", 1200),
    ("2K!", 2000),
    ("$1.2 k", 1200),
    ("120 dollars", 120),
    ("120-dollar", 120),
    ("120 bucks.", 120),
    ("£80", 80),
    ("US$ 80", 80),
    ("80usd", 80),
    ("120€", 120),
    ("120$", 120),
    ("**120**", 120),
    ("_120_", 120),
    ("120,-", 120),
    ("(120)", 120),
    ("12.50", 12.5),
    ("0.125", 0.125),
    ("-20", -20),
    ("-$20", -20),
    ("minus twenty", -20),
    ("\u221220", -20),
    ("price - 20", 20),
    ("item-20", 20),
    ("no. 3", 3),
    ("No.3", 3),
    ("#3", 3),
    ("\uff11\uff12\uff10", 120),  # full width
    ("\u0661\u0662\u0660", 120),  # Arabic-Indic
    ("\U0001d7cf\U0001d7d0\U0001d7ce", 120),  # mathematical bold
    ("120\u00a0dollars", 120),  # no-break space
    ("$120 ... yes, 120 dollars", 120),
    ("one hundred and twenty", 120),
    ("One Hundred Twenty", 120),
    ("one-hundred-and-twenty", 120),
    ("a hundred", 100),
    ("a hundred and five bucks", 105),
    ("twelve hundred", 1200),
    ("two thousand three hundred and forty-five", 2345),
    ("two hundred and three thousand", 203_000),
    ("twenty-five", 25),
    ("twenty five", 25),
    ("ninety\tnine", 99),
    ("2 hundred", 200),
    ("1.5 thousand", 1500),
    ("two grand", 2000),
    ("a dozen", 12),
    ("3 dozen", 36),
    ("two dozens", 24),
    ("3 thousands", 3000),
    ("two hundreds", 200),
    ("four score", 80),
    ("4 score", 80),
    ("a score of 120", 120),
    ("my point: 120", 120),
    ("the third, 120", 120),
    ("zero", 0),
    ("one", 1),
    ("number one", 1),
    ("twelve is my one-time price? No: first, 12", 12),
    ("I can take this one for 80", 80),
    ("that red one, for eighty", 80),
    ("one of the chairs for 80", 80),
    ("80 for the second one", 80),
    ("wonderful tenants often weight 90", 90),
    ("the 2nd, for 90", 90),
    ("the twenty-first, for 90", 90),
]
NO_NUMBER = [
    "",
    "   ",
    "half",
    "a half",
    "one half",
    "two thirds",
    "2 thirds",
    "first",
    "twenty-first",
    "one hundred and first",
    "120th",
    "1st",
    "in the 80s",
    "the 80's",
    "B52",
    "2x4",
    "1e3",
    "0x20",
    "v1.2.3",
    "hundreds",
    "several hundred",
    "a couple hundred",
    "someone",
    "one's own",
    "this one",
    "no one",
    "the big one",
    "one another",
    "10\u00b2",  # squared
    "1\u00bd",
    "\u00bd",
    "120 hundredths",
    "120 hundredth",
    "120 tenths",
    "120 twentieths",
    "twenty hundredths",
    "1 third",
    "5 tens",
    "a score",
    "scores",
    "point five",
    "at this point 5",
    ".50",
    "$.50",
    "tent, weight, forth, seventh heaven",
    "onetwothree",
    "9" * 400,
]
SEVERAL = [
    ("twelve-fifty", (12, 50)),
    ("one twenty", (1, 20)),
    ("five twenty-five", (5, 20, 5)),
    ("twenty thirty", (20, 30)),
    ("one two three", (1, 2, 3)),
    ("two hundred and three hundred", (200, 300)),
    ("two hundred three hundred", (2, 100, 3, 100)),
    ("twenty and thirty", (20, 30)),
    ("120 or 130", (120, 130)),
    ("120-150", (120, 150)),
    ("120\u2013150", (120, 150)),
    ("120-150k", (120, 150_000)),
    ("120/150", (120, 150)),
    ("1/2", (1, 2)),
    ("3:30", (3, 30)),
    ("1.200", (1, 200)),
    ("1.200,50", (1, 200, 50)),
    ("1,20", (1, 20)),
    ("1'200", (1, 200)),
    ("1 200", (1, 200)),
    ("1_200", (1, 200)),
    ("1 2 0", (1, 2, 0)),
    ("1\u200b20", (1, 20)),  # a space without width
    ("12.05.2024", (12, 5, 2024)),
    ("2 hundred and fifty", (200, 50)),
    ("two and a half", (2, 0.5)),
    ("120 and a half", (120, 0.5)),
    ("half of 120", (0.5, 120)),
    ("half a dozen", (0.5, 12)),
    ("half 120", (0.5, 120)),
    ("\u00bd 120", (0.5, 120)),
    ("120 \u00bd", (120, 0.5)),
    ("\u2153 of 90", (0.5, 90)),
    ("a third of 90", (0.5, 90)),
    ("three quarters of 80", (0.5, 80)),
    ("three point five", (3, 5)),
    ("0 point 5", (0, 5)),
    ("four score and ten", (80, 10)),
    ("two hundreds and fifty", (200, 50)),
    ("$120$50", (120, 50)),
    ("twenty$ 5", (20, 5)),
    ("a hundred dollars and fifty cents", (100, 50)),
    ("120 5", (120, 5)),
    ("zero twenty", (0, 20)),
    ("1\ufe0f\u20e32\ufe0f\u20e3", (1, 2)),  # keycaps
]


@pytest.mark.parametrize(("text", "value"), ONE_NUMBER)
def test_only_number_of_one_amount_is_its_value(text, value):
    assert only_number(text) == value


@pytest.mark.parametrize("text", NO_NUMBER)
def test_numbers_in_what_is_no_amount_are_none(text):
    assert numbers_in(text) == ()
    assert only_number(text) is None


@pytest.mark.parametrize(("text", "values"), SEVERAL)
def test_numbers_in_what_has_two_readings_are_its_parts(text, values):
    assert tuple(number.value for number in numbers_in(text)) == values
    assert only_number(text) is None


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("80", ""),
        ("$80", "$"),
        ("80 dollars", "$"),
        ("eighty bucks", "$"),
        ("USD 80", "$"),
        ("\u00a380", "\u00a3"),
        ("80 quid", "\u00a3"),
        ("80 euros", "\u20ac"),
        ("\uff04\uff18\uff10", "$"),  # full width
        ("80%", "%"),
        ("80 per cent", "%"),
        ("eighty percent", "%"),
        ("80 cents", "\u00a2"),
        ("80 pence", ""),
        ("80 centimetres", ""),
        ("80 dollarish", ""),
    ],
)
def test_numbers_in_name_the_unit_beside_the_number(text, unit):
    assert [(number.value, number.unit) for number in numbers_in(text)] == [(80, unit)]


def test_only_number_in_two_currencies_is_none():
    assert only_number("$80, that is 80 bucks") == 80
    assert only_number("$80, or \u00a380") is None


def test_numbers_in_say_where_they_stand():
    assert numbers_in("I can do $1.2k.") == (Number(value=1200.0, start=9, end=14, unit="$"),)
    text = "\ufb01ve? No: \uff11\uff12 dollars, or ninety-five"  # the ligature is one character, its form two
    found = [text[number.start : number.end] for number in numbers_in(text)]
    assert found == ["\ufb01ve", "\uff11\uff12 dollars", "ninety-five"]


def test_numbers_in_do_not_overlap_and_stand_in_order():
    for text, _ in SEVERAL:
        spans = [(number.start, number.end) for number in numbers_in(text)]
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(spans)), text


def test_words_of_all_numbers_below_a_thousand_are_read():
    small = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
    small += ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
    tens = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
    below_100 = [*small, *(f"{ten}{rest}" for ten in tens for rest in ["", *(f"-{unit}" for unit in small[:9])])]
    in_order = [*below_100]
    for hundred in small[:9]:
        in_order += [f"{hundred} hundred", *(f"{hundred} hundred and {rest}" for rest in below_100)]
    assert len(in_order) == 999
    assert [only_number(f"I offer {words} now") for words in in_order] == list(range(1, 1000))


@pytest.mark.parametrize(
    "piece", ["a", "1", "1,", "1-", "twenty ", "one hundred and ", "half a ", "the one ", "$", " "]
)
def test_numbers_in_a_very_long_text_come_in_linear_time(piece):
    started = time.perf_counter()
    numbers_in(piece * 20_000)
    assert time.perf_counter() - started < 2.0
