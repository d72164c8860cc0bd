"""The codec: every value comes back unchanged or is refused by name; every text is decoded or refused."""

import collections
import contextlib
import doctest
import enum
import inspect
import io
import itertools
import json
import math
import struct
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal, InvalidOperation, localcontext
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vedsess_middleware import codec as codec_module
from vedsess_middleware.codec import Codec, JsonCodec
from vedsess_middleware.errors import ConfigurationError, SerializationError


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = RED
    BLUE = object()


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Role(enum.StrEnum):
    ADMIN = "admin"


class Permission(enum.Flag):
    READ = 1
    WRITE = 2


class Bits(enum.IntFlag):
    ONE = 1
    WIDE = 1 << 70


class Truth(enum.Flag):
    YES = True


class Lossy(enum.Flag, boundary=enum.EJECT):
    ONE = 1


class Stranger(enum.StrEnum):
    SECRET = "hunter2"


class Point(NamedTuple):
    x: int


class MyStr(str):
    pass


class MyInt(int):
    pass


class MyDatetime(datetime):
    pass


class MyUuid(uuid.UUID):
    pass


class MyZone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(0)

    dst = utcoffset

    def tzname(self, moment: datetime | None) -> str:
        return "hunter2"


class MyZoneInfo(ZoneInfo):
    pass


class User:
    def __repr__(self) -> str:
        return "hunter2"


CODEC = JsonCodec(enums=[Colour, Level, Role, Permission, Bits, Truth, Lossy])
ZURICH = ZoneInfo("Europe/Zurich")
CET = timezone(timedelta(hours=1), "CET")
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def same(left: Any, right: Any) -> bool:
    """Whether two values are equal in value and type, all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, enum.Flag):
        return bool(left == right)  # early releases of Python 3.11 make a nameless combination anew each time
    if isinstance(left, enum.Enum):
        return left is right
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return same(list(left.items()), list(right.items()))
    if isinstance(left, set | frozenset):
        return len(left) == len(right) and all(any(same(item, other) for other in right) for item in left)
    if isinstance(left, datetime | time):
        return marks(left) == marks(right)
    return bool(left == right) if isinstance(left, int) else repr(left) == repr(right)


def marks(moment: datetime | time) -> tuple[object, ...]:
    return (repr(moment), moment.isoformat(), moment.tzname(), moment.fold, type(moment.tzinfo))


def round_trip(value: object) -> object:
    return CODEC.decode(CODEC.encode("field", value))


def refusal(value: object, *, name: str = "cart") -> str:
    with pytest.raises(SerializationError) as caught:
        CODEC.encode(name, value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return str(caught.value)


def rejection(text: str) -> str:
    with pytest.raises(SerializationError) as caught:
        CODEC.decode(text)
    return str(caught.value)


def nested(depth: int, wrap: Callable[[object], object], leaf: object = 1) -> object:
    value = leaf
    for _ in range(depth):
        value = wrap(value)
    return value


VALUES: list[object] = [
    *(None, True, False, [True, 1, 1.0, Level.LOW], {"a": True, "b": 1}),
    *(0, -1, 2**53 + 1, 2**63, -(2**63), 2**64 - 1, 2**64, -(2**63) - 1, 2**64 + 10**18 + 1, 10**616, -(10**616)),
    *(10**700, 10**5000 + 7, -(10**5000), [2**64], {"n": -(2**70)}),
    *(
        0.0,
        -0.0,
        0.1,
        1.0,
        1e16,
        5e-324,
        sys.float_info.max,
        math.nan,
        math.inf,
        -math.inf,
        [math.nan],
        {"x": -math.inf},
    ),
    *("", "plain", "Zürich", "\x00\x1f\x7f\u2028", "𝄞", '"!', "!datetime", "a\\b/c\n", ["!set"], {"k": "!"}),
    *([], [[]], [1, "a", None], {}, {"b": 1, "a": 2}, {"": {}}, {"a": [{"b": [[]]}]}),
    *(
        datetime(2026, 11, 23, 21),
        datetime.min,
        datetime.max,
        datetime(1, 1, 1, 0, 0, 0, 1),
        datetime(2026, 1, 1, fold=1),
    ),
    *(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=-3, minutes=-30)))),
    *(datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=1, microseconds=5))), datetime(2026, 1, 1, tzinfo=CET)),
    *(datetime(2026, 1, 1, tzinfo=timezone(timedelta(0), n)) for n in ("", "GMT", "odd ][name]\n=", "+01:00")),
    *(
        datetime(2026, 7, 1, tzinfo=ZURICH),
        datetime(1850, 1, 1, tzinfo=ZURICH),
        datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")),
    ),
    *(datetime(2026, 10, 25, 2, 30, tzinfo=ZURICH, fold=fold) for fold in (0, 1)),
    *(datetime(2026, 3, 29, 2, 30, tzinfo=ZURICH, fold=fold) for fold in (0, 1)),
    *(datetime(2026, 7, 1, tzinfo=zone, fold=1) for zone in (ZURICH, UTC, CET)),
    *(datetime.min.replace(tzinfo=ZURICH), datetime.max.replace(tzinfo=ZURICH), datetime.min.replace(tzinfo=CET)),
    *(date(2026, 11, 23), date.min, date.max),
    *(time(21), time.max, time(1, fold=1), time(1, tzinfo=UTC), time(1, 2, 3, 4, tzinfo=CET, fold=1)),
    *(time(1, tzinfo=ZURICH), time(1, tzinfo=ZoneInfo("UTC"))),
    *(timedelta(0), timedelta.min, timedelta.max, timedelta.resolution, -timedelta.resolution, timedelta(hours=-25)),
    *(timedelta(days=-1, microseconds=1), timedelta(seconds=90, microseconds=500_000)),
    *(ID, uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)),
    *map(Decimal, ("0", "-0", "0.00", "9.90", "1E+5", "1E-30", "-123.450", "1E+999999", "0E-10", "1" * 60)),
    *map(Decimal, ("NaN", "-NaN", "NaN123", "sNaN", "-sNaN7", "Infinity", "-Infinity")),
    *(b"", b"hi", bytes(range(256))),
    *((), (1,), ((), ((),)), (1, [2, (3,)]), [()], {"t": ("a", b"b")}),
    *(set(), {1, 2, 3}, {"b", "a"}, {None, True, 2.5, b"x", "x", (1, 2)}, frozenset(), frozenset({frozenset({1}), 2})),
    *({frozenset({(1, frozenset())})}, [{1}, {2}], {math.inf}, {Decimal("NaN"), ID, date.min, timedelta(1)}),
    *(
        Colour.RED,
        Colour.CRIMSON,
        Colour.BLUE,
        Level.HIGH,
        Role.ADMIN,
        {Role.ADMIN: Level.LOW},
        {Level.LOW, Colour.RED},
    ),
    *(
        Permission.READ,
        Permission(0),
        Permission.READ | Permission.WRITE,
        Bits.WIDE | Bits.ONE,
        Bits(12),
        Truth.YES,
        Lossy.ONE,
    ),
    *({1: "a"}, {1: "a", "1": "b", None: "c"}, {(1, 2): {(3,): 4}}, {True: 0}, {1.5: 0, math.inf: 1}, {ID: [ID]}),
    *({"!": 1}, {"!datetime": "x"}, {"!tuple": [1]}, {"!": {"!": {"!": 1}}}, {"!a": 1, "b": 2}, {"!a": 1, "!b": 2}),
    *({"a": {"!set": [1]}}, [{"!dict": [[1, 2]]}], {"!dict": [["!dict", []]]}, {"!!": 1}, {"!\u00fc": "!"}),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_comes_back_equal_in_value_and_type(value: object) -> None:
    assert same(round_trip(value), value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_the_text_is_strict_json_on_one_line(value: object) -> None:
    text = CODEC.encode("field", value)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert "\n" not in text


def test_the_comparison_of_these_tests_sees_differences() -> None:
    for left, right in itertools.permutations([1, 1.0, True, "1", Level.LOW, Decimal(1)], 2):
        assert not same([left], [right])
    assert not same(0.0, -0.0)
    assert not same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same({(1,)}, {(True,)})
    assert not same(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")))
    assert not same(datetime(2026, 1, 1), datetime(2026, 1, 1, fold=1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Zürich 🚲", '"Zürich 🚲"'),
        ({"id": 1, "tags": ["a", None, True], "price": 9.5}, '{"id":1,"tags":["a",null,true],"price":9.5}'),
        (datetime(2026, 11, 23, 21, tzinfo=ZURICH), '{"!datetime":"2026-11-23T21:00:00+01:00[Europe/Zurich]"}'),
        (datetime(2026, 11, 23, 21, tzinfo=UTC), '{"!datetime":"2026-11-23T21:00:00+00:00"}'),
        (datetime(2026, 11, 23, 21, tzinfo=CET), '{"!datetime":"2026-11-23T21:00:00+01:00[_name=CET]"}'),
        (datetime(2026, 10, 25, 2, fold=1), '{"!datetime":"2026-10-25T02:00:00[_fold=1]"}'),
        (date(2026, 11, 23), '{"!date":"2026-11-23"}'),
        (time(21, 0, 0, 5), '{"!time":"21:00:00.000005"}'),
        (timedelta(days=1, seconds=1), '{"!timedelta":"86401"}'),
        (timedelta(seconds=-90.5), '{"!timedelta":"-90.500000"}'),
        (ID, '{"!uuid":"12345678-1234-5678-1234-567812345678"}'),
        (Decimal("9.90"), '{"!decimal":"9.90"}'),
        (b"hi", '{"!bytes":"aGk="}'),
        ((1, "a"), '{"!tuple":[1,"a"]}'),
        ({"b", "a"}, '{"!set":["a","b"]}'),
        (frozenset({2, 10, 1}), '{"!frozenset":[1,10,2]}'),
        ({1: "a", "b": 2}, '{"!dict":[[1,"a"],["b",2]]}'),
        ({"!set": [1]}, '{"!dict":[["!set",[1]]]}'),
        ({"!a": 1, "b": 2}, '{"!a":1,"b":2}'),
        ({"b": 2, "!a": 1}, '{"b":2,"!a":1}'),
        (Colour.CRIMSON, '{"!enum":["Colour","RED"]}'),
        (Permission.READ | Permission.WRITE, '{"!enum":["Permission",3]}'),
        (2**64 - 1, "18446744073709551615"),
        (2**64, '{"!int":"18446744073709551616"}'),
        (math.nan, '{"!float":"nan"}'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_text_reads_well_in_redis_cli(value: object, text: str) -> None:
    assert CODEC.encode("field", value) == text
    assert same(CODEC.decode(text), value)


def test_text_that_somebody_spaced_out_still_decodes() -> None:
    assert CODEC.decode(' { "!tuple" : [ 1, {"!date" : "2026-11-23"} ] } ') == (1, date(2026, 11, 23))


def test_an_int_too_long_for_python_to_print_comes_back() -> None:
    value = 7**9000
    with pytest.raises(ValueError, match="Exceeds the limit"):
        str(value)
    assert round_trip({"n": [value, -value]}) == {"n": [value, -value]}


@given(st.integers())
def test_every_size_of_int_comes_back(value: int) -> None:
    assert same(round_trip([value, value << 60]), [value, value << 60])


def test_a_local_time_twice_a_year_keeps_its_instant() -> None:
    first, second = (datetime(2026, 10, 25, 2, 30, tzinfo=ZURICH, fold=fold) for fold in (0, 1))
    kept = [round_trip(first), round_trip(second)]
    assert [moment.timestamp() for moment in kept if isinstance(moment, datetime)] == [
        first.timestamp(),
        second.timestamp(),
    ]


def test_an_instant_survives_new_rules_of_its_time_zone() -> None:
    moment = CODEC.decode('{"!datetime":"2026-11-23T21:00:00+05:00[Europe/Zurich]"}')
    assert same(moment, datetime(2026, 11, 23, 17, tzinfo=ZURICH))


def test_a_fixed_offset_named_as_python_would_name_it_behaves_the_same() -> None:
    moment = datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "UTC+01:00"))
    kept = round_trip(moment)
    assert isinstance(kept, datetime)
    assert (kept, kept.tzname(), kept.utcoffset()) == (moment, "UTC+01:00", timedelta(hours=1))


def test_utc_comes_back_as_the_one_utc_object() -> None:
    kept = round_trip(datetime.now(UTC))
    assert isinstance(kept, datetime)
    assert kept.tzinfo is UTC


def test_a_decimal_does_not_depend_on_the_context() -> None:
    with localcontext(capitals=0, prec=1):
        text = CODEC.encode("field", Decimal("1.23E+7"))
        assert text == '{"!decimal":"1.23E+7"}'
        assert same(CODEC.decode(text), Decimal("1.23E+7"))
    with localcontext() as context:
        context.traps[InvalidOperation] = False
        assert "!decimal" in rejection('{"!decimal":"nine"}')


def test_equal_sets_encode_equally() -> None:
    one, other = set("hgfedcba"), set("abcdefgh")
    grown = set(range(1000)) & {8, 16, 0}
    assert CODEC.encode("s", one) == CODEC.encode("s", other)
    assert CODEC.encode("s", grown) == CODEC.encode("s", {0, 16, 8}) == CODEC.encode("s", {16, 8, 0})


@given(
    st.lists(st.integers(0, 40) | st.text("ab", max_size=2) | st.frozensets(st.integers(0, 40)), unique=True),
    st.randoms(),
)
def test_the_order_in_which_a_set_was_filled_does_not_show(items: list[object], random: Any) -> None:
    text = CODEC.encode("s", set(items))
    random.shuffle(items)
    assert CODEC.encode("s", set(items)) == text
    assert CODEC.encode("s", CODEC.decode(text)) == text


ZONES = st.sampled_from([None, UTC, CET, timezone(timedelta(hours=-9, minutes=-30)), ZURICH, ZoneInfo("UTC")])
MOMENTS = st.builds(
    lambda moment, fold, zone: moment.replace(fold=fold, tzinfo=zone), st.datetimes(), st.sampled_from([0, 1]), ZONES
)
TEXTS = st.text() | st.text("!", max_size=2) | st.sampled_from(["!set", "!dict", "!tuple", "!enum", "!int"])
HASHABLE_LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, MOMENTS, st.dates(), st.times(), st.timedeltas()),
    *(st.uuids(), st.decimals(allow_nan=False), st.binary()),
    st.sampled_from([Colour.RED, Colour.BLUE, Level.LOW, Role.ADMIN, Permission(3), Bits.WIDE]),
)
HASHABLES = st.recursive(
    HASHABLE_LEAVES,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
ANYTHING = st.recursive(
    HASHABLES | st.decimals(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(TEXTS, inner, max_size=3),
        st.dictionaries(HASHABLES, inner, max_size=3),
        st.sets(HASHABLES, max_size=3),
    ),
    max_leaves=12,
)
CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@CALM
@given(ANYTHING)
def test_anything_built_of_known_types_comes_back(value: object) -> None:
    text = CODEC.encode("field", value)
    kept = CODEC.decode(text)
    assert same(kept, value)
    assert CODEC.encode("field", kept) == text


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(TEXTS, inner, max_size=2), max_leaves=6))
def test_a_dict_of_the_app_is_never_taken_for_a_tag(value: object) -> None:
    assert same(round_trip(value), value)


def test_a_value_that_was_encoded_is_not_changed() -> None:
    value = {"a": [(1, {2}), {"!x": [datetime(2026, 1, 1)]}]}
    copy = {"a": [(1, {2}), {"!x": [datetime(2026, 1, 1)]}]}
    CODEC.encode("field", value)
    assert same(value, copy)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (User(), "test_codec.User"),
        (User, "type"),
        (object(), "object"),
        (1j, "complex"),
        (bytearray(b"hunter2"), "bytearray"),
        (memoryview(b"hunter2"), "memoryview"),
        (range(2), "range"),
        (len, "builtin_function_or_method"),
        (test_a_value_that_was_encoded_is_not_changed, "function"),
        (iter([1]), "list_iterator"),
        (UTC, "datetime.timezone"),
        (ZURICH, "zoneinfo.ZoneInfo"),
        (ValueError("hunter2"), "ValueError"),
        (collections.OrderedDict(hunter2=1), "collections.OrderedDict"),
        (collections.defaultdict(list), "collections.defaultdict"),
        (collections.deque([1]), "collections.deque"),
        (Point(1), "test_codec.Point"),
        (MyStr("hunter2"), "test_codec.MyStr"),
        (MyInt(1), "test_codec.MyInt"),
        (MyDatetime(2026, 1, 1), "test_codec.MyDatetime"),
        (MyUuid(int=1), "test_codec.MyUuid"),
        (Stranger.SECRET, "test_codec.Stranger"),
        (datetime(2026, 1, 1, tzinfo=MyZone()), "test_codec.MyZone"),
        (time(1, tzinfo=MyZone()), "test_codec.MyZone"),
        (datetime(2026, 1, 1, tzinfo=MyZoneInfo("UTC")), "test_codec.MyZoneInfo"),
        ("hunter2\ud800", "str with a lone surrogate"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isprintable() else "",
)
def test_a_foreign_type_is_refused_by_field_and_type_and_never_by_value(value: object, kind: str) -> None:
    for inner in (value, [value], {"key": value}, (value,)):
        message = refusal({"price": [1, inner]})
        assert message.startswith("session field cart.price[1]")
        assert kind in message
        assert "hunter2" not in message
    assert refusal(value).startswith("session field cart ")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ([0, 1, {"price": 1j}], "cart[2].price "),
        ({"a-b": {"c_d": (0, 1j)}}, "cart.a-b.c_d[1] "),
        ({"hunter2 hunter2": 1j}, "cart[<str>] "),
        ({"hunter2" * 10: 1j}, "cart[<str>] "),
        ({777: 1j}, "cart[<int>] "),
        ({Level.LOW: [1j]}, "cart[<Level>][0] "),
        ({1: 0, "name": 1j}, "cart.name "),
        ({(1, 1j): 0}, "cart[<tuple>][1] "),
        ({777, 1j}, "cart[<complex>] "),
        ({(1j,)}, "cart[<tuple>][0] "),
        ({"hunter2\ud800": 1}, "cart[<str>] "),
        ({1: 1, "hunter2\ud800": 1}, "cart[<str>] "),
        (nested(12, lambda inner: [inner, 1j]), "cart[0][0][0][0][0][0][0][0]… "),
    ],
)
def test_the_message_leads_to_the_place_and_shows_names_only(value: object, path: str) -> None:
    message = refusal(value)
    assert message.startswith(f"session field {path}")
    assert "hunter2" not in message
    assert "777" not in message


def test_a_strange_field_name_is_named_printably_and_shortly() -> None:
    assert refusal(1j, name="my field").startswith("session field my field is of the type complex")
    message = refusal(1j, name="\ud800\n" + "x" * 1000)
    assert message.isprintable()
    assert len(message) < 200


def test_an_enum_that_is_not_registered_is_refused_with_the_mend() -> None:
    assert "JsonCodec(enums=[Stranger])" in refusal(Stranger.SECRET)
    for member in (Level.LOW, Role.ADMIN, Permission.READ, Bits.ONE):
        with pytest.raises(SerializationError, match="not registered"):
            JsonCodec().encode("field", [member])


def test_a_subclass_is_refused_with_the_type_to_convert_to() -> None:
    assert refusal(collections.OrderedDict()).endswith("convert it to dict")
    assert refusal(MyDatetime(2026, 1, 1)).endswith("convert it to datetime")
    assert refusal(Point(1)).endswith("convert it to tuple")


def test_a_lone_surrogate_in_a_name_is_refused() -> None:
    assert "surrogate" in refusal(datetime(2026, 1, 1, tzinfo=timezone(timedelta(0), "\ud800")))
    Odd = enum.Enum("Odd", ["\ud800"])  # noqa: N806
    with pytest.raises(SerializationError, match="surrogate"):
        JsonCodec(enums=[Odd]).encode("field", list(Odd))


def test_a_time_zone_without_a_key_that_leads_back_is_refused() -> None:
    data = struct.pack(">4sc15x6l", b"TZif", b"\0", 0, 0, 0, 0, 1, 4) + struct.pack(">lbb4s", 3600, 0, 0, b"ABC\0")
    for key in (None, "No/Where", "../etc", "a[b]", ""):
        zone = ZoneInfo.from_file(io.BytesIO(data), key)
        assert "ZoneInfo without a key" in refusal(datetime(2026, 1, 1, tzinfo=zone))


WRAPS: list[Callable[[object], object]] = [
    lambda inner: [inner],
    lambda inner: {"key": inner},
    lambda inner: (inner,),
    lambda inner: {"!": inner},
    lambda inner: frozenset({inner}),
    lambda inner: {(1,): inner},
]


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("leaf", [1, datetime(2026, 1, 1)])
def test_nesting_is_kept_up_to_the_limit_and_refused_beyond(wrap: Callable[[object], object], leaf: object) -> None:
    deepest = nested(100, wrap, leaf) if wrap is not WRAPS[5] else nested(99, wrap, leaf)
    assert same(round_trip(deepest), deepest)
    assert "100 deep" in refusal(wrap(deepest) if wrap is not WRAPS[5] else wrap(wrap(deepest)))


def test_a_container_that_contains_itself_is_refused() -> None:
    items: list[object] = []
    items.extend([items, items])
    table: dict[str, object] = {}
    table["self"] = (table,)
    knot: dict[object, object] = {}
    knot[1] = [knot]
    for value in (items, table, knot):
        assert "contains itself" in refusal(value)


def test_a_value_met_twice_is_not_taken_for_a_loop() -> None:
    item = [1]
    assert round_trip([item, item, (item, item)]) == [[1], [1], ([1], [1])]


@pytest.mark.parametrize("wrap", WRAPS[:4])
def test_a_stack_that_is_nearly_full_gives_no_other_error(wrap: Callable[[object], object]) -> None:
    value = nested(90, wrap)
    text = CODEC.encode("field", value)
    room = sys.getrecursionlimit() - len(inspect.stack(0))

    def descend(frames: int) -> None:
        if frames:
            descend(frames - 1)
            return
        with contextlib.suppress(SerializationError):
            CODEC.encode("field", value)
        with contextlib.suppress(SerializationError):
            CODEC.decode(text)

    for frames in range(room - 300, room - 40, 20):
        descend(frames)


BAD_TEXTS = [
    *("", " ", "nul", "hunter2", "{", '{"a":}', "[1,]", "01", "1 2", "NaN", "Infinity", "1e400", "'a'", "\ufeff1"),
    *('"\ud800"', '"\\ud800"', '"\t"', "1" * 5000, "[" * 200_000, '{"a":' * 200_000, "[" * 101 + "]" * 101),
    *('{"!hunter2":1}', '{"!":1}', '{"!set":{"!hunter2":[]}}', '{"!Set":[]}', '{"!datetime ":"2026-01-01T00:00:00"}'),
    *(
        f'{{"!{tag}":{payload}}}'
        for tag in ("tuple", "set", "frozenset", "dict")
        for payload in ('"x"', "1", "null", "{}")
    ),
    *(
        f'{{"!{tag}":{payload}}}'
        for tag in ("datetime", "date", "time", "timedelta")
        for payload in ("1", "[]", '""', '"x"')
    ),
    *(
        f'{{"!{tag}":{payload}}}'
        for tag in ("uuid", "decimal", "int", "float")
        for payload in ("1", "null", '""', '"hunter2"')
    ),
    *(f'{{"!bytes":{payload}}}' for payload in ("1", '"a"', '"aGk"', '"aG k="', '"é"', "[104]")),
    *(
        f'{{"!datetime":"2026-11-23T21:00:00{rest}"}}'
        for rest in ("+99:00", "[No/Where]", "[Europe]", "[../x]", "[", "[]", "[/etc]")
    ),
    *(
        f'{{"!datetime":"{text}"}}'
        for text in ("2026-13-01T00:00:00", "0000-01-01T00:00:00", "[Europe/Zurich]", "21:00:00")
    ),
    '{"!datetime":"9999-12-31T23:59:59-23:00[Europe/Zurich]"}',
    *(f'{{"!date":"{text}"}}' for text in ("2026-02-30", "20261123", "2026-W01-1", "2026-11-23T00:00:00")),
    *(f'{{"!time":"{text}"}}' for text in ("25:00:00", "x", "2026-11-23")),
    *(f'{{"!timedelta":"{text}"}}' for text in ("1.5", "--1", "+1", "1_0", "1.000000", "9" * 30, "1" * 5000, "-0")),
    *(f'{{"!uuid":"{text}"}}' for text in ("{12345678-1234-5678-1234-567812345678}", "1" * 32, "1")),
    *(f'{{"!decimal":"{text}"}}' for text in ("1_0", " 1", "nan", "1e5", "1E+9999999999999999999", "١")),  # noqa: RUF001
    *(f'{{"!int":"{text}"}}' for text in ("1_0", " 1", "+1", "0x1F", "0o7", "1.0", "١", "2" * 5000)),  # noqa: RUF001
    *(f'{{"!float":"{text}"}}' for text in ("NaN", "Infinity", "1_0", "1e5", "+inf")),
    *('{"!set":[[]]}', '{"!set":[{}]}', '{"!set":[1,1]}', '{"!set":[1,1.0]}', '{"!frozenset":[{"!set":[]}]}'),
    *('{"!set":[{"!decimal":"sNaN"}]}', '{"!dict":[[[],1]]}', '{"!dict":[[1,2],[1,3]]}', '{"!dict":[[1]]}'),
    *('{"!dict":[[1,2,3]]}', '{"!dict":["ab"]}', '{"!dict":[1]}', '{"!dict":[{"a":1,"b":2}]}'),
    *(
        f'{{"!enum":{payload}}}'
        for payload in ('"RED"', "[]", '["Colour"]', '["Colour","RED",1]', '[["Colour"],"RED"]')
    ),
    *(f'{{"!enum":["Colour",{name}]}}' for name in ('"GREEN"', '"red"', "1", "null", "[]", "{}", '"__class__"')),
    *(f'{{"!enum":["{name}",1]}}' for name in ("Stranger", "hunter2", "Level", "Role")),
    *(f'{{"!enum":["Permission",{value}]}}' for value in ("4", "-1", '"READ"', "true", "1.0", "[]")),
    *('{"!enum":["Lossy",3]}', '{"!enum":["Lossy",8]}', '{"!enum":["Bits",-1]}', '{"!enum":[{"!set":[]},1]}'),
    *(
        '{"!tuple":' + "[" * 101 + "]" * 101 + "}",
        '{"!tuple":[' * 101 + "]}" * 101,
        '{"!dict":[[1,' * 101 + "1" + "]]}" * 101,
    ),
]


@pytest.mark.parametrize("text", BAD_TEXTS, ids=lambda text: ascii(text)[:40])
def test_a_text_that_no_encode_made_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(SerializationError) as caught:
        CODEC.decode(text)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in str(error)
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("text", BAD_TEXTS[30:], ids=lambda text: ascii(text)[:40])
def test_a_bad_tag_is_found_at_any_depth(text: str) -> None:
    for outer in ("[%s]", '{"a":1,"b":[%s]}', '{"!tuple":[1,%s]}', '{"!dict":[[1,%s]]}'):
        with pytest.raises(SerializationError):
            CODEC.decode(outer % text)


def decodes_or_is_refused(text: str) -> None:
    try:
        value = CODEC.decode(text)
    except SerializationError:
        return
    assert same(round_trip(value), value)


@given(st.text() | st.text('[]{}!",:0123456789.eE+-\\u "tfn'))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    decodes_or_is_refused(text)


TAGS = [
    f"!{tag}"
    for tag in [
        "datetime",
        "date",
        "time",
        "timedelta",
        "uuid",
        "decimal",
        "bytes",
        "int",
        "float",
        "tuple",
        "set",
        "frozenset",
        "dict",
        "enum",
        "x",
    ]
]
PAYLOADS = st.sampled_from(
    ["2026-10-25T02:30:00+01:00[Europe/Zurich]", "2026-11-23", "21:00:00", "1.5", "NaN", "Colour", "RED"]
)
TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | PAYLOADS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(TAGS), inner, min_size=1, max_size=1),
        st.dictionaries(st.sampled_from(TAGS) | st.text(max_size=2), inner, max_size=2),
        st.lists(st.tuples(inner, inner), max_size=2).map(lambda pairs: {"!dict": pairs}),
        st.tuples(st.sampled_from(["Colour", "Permission", "Bits"]), inner).map(lambda pair: {"!enum": pair}),
    ),
    max_leaves=8,
)


@CALM
@given(TREES)
def test_any_json_with_tags_in_it_is_decoded_or_refused(tree: object) -> None:
    decodes_or_is_refused(json.dumps(tree, ensure_ascii=False))


@CALM
@given(ANYTHING, st.data())
def test_a_damaged_text_is_decoded_or_refused(value: object, data: st.DataObject) -> None:
    text = CODEC.encode("field", value)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 3)))
    patch = data.draw(st.text('[]{}!",:0123456789-+.TZaE\\', max_size=2) | st.text(max_size=2))
    decodes_or_is_refused(text[:start] + patch + text[end:])
    decodes_or_is_refused(text[:start])


def test_two_enum_classes_of_one_name_are_a_configuration_error() -> None:
    def another() -> type[enum.Enum]:
        class Colour(enum.Enum):
            RED = 1

        return Colour

    with pytest.raises(ConfigurationError, match="Colour"):
        JsonCodec(enums=[Colour, another()])


def test_one_enum_class_may_be_listed_twice() -> None:
    assert JsonCodec(enums=iter([Colour, Colour])).encode("field", Colour.RED) == '{"!enum":["Colour","RED"]}'


@pytest.mark.parametrize("entry", [Colour.RED, str, "Colour", None])
def test_an_entry_that_is_no_enum_class_is_a_configuration_error(entry: Any) -> None:
    with pytest.raises(ConfigurationError, match="enum class"):
        JsonCodec(enums=[entry])


def test_the_examples_of_the_docstrings_are_true() -> None:
    assert doctest.testmod(codec_module) == (0, 2)


class MoneyCodec:
    """A codec of the app's own: money as a text, the rest as ever."""

    def __init__(self) -> None:
        self._plain = JsonCodec()

    def encode(self, name: str, value: object) -> str:
        return f"money {value}" if isinstance(value, MyInt) else self._plain.encode(name, value)

    def decode(self, text: str) -> object:
        return MyInt(text.removeprefix("money ")) if text.startswith("money ") else self._plain.decode(text)


def test_an_app_can_bring_a_codec_of_its_own() -> None:
    codec: Codec = MoneyCodec()
    assert same(codec.decode(codec.encode("price", MyInt(5))), MyInt(5))
    assert same(codec.decode(codec.encode("price", (5,))), (5,))
