import re

import pytest

from selfplay.errors import UserError
from selfplay.filters import SEPARATOR, Fields, Filter, field_in_filter
from selfplay.transcript_tables import connect, create, transaction

PARTS = {"reward.question": "c.raw_0", 'reward.my "odd" part': "c.raw_1"}
HI, BYE, NOTHING = "hi", "bye", "nothing"
ROWS = [
    {"number": 1, "id": HI, "reward": 2.0, "turns": 4, "kl": 0.5, "reason": "turn_limit", "flags": ("cut", "a b")},
    {"number": 2, "id": BYE, "reward": -1.0, "turns": 2, "kl": None, "reason": "Leaving", "flags": ()},
    {"number": 3, "id": NOTHING, "reward": None, "turns": 0, "kl": None, "reason": None, "flags": ("cut",)},
]
TEXTS = {1: "Hello there.\nI'm so sorry, GRÜSSE!", 2: "ok | bye", 3: ""}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Three conversations: what fits a filter is worked out by hand."""
    connection = connect(tmp_path_factory.mktemp("filters") / "index.sqlite")
    with transaction(connection):
        create(connection)
        connection.execute("ALTER TABLE conversations ADD COLUMN raw_0 REAL")
        connection.execute("ALTER TABLE conversations ADD COLUMN raw_1 REAL")
        for row in ROWS:
            flags = "".join(f"{SEPARATOR}{flag}" for flag in row["flags"]) + SEPARATOR * bool(row["flags"])
            values = {
                **row,
                "flags": flags,
                "protocol": row["number"] != 2,
                "about": "Über Regen",
                "raw_0": row["reward"],
            }
            values["raw_1"] = row["turns"]
            marks = ", ".join("?" for _ in values)
            connection.execute(f"INSERT INTO conversations ({', '.join(values)}) VALUES ({marks})", [*values.values()])
            connection.execute("INSERT INTO texts VALUES (?, ?)", (row["number"], TEXTS[row["number"]].lower()))
        connection.execute("INSERT INTO trigrams (trigrams) VALUES ('rebuild')")
    yield connection
    connection.close()


def fitting(table, text, *, has_trigrams=True):
    wanted = Filter.parse(text, Fields.of(PARTS, has_trigrams=has_trigrams))
    sql = f"SELECT c.id FROM conversations c WHERE {wanted.where} ORDER BY c.number"
    return [row[0] for row in table.execute(sql, wanted.parameters)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [HI, BYE, NOTHING]),
        ("reward>0", [HI]),
        ("reward<=-1", [BYE]),
        ("reward=2.0", [HI]),
        ("reward=null", [NOTHING]),
        ("reward!=null", [HI, BYE]),
        ("reward!=2", [BYE, NOTHING]),  # not the same as 2, also where it is unknown
        ("!reward<0", [HI, NOTHING]),
        ("reward=2,null", [HI, NOTHING]),
        ("turns=0,4", [HI, NOTHING]),
        ("turns!=0,4", [BYE]),
        ("reward.question>1e0", [HI]),
        ('reward."my \\"odd\\" part">=2', [HI, BYE]),
        ("reason=TURN_LIMIT", [HI]),
        ("reason=turn_limit,leaving", [HI, BYE]),
        ("reason~l & reason!~v", [HI]),
        ("about~über", [HI, BYE, NOTHING]),
        ("about=REGEN", []),
        ("flag=cut", [HI, NOTHING]),
        ("flag='a b'", [HI]),
        ("flag=a", []),  # a whole flag, not a piece of one
        ("flag~a", [HI]),
        ("flag=null", [BYE]),
        ("protocol=false", [BYE]),
        ("protocol!=false", [HI, NOTHING]),
        ("reward>0 | turns=2 & kl=null", [HI, BYE]),  # & binds tighter
        ("(reward>0 | turns=2) & kl=null", [BYE]),
        ("(reward>0 | turns=2) kl=null", [BYE]),  # nothing between two is &
        ("!(kl<1)", [BYE, NOTHING]),
        ("!!kl<1", [HI]),
    ],
)
def test_filter_finds_what_fits(table, text, expected):
    assert fitting(table, text) == expected


@pytest.mark.parametrize("has_trigrams", [True, False])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('text~"so sorry"', [HI]),
        ("SORRY", [HI]),
        ("sorry there", [HI]),
        ("grüsse", [HI]),
        ("I'm", [HI]),  # an apostrophe within a word opens no quote
        ("grüsse!", [HI]),
        ("ok", [BYE]),  # fewer letters than a trigram
        ('"|"', [BYE]),
        ('"k | b"', [BYE]),
        ('text~"\\""', []),
        ("!sorry", [BYE, NOTHING]),
        ("text!~bye", [HI, NOTHING]),
        ("sorry | bye", [HI, BYE]),
    ],
)
def test_text_is_found_with_and_without_trigrams(table, text, expected, has_trigrams):
    assert fitting(table, text, has_trigrams=has_trigrams) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rewrad<1", r"unknown field 'rewrad'; did you mean reward"),
        ("zzzzzz=1", r"unknown field 'zzzzzz'; there are turns, "),
        ("reward.qestion<1", r"did you mean reward\.question"),
        ("reward<high", r"reward is a number, and 'high' is none"),
        ("reward<nan", r"reward is a number, and 'nan' is none"),
        ("reward~1", r"reward is a number: compare it with =, !=, <, <=, > or >="),
        ("reward<1,2", r"reward< takes one value; lists and null go with = and !="),
        ("kl>null", r"kl> takes one value"),
        ("reason<a", r"reason is text: compare it with =, !=, ~ or !~"),
        ("protocol=maybe", r"protocol is true or false, not 'maybe'"),
        ("text=sorry", r"what was said is searched with ~"),
        ("reward<", r"a value is missing after reward<"),
        ("reward<1 &", r"a field or a word is missing after '&'"),
        ("& reward<1", r"a field or a word is missing$"),
        ("(reward<1", r"a parenthesis is never closed"),
        ("reward<1)", r"'\)' is not expected here; quote text that holds one of"),
        ("hello, you", r"',' is not expected here"),
        ('text~"sorry', r"the quote at '\"sorry' is never closed"),
        ("!" * 100 + "a", r"nested more than 50 deep"),
        ("a " * 201, r"compares more than 200 times"),
        ("a" * 4001, r"at most 4000 characters, this one 4001"),
    ],
)
def test_wrong_filter_is_refused_with_what_is_right(text, message):
    with pytest.raises(UserError, match=message):
        Filter.parse(text, Fields.of(PARTS, has_trigrams=True))


@pytest.mark.parametrize(
    "text",
    ["'; DROP TABLE texts; --", '"\') OR 1=1 --"', "about~\"' OR '1'='1\"", '"a\0b"', '"\ud800"', '"* OR NEAR("'],
)
@pytest.mark.parametrize("has_trigrams", [True, False])
def test_what_people_write_is_never_taken_for_sql(table, text, has_trigrams):
    try:
        assert fitting(table, text, has_trigrams=has_trigrams) == []
    except UserError:
        assert text == "'; DROP TABLE texts; --"
    assert table.execute("SELECT count(*) FROM texts").fetchone() == (3,)


def test_deepest_and_longest_filter_is_not_too_much_for_sqlite(table):
    assert fitting(table, "(" * 24 + "turns<9" + ")" * 24) == [HI, BYE, NOTHING]
    assert fitting(table, " | ".join(["turns=0"] * 200)) == [NOTHING]
    assert fitting(table, " ".join(["turns<9"] * 200)) == [HI, BYE, NOTHING]


def test_sort_keys_are_the_numbers():
    fields = Fields.of(PARTS, has_trigrams=True)
    assert fields.sort_keys()[:3] == ["newest", "oldest", "turns"]
    assert "reason" not in fields.sort_keys()
    assert fields.sort_sql("reward.question") == "c.raw_0"
    assert fields.sort_sql("newest") == ""
    with pytest.raises(UserError, match="nothing is sorted by 'reason'"):
        fields.sort_sql("reason")


@pytest.mark.parametrize("name", [*PARTS, "reward", "reward.rm:demo", "reward.a&b", "reward.back\\slash"])
def test_field_is_written_so_that_a_filter_reads_it(name):
    fields = Fields.of({name: "c.raw_0"}, has_trigrams=True)
    assert Filter.parse(f"{field_in_filter(name)}!=null", fields).where == "NOT (c.raw_0 IS NULL)"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("split=heldout", "there is no split 'heldout'; did you mean held_out?"),
        ("status!=fail", "there is no status 'fail'; did you mean failed?"),
        ("reason=agreement,turn_limits", "there is no reason 'turn_limits'; did you mean turn_limit, token_limit?"),
    ],
)
def test_value_that_a_field_never_has_is_refused(query, says):
    with pytest.raises(UserError, match=re.escape(says)):
        Filter.parse(query, Fields.of({}, has_trigrams=False))


def test_value_may_be_written_as_it_is_shown():
    fields = Fields.of({}, has_trigrams=False)
    shown = Filter.parse('reason="turn limit"', fields)
    assert shown.parameters == Filter.parse("reason=turn_limit", fields).parameters == ("turn_limit",)
