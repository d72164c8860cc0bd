"""The session: a dict in every way that counts, before its first touch as well as after."""

import collections
import copy
import hashlib
import json
import logging
import pickle
import pprint
import reprlib
import types
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.clients import CountingCodec
from vedsess_middleware import Session, SessionManager, Settings
from vedsess_middleware.concurrency import run_blocking
from vedsess_middleware.contents import Contents
from vedsess_middleware.errors import SerializationError, StoreUnavailable
from vedsess_middleware.events import CookieRejected, Event, RecordRejected, WriteRefused, event_name
from vedsess_middleware.session import state_of
from vedsess_middleware.state import Changes
from vedsess_middleware.stores.memory import MemoryStore
from vedsess_middleware.stores.record import KEPT_DELETIONS, Field, Record, Version

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEY = "Qz8vR3nK6wX1mT9bY4cJ7pL2dF5gH0sAeUiOaEtNrMy"
AT = 1_700_000_000.0
FULL: dict[str, Any] = {"name": "hunter2", "cart": ["hunter2"], "n": 0}


class CountingStore(MemoryStore):
    """Counts how often it was asked for a record, and fails as long as it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0
        self.failing = False

    def load(
        self, key: str, *, at: float, refresh: float, token: Version = Version(), token_at: float = 0.0
    ) -> Record | None:
        self.loads += 1
        if self.failing:
            raise StoreUnavailable("no answer")
        return super().load(key, at=at, refresh=refresh, token=token)


class Site:
    """A manager over a store in memory, and a browser that keeps its cookie."""

    def __init__(self, values: dict[str, Any] | None = None, *, new: bool = False) -> None:
        self.store, self.codec, self.events = CountingStore(), CountingCodec(), list[Event]()
        self.now = AT
        self.manager = SessionManager(
            self.store,
            Settings(secret_key=KEY),
            codec=self.codec,
            clock=lambda: self.now,
            on_event=self.events.append,
        )
        self.cookie = ""
        if not new:
            session = self.lazy()
            session.login("ada")
            session.update(values or {})
            self.commit(session)
        self.store.loads = 0
        self.codec.encoded.clear()
        self.events.clear()

    def lazy(self) -> Session:
        """The session of the next request, not loaded yet."""
        return self.manager.begin(self.cookie)

    def eager(self) -> Session:
        """The session of the next request, loaded."""
        return run_blocking(self.manager.open(self.cookie))

    def commit(self, session: Session) -> str | None:
        """End the request, and keep the cookie if there is one."""
        set_cookie = run_blocking(self.manager.commit(session))
        if set_cookie is not None:
            self.cookie = set_cookie.partition(";")[0]
        return set_cookie

    def spoil(self, name: str) -> None:
        """Let one value be what no codec can read."""
        session = self.lazy()
        assert session.id is not None
        key, record = hashlib.sha256(session.id.encode()).hexdigest(), state_of(session).record
        assert record is not None
        fields = {**record.fields, name: Field(Version(0, 9), "{not json")}
        self.store.merge(key, record.replace(fields=fields))


@pytest.fixture
def full() -> Site:
    """A browser with a stored session of three values."""
    return Site(FULL)


@pytest.fixture
def fresh() -> Site:
    """A browser without a session."""
    return Site(new=True)


# -- every way to read -------------------------------------------------------------------------------------------------


def _named(**values: Any) -> dict[str, Any]:
    return values


def _added(x: Any) -> dict[str, Any]:
    plain = {"before": 1}
    plain |= x
    return plain


def _updated(x: Any) -> dict[str, Any]:
    plain = {"before": 1}
    plain.update(x)
    return plain


def _matched(x: Any) -> Any:
    match x:
        case {"name": name, **rest}:
            return name, rest
        case {}:
            return "another mapping"


READERS: dict[str, Callable[[Any], Any]] = {
    "json": json.dumps,
    "json, indented": lambda x: json.dumps(x, indent=2),
    "json, sorted": lambda x: json.dumps(x, sort_keys=True),
    "json, inside a list": lambda x: json.dumps([x, {"session": x}]),
    "json, piece by piece": lambda x: list(json.JSONEncoder().iterencode(x)),
    "dict()": dict,
    "dict() and more": lambda x: dict(x, more=1),
    "{**x}": lambda x: {**x, "more": 1},
    "f(**x)": lambda x: _named(**x),
    "[*x]": lambda x: [*x],
    "x | y": lambda x: x | {"name": 1, "more": 2},
    "y | x": lambda x: {"name": 1, "more": 2} | x,
    "x | x": lambda x: x | x,
    "x | UserDict": lambda x: x | collections.UserDict({"more": 2}),
    "y |= x": _added,
    "y.update(x)": _updated,
    "==": lambda x: (x == FULL, x == {}, x == {"name": 1}, x == 5),
    "== from the left": lambda x: (FULL == x, {} == x, x is None),  # noqa: SIM300
    "== inside": lambda x: ([x] == [FULL], (x,) == ({},)),
    "!=": lambda x: (x != FULL, x != {}, x != 5),
    "!= from the left": lambda x: (FULL != x, {} != x),  # noqa: SIM300
    "in": lambda x: ("name" in x, "none" in x),
    "not in": lambda x: "name" not in x,
    "len": len,
    "bool": bool,
    "not": lambda x: not x,
    "if": lambda x: 1 if x else 2,
    "for": lambda x: [name for name in x],  # noqa: C416
    "iter": lambda x: list(iter(x)),
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "sorted": sorted,
    "reversed": lambda x: list(reversed(x)),
    "enumerate": lambda x: list(enumerate(x)),
    "max": lambda x: max(x, default=""),
    "any": any,
    "next": lambda x: next(iter(x), None),
    "unpacked": lambda x: (lambda *names: names)(*x),
    "keys": lambda x: list(x.keys()),
    "keys, as a set": lambda x: x.keys() & {"name", "none"},
    "values": lambda x: list(x.values()),
    "items": lambda x: list(x.items()),
    "items, backwards": lambda x: list(reversed(x.items())),
    "get": lambda x: (x.get("name"), x.get("none"), x.get("none", 5)),
    "[]": lambda x: x["name"] if "name" in x else None,  # noqa: SIM401
    "%": lambda x: "%(name)s" % x if x else None,  # noqa: UP031
    "format_map": lambda x: "{name}".format_map(x) if x else None,
    "format(**x)": lambda x: "{}".format(*x) if x else None,
    "match": _matched,
    "copy": lambda x: x.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "dict.fromkeys": lambda x: dict.fromkeys(x, 1),
    "OrderedDict": collections.OrderedDict,
    "UserDict": lambda x: dict(collections.UserDict(x)),
    "ChainMap": lambda x: dict(collections.ChainMap({"more": 1}, x)),
    "defaultdict": lambda x: collections.defaultdict(int, x),
    "MappingProxyType": lambda x: (len(types.MappingProxyType(x)), dict(types.MappingProxyType(x))),
}
"""What reads a dict and gives a result; from a session it has to be the same one."""

CASES = {
    f"{name}, {when} its first touch": (open_it, values, new, touched)
    for (name, open_it, values, new), (when, touched) in product(
        [
            ("loaded lazily, full", Site.lazy, FULL, False),
            ("loaded lazily, empty", Site.lazy, {}, False),
            ("loaded eagerly, full", Site.eager, FULL, False),
            ("loaded eagerly, empty", Site.eager, {}, False),
            ("new", Site.lazy, {}, True),
            ("new on an event loop", Site.eager, {}, True),
        ],
        [("before", False), ("after", True)],
    )
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Session, dict[str, Any]]:
    """A session, and the plain dict that it has to be like."""
    open_it, values, new, touched = CASES[request.param]
    session = open_it(Site(values, new=new))
    if touched:
        assert len(session) == len(values)
    return session, copy.deepcopy(values)


@pytest.mark.parametrize("read", READERS.values(), ids=READERS.keys())
def test_reading_gives_what_a_dict_gives(case: tuple[Session, dict[str, Any]], read: Callable[[Any], Any]) -> None:
    session, plain = case
    expected = read(plain)
    found = read(session)
    assert found == expected
    assert type(found) is type(expected)
    assert session.accessed


def test_a_session_is_a_dict(case: tuple[Session, dict[str, Any]]) -> None:
    session, _ = case
    assert isinstance(session, dict)
    assert isinstance(session, collections.abc.MutableMapping)


def test_a_name_that_is_not_there_is_a_key_error(case: tuple[Session, dict[str, Any]]) -> None:
    session, _ = case
    with pytest.raises(KeyError, match="none"):
        session["none"]
    with pytest.raises(KeyError, match="none"):
        del session["none"]
    with pytest.raises(KeyError, match="none"):
        session.pop("none")
    assert session.pop("none", 5) == 5


def test_removing_gives_what_a_dict_gives(case: tuple[Session, dict[str, Any]]) -> None:
    session, plain = case
    assert session.pop("name", None) == plain.pop("name", None)
    while plain:
        assert session.popitem() == plain.popitem()
    assert session == {}
    with pytest.raises(KeyError):
        session.popitem()


def test_clearing_empties_it(case: tuple[Session, dict[str, Any]]) -> None:
    session, _ = case
    session.clear()
    assert (len(session), list(session), dict(session)) == (0, [], {})


def test_a_default_is_set_where_nothing_was(case: tuple[Session, dict[str, Any]]) -> None:
    session, plain = case
    assert session.setdefault("name", "new") == plain.setdefault("name", "new")
    assert session.setdefault("none") is plain.setdefault("none")
    assert session == plain


def test_a_session_cannot_be_hashed(case: tuple[Session, dict[str, Any]]) -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(case[0])


@pytest.mark.parametrize("operation", [lambda x: x | 5, lambda x: 5 | x, lambda x: x | None, lambda x: x < {}])
def test_what_a_dict_refuses_is_refused(case: tuple[Session, dict[str, Any]], operation: Callable[[Any], Any]) -> None:
    session, plain = case
    for each in (plain, session):
        with pytest.raises(TypeError):
            operation(each)


def test_two_sessions_compare_as_two_dicts(full: Site) -> None:
    assert full.lazy() == full.lazy()
    assert full.eager() == full.lazy()
    assert Site(new=True).lazy() == Site({}).lazy()
    assert full.lazy() != Site({}).lazy()
    assert (full.lazy() == Site({}).lazy()) is False
    assert (full.lazy() != full.lazy()) is False


def test_a_session_can_be_put_into_another_one(full: Site, fresh: Site) -> None:
    session = fresh.lazy()
    session.update(full.lazy())
    assert session == FULL
    other = Site(new=True).lazy()
    other |= full.lazy()
    assert other == FULL


# -- copies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda x: x.copy(), copy.copy, copy.deepcopy, dict, lambda x: x | {}])
def test_a_copy_is_a_plain_dict_with_a_life_of_its_own(full: Site, make: Callable[[Session], Any]) -> None:
    session = full.lazy()
    made = make(session)
    assert type(made) is dict
    made["name"] = "other"
    del made["n"]
    assert session == FULL


def test_a_deep_copy_shares_nothing(full: Site) -> None:
    session = full.lazy()
    copy.deepcopy(session)["cart"].append("other")
    [inside] = copy.deepcopy([session])
    inside["cart"].append("other")
    assert session == FULL
    assert not session.modified


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_session_cannot_be_pickled(case: tuple[Session, dict[str, Any]], protocol: int) -> None:
    with pytest.raises(TypeError, match=r"pickle dict\(session\)"):
        pickle.dumps(case[0], protocol)
    assert pickle.loads(pickle.dumps(dict(case[0]), protocol)) == case[1]


def test_fromkeys_makes_a_plain_dict() -> None:
    made = Session.fromkeys(["a", "b"], 1)
    assert (type(made), made) == (dict, {"a": 1, "b": 1})


# -- printing ----------------------------------------------------------------------------------------------------------

PRINTERS: dict[str, Callable[[Any], str]] = {
    "repr": repr,
    "str": str,
    "format": "{}".format,
    "f-string": lambda x: f"{x!r} {x!s}",
    "%": lambda x: "%s %r" % (x, x),  # noqa: UP031
    "pprint": pprint.pformat,
    "reprlib": reprlib.repr,
    "an environ": lambda x: str({"vedsess.session": x, "PATH_INFO": "/"}),
    "an environ, pprinted": lambda x: pprint.pformat({"vedsess.session": x, "PATH_INFO": "/"}),
    "a log record": lambda x: logging.makeLogRecord({"msg": "%s", "args": ([x],)}).getMessage(),
    "its state": lambda x: repr(state_of(x)),
}


@pytest.mark.parametrize("show", PRINTERS.values(), ids=PRINTERS.keys())
@pytest.mark.parametrize("touched", [False, True])
def test_printing_neither_loads_it_nor_shows_a_value_or_the_id(
    full: Site, show: Callable[[Any], str], touched: bool
) -> None:
    session = full.lazy()
    if touched:
        session["secret"] = "hunter2"
        session.login("hunter2")
    before = full.store.loads
    shown = show(session)
    assert full.store.loads == before
    assert session.accessed is touched
    assert "hunter2" not in shown
    assert (session.id or "?")[:6] not in shown
    assert shown


def test_what_is_printed_says_what_state_it_is_in(full: Site, fresh: Site) -> None:
    session = full.lazy()
    session["a"] = 1
    assert repr(session) == str(session) == "<Session not loaded>"
    assert session["n"] == 0
    assert repr(session) == "<Session 0.1, 4 values>"
    assert repr(full.eager()) == "<Session 0.1, 3 values>"
    assert repr(fresh.lazy()) == "<Session new, 0 values>"
    assert repr(Site({}).eager()) == "<Session 0.1, 0 values>"


def test_changes_do_not_show_values(full: Site) -> None:
    session = full.lazy()
    session["a"] = "hunter2"
    assert "hunter2" not in repr(session.changes())


# -- what loads, and what counts as access -----------------------------------------------------------------------------

ATTRIBUTES: dict[str, Callable[[Session], Any]] = {
    name: lambda x, name=name: getattr(x, name)  # type: ignore[misc]
    for name in ("id", "is_new", "user_id", "created_at", "last_activity", "expires_at", "store", "stale")
}
CHANGERS: dict[str, Callable[[Session], Any]] = {
    "pop": lambda x: x.pop("name", None),
    "popitem": lambda x: x.popitem(),
    "setdefault": lambda x: x.setdefault("name", 1),
    "clear": lambda x: x.clear(),
    "del": lambda x: x.__delitem__("name"),
    "login": lambda x: x.login("bob"),
    "regenerate_id": lambda x: x.regenerate_id(),
    "assign": lambda x: x.assign({"a": 1}),
}
WRITERS: dict[str, Callable[[Session], Any]] = {
    "[]=": lambda x: x.__setitem__("a", 1),
    "update, a dict": lambda x: x.update({"a": 1}),
    "update, pairs": lambda x: x.update([("a", 1)]),
    "update, names": lambda x: x.update(a=1),
    "update, both": lambda x: x.update({"a": 1}, b=2),
    "|=": lambda x: x.__ior__({"a": 1}),
    "|=, pairs": lambda x: x.__ior__([("a", 1)]),
}
NEITHER: dict[str, Callable[[Session], Any]] = {
    **PRINTERS,
    "isinstance": lambda x: isinstance(x, dict),
    "accessed": lambda x: x.accessed,
    "modified": lambda x: x.modified,
    "callable": callable,
    "is None": lambda x: x is None,
    "hasattr": lambda x: hasattr(x, "nothing"),
    "fromkeys": lambda x: x.fromkeys("a"),
    "changes": lambda x: x.changes(),
}
LOOKS = {**READERS, **ATTRIBUTES, **CHANGERS}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
def test_whoever_looks_into_it_loads_it_once_and_has_accessed_it(full: Site, look: Callable[[Session], Any]) -> None:
    session = full.lazy()
    assert not session.accessed
    look(session)
    assert session.accessed
    assert dict(session) is not session
    assert full.store.loads == 1


@pytest.mark.parametrize("look", {**READERS, **ATTRIBUTES}.values(), ids={**READERS, **ATTRIBUTES}.keys())
@pytest.mark.parametrize(("values", "new"), [(FULL, False), ({}, False), ({}, True)], ids=["full", "empty", "new"])
@pytest.mark.parametrize("written", [False, True])
def test_whoever_looks_into_a_loaded_one_has_accessed_it(
    values: dict[str, Any], new: bool, written: bool, look: Callable[[Session], Any]
) -> None:
    session = Site(values, new=new).eager()
    if written:
        session.update({})
    assert not session.accessed
    look(session)
    assert session.accessed
    assert not session.modified


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS.keys())
@pytest.mark.parametrize("open_it", [Site.lazy, Site.eager])
def test_whoever_only_writes_neither_loads_nor_accesses_it(
    full: Site, open_it: Callable[[Site], Session], write: Callable[[Session], Any]
) -> None:
    session = open_it(full)
    loads = full.store.loads
    write(session)
    assert session.modified
    assert full.store.loads == loads
    assert not session.accessed
    assert session["a"] == 1
    assert session["name"] == "hunter2"
    assert full.store.loads == 1


@pytest.mark.parametrize("do", NEITHER.values(), ids=NEITHER.keys())
@pytest.mark.parametrize("open_it", [Site.lazy, Site.eager])
def test_what_needs_no_value_neither_loads_nor_touches_it(
    full: Site, open_it: Callable[[Site], Session], do: Callable[[Session], Any]
) -> None:
    session = open_it(full)
    loads = full.store.loads
    do(session)
    assert full.store.loads == loads
    assert not state_of(session).touched


def test_every_method_of_a_dict_is_a_reader_or_a_writer() -> None:
    """What is inherited as it is would look into a session that is not loaded."""
    inherited = {name for name in vars(dict) if name not in {**vars(Contents), **vars(Session)}}
    always_refused = {"__lt__", "__le__", "__gt__", "__ge__"}
    without_a_look = {"__class_getitem__", "__getattribute__", "__new__", "__sizeof__"}
    assert inherited == always_refused | without_a_look


def test_a_new_session_asks_no_store(fresh: Site) -> None:
    assert list(fresh.lazy()) == []
    assert fresh.store.loads == 0


# -- blind writes ------------------------------------------------------------------------------------------------------


def test_what_was_written_blindly_wins_over_what_was_stored(full: Site) -> None:
    session = full.lazy()
    session["name"] = "new"
    session["more"] = 1
    assert session == {**FULL, "name": "new", "more": 1}
    assert list(session) == ["name", "cart", "n", "more"]


def test_a_blind_write_is_committed_without_loading(full: Site) -> None:
    session = full.lazy()
    session["more"] = 1
    full.commit(session)
    assert full.store.loads == 0
    assert full.lazy() == {**FULL, "more": 1}


def test_a_blind_write_of_what_is_stored_already_counts_as_modified_until_it_is_loaded(full: Site) -> None:
    session = full.lazy()
    session["n"] = 0
    assert session.modified
    assert len(session) == 3
    assert not session.modified


def test_with_two_genuine_cookies_a_write_first_finds_out_which_is_alive(full: Site) -> None:
    other = Site(new=True)
    other.manager = full.manager
    session = other.lazy()
    session["a"] = 1
    other.commit(session)
    both = full.manager.begin(f"{full.cookie}; {other.cookie}")
    both["b"] = 2
    assert full.store.loads == 1
    assert not both.accessed


# -- what changed ------------------------------------------------------------------------------------------------------


def test_nothing_changed_unless_it_was_touched(full: Site) -> None:
    assert full.lazy().changes() == full.eager().changes() == Changes()
    assert not Changes()


def test_reading_changes_nothing(full: Site) -> None:
    session = full.lazy()
    assert session == FULL
    assert session.changes() == Changes()
    assert full.commit(session) is None


def test_a_nested_edit_is_noticed(full: Site) -> None:
    session = full.lazy()
    session["cart"].append("more")
    assert session.modified
    assert session.changes() == Changes(put={"cart": '["hunter2","more"]'})


@pytest.mark.parametrize(
    "edit",
    [
        lambda x: x["a"]["b"].append(3),
        lambda x: x["a"].update(c=1),
        lambda x: x.get("a").clear(),
        lambda x: next(iter(x.values())).popitem(),
        lambda x: next(value for _, value in x.items()).setdefault("d", {}),
        lambda x: dict(x)["a"]["b"].pop(),
        lambda x: {**x}["a"]["b"].reverse(),
        lambda x: x.copy()["a"]["b"].insert(0, 0),
        lambda x: x.setdefault("a", None).update(e=1),
    ],
)
@pytest.mark.parametrize("open_it", [Site.lazy, Site.eager])
def test_a_nested_edit_is_noticed_however_the_value_was_had(
    edit: Callable[[Session], Any], open_it: Callable[[Site], Session]
) -> None:
    site = Site({"a": {"b": [1, 2]}, "other": 1})
    session = open_it(site)
    edit(session)
    assert set(session.changes().put) == {"a"}
    expected = dict(session)
    site.commit(session)
    assert site.lazy() == expected


def test_only_what_differs_is_written(full: Site) -> None:
    session = full.lazy()
    session.update(name="hunter2", n=1, cart=["hunter2"], more=None)
    assert len(session) == 4
    assert session.changes() == Changes(put={"n": "1", "more": "null"})


def test_a_value_that_changed_its_type_alone_has_changed(full: Site) -> None:
    session = full.lazy()
    session["n"] = False
    assert session["n"] == 0
    assert session.changes() == Changes(put={"n": "false"})


def test_an_edit_that_was_taken_back_is_none(full: Site) -> None:
    session = full.lazy()
    session["cart"].append("more")
    session["cart"].pop()
    name = session.pop("name")
    session["name"] = name
    assert not session.modified


@pytest.mark.parametrize(
    "remove",
    [lambda x: x.__delitem__("name"), lambda x: x.pop("name"), lambda x: x.assign({"cart": ["hunter2"], "n": 0})],
)
def test_a_removal_is_noticed(full: Site, remove: Callable[[Session], Any]) -> None:
    session = full.lazy()
    remove(session)
    assert session.modified
    assert session.changes() == Changes(drop=("name",))
    full.commit(session)
    assert full.lazy() == {"cart": ["hunter2"], "n": 0}


def test_clearing_removes_everything(full: Site) -> None:
    session = full.lazy()
    session.clear()
    assert set(session.changes().drop) == set(FULL)
    full.commit(session)
    assert full.lazy() == {}
    assert full.lazy().user_id == "ada"


def test_in_a_new_session_nothing_can_be_removed(fresh: Site) -> None:
    session = fresh.lazy()
    session["a"] = 1
    del session["a"]
    assert not session.modified
    assert fresh.commit(session) is None


def deleted(stamps: dict[str, int]) -> Session:
    """A session whose record remembers these deletions, and holds one value."""
    fields = {name: Field(Version(0, stamp), None) for name, stamp in stamps.items()}
    record = Record.new(at=AT, idle_timeout=60.0, deadline_at=AT + 600.0, version=Version(0, 500))
    record = record.replace(fields={**fields, "kept": Field(Version(0, 1), "1")})
    session = Site({}).eager()
    state = state_of(session)
    state.record, state.encoded = record, record.values
    return session


def test_deletions_are_remembered_up_to_a_limit() -> None:
    session = deleted({f"d{number}": number for number in range(KEPT_DELETIONS)})
    session["a"] = 1
    assert session.changes() == Changes(put={"a": "1"})


def test_the_oldest_deletions_beyond_the_limit_are_forgotten() -> None:
    session = deleted({f"d{number:02}": number for number in range(KEPT_DELETIONS + 3)})
    session["a"] = 1
    assert set(session.changes().forget) == {"d00", "d01", "d02"}


def test_a_name_that_is_written_again_is_not_forgotten() -> None:
    session = deleted({f"d{number:02}": number for number in range(KEPT_DELETIONS + 2)})
    session["d00"] = 1
    changes = session.changes()
    assert (set(changes.put), set(changes.forget)) == ({"d00"}, {"d01"})


def test_what_nobody_looked_at_forgets_nothing() -> None:
    assert deleted({f"d{number}": number for number in range(99)}).changes() == Changes()


# -- what cannot be stored ---------------------------------------------------------------------------------------------


class Name(str):
    """Not quite a str."""

    __slots__ = ()


@pytest.mark.parametrize("name", [1, None, ("a",), b"a", Name("a"), 1.5])
def test_a_name_that_is_no_str_is_refused_at_commit(fresh: Site, name: Any) -> None:
    session = fresh.lazy()
    session[name] = "hunter2"
    with pytest.raises(SerializationError, match=f"session keys are strings.*{type(name).__name__}$"):
        fresh.commit(session)
    with pytest.raises(SerializationError):
        assert session.modified


def test_a_value_that_no_codec_knows_is_refused_at_commit(fresh: Site) -> None:
    session = fresh.lazy()
    session["thing"] = [object()]
    with pytest.raises(SerializationError, match="thing") as caught:
        fresh.commit(session)
    assert "object" in str(caught.value)


# -- who it is ---------------------------------------------------------------------------------------------------------


def test_a_new_session_knows_nothing_of_itself(fresh: Site) -> None:
    session = fresh.lazy()
    assert (session.id, session.is_new, session.user_id) == (None, True, None)
    assert (session.created_at, session.last_activity, session.expires_at) == (None, None, None)
    assert (session.store, session.stale) == ("", False)


def test_a_stored_session_knows_when_it_began_and_when_it_ends(full: Site) -> None:
    session = full.lazy()
    assert (session.is_new, session.user_id) == (False, "ada")
    assert (session.created_at, session.last_activity, session.expires_at) == (AT, AT, AT + 86400.0)
    assert (session.store, session.stale) == ("memory", False)
    assert session.id is not None
    assert session.id in full.cookie


def test_a_session_is_over_at_its_deadline_whatever_else_its_record_says(full: Site) -> None:
    session = full.lazy()
    assert session.id is not None
    key, record = hashlib.sha256(session.id.encode()).hexdigest(), state_of(session).record
    assert record is not None
    full.store.merge(key, record.replace(deadline_at=AT + 10.0))
    full.now = AT + 9.0
    assert full.lazy() == FULL
    full.now = AT + 10.0
    assert full.lazy().is_new


def test_a_value_called_user_id_is_no_login(fresh: Site) -> None:
    session = fresh.lazy()
    session["user_id"] = "bob"
    assert session.user_id is None
    fresh.commit(session)
    assert fresh.lazy().user_id is None
    assert fresh.lazy()["user_id"] == "bob"


# -- intents -----------------------------------------------------------------------------------------------------------


def test_a_login_is_seen_at_once_and_done_at_commit(full: Site) -> None:
    session = full.lazy()
    old_id = session.id
    session.login("ada")
    assert (session.user_id, session.id, session.modified) == ("ada", old_id, True)
    assert full.commit(session) is not None
    assert session.id != old_id
    again = full.lazy()
    assert (again.user_id, again.id) == ("ada", session.id)
    assert again == FULL


def test_a_login_of_another_user_takes_nothing_along_but_what_this_request_wrote(full: Site) -> None:
    session = full.lazy()
    session["cart"].append("edited")
    session["welcome"] = "bob"
    session.login("bob")
    assert session == {"welcome": "bob"}
    full.commit(session)
    assert (full.lazy().user_id, full.lazy()) == ("bob", {"welcome": "bob"})


@pytest.mark.parametrize(("given_id", "kept"), [(7, "7"), (0, "0"), ("ada", "ada"), ("é" * 255, "é" * 255)])
def test_a_user_id_is_kept_as_text(fresh: Site, given_id: str | int, kept: str) -> None:
    session = fresh.lazy()
    session.login(given_id)
    fresh.commit(session)
    assert fresh.lazy().user_id == kept


@pytest.mark.parametrize("user_id", ["", "a" * 256])
def test_an_empty_or_endless_user_id_is_refused(fresh: Site, user_id: str) -> None:
    session = fresh.lazy()
    with pytest.raises(ValueError, match="1 to 255"):
        session.login(user_id)
    assert not session.modified


def test_a_new_id_keeps_user_and_values(full: Site) -> None:
    session = full.lazy()
    old_cookie, old_id = full.cookie, session.id
    session.regenerate_id()
    assert (session.modified, session.id) == (True, old_id)
    full.commit(session)
    assert full.lazy().id != old_id
    assert (full.lazy().user_id, full.lazy()) == ("ada", FULL)
    full.cookie = old_cookie
    assert full.lazy() == FULL  # a request that was under way goes on
    full.now += 11
    assert full.lazy().is_new


def test_a_new_id_for_a_new_session_is_no_change(fresh: Site) -> None:
    session = fresh.lazy()
    session.regenerate_id()
    assert not session.modified
    assert fresh.commit(session) is None


def test_a_new_id_does_not_undo_a_login(full: Site) -> None:
    session = full.lazy()
    session.login("bob")
    session.regenerate_id()
    full.commit(session)
    assert full.lazy().user_id == "bob"


@pytest.mark.parametrize("end", [Session.logout, Session.invalidate])
def test_a_logout_empties_it_at_once_without_loading_it(full: Site, end: Callable[[Session], None]) -> None:
    session = full.lazy()
    session["written"] = 1
    end(session)
    assert session.modified
    assert (dict(session), json.dumps(session), len(session)) == ({}, "{}", 0)
    assert (session.id, session.is_new, session.user_id) == (None, True, None)
    assert full.store.loads == 0


def test_a_logout_ends_it_at_commit(full: Site) -> None:
    session, old_cookie = full.lazy(), full.cookie
    session.logout()
    set_cookie = full.commit(session)
    assert set_cookie is not None
    assert "Max-Age=0" in set_cookie
    full.cookie = old_cookie
    assert full.lazy().is_new
    assert full.lazy() == {}


def test_what_is_written_after_a_logout_starts_a_new_anonymous_session(full: Site) -> None:
    session, old_cookie = full.lazy(), full.cookie
    session["cart"].append("more")
    session.logout()
    session["flash"] = "bye"
    assert session == {"flash": "bye"}
    full.commit(session)
    assert full.cookie.partition(".")[0] != old_cookie.partition(".")[0]
    assert full.lazy() == {"flash": "bye"}
    assert full.lazy().user_id is None


def test_a_login_after_a_logout_is_a_new_session(full: Site) -> None:
    session = full.lazy()
    session.logout()
    session.login("bob")
    full.commit(session)
    assert (full.lazy().user_id, full.lazy()) == ("bob", {})


def test_a_logout_takes_back_a_login_of_the_same_request(full: Site) -> None:
    session = full.lazy()
    session.login("bob")
    session.logout()
    full.commit(session)
    assert full.lazy().is_new


def test_a_logout_of_nobody_is_no_change(fresh: Site) -> None:
    session = fresh.lazy()
    session["a"] = 1
    session.logout()
    assert not session.modified
    assert fresh.commit(session) is None


# -- without a store ---------------------------------------------------------------------------------------------------


@pytest.fixture(params=[Site.lazy, Site.eager])
def out_of_reach(full: Site, request: pytest.FixtureRequest) -> Session:
    """A session that no store can give."""
    full.store.failing = True
    session: Session = request.param(full)
    return session


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS.keys())
def test_looking_into_what_no_store_can_give_is_an_error_and_never_an_empty_session(
    out_of_reach: Session, look: Callable[[Session], Any]
) -> None:
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            look(out_of_reach)
    assert state_of(out_of_reach).refused


def test_after_a_failure_writing_is_an_error_too(out_of_reach: Session) -> None:
    with pytest.raises(StoreUnavailable):
        len(out_of_reach)
    with pytest.raises(StoreUnavailable):
        out_of_reach["a"] = 1


def test_what_nobody_looks_at_may_be_out_of_reach(out_of_reach: Session) -> None:
    assert repr(out_of_reach) == "<Session not loaded>"
    assert not out_of_reach.modified
    assert not state_of(out_of_reach).refused


def test_a_logout_needs_no_store_until_the_commit(out_of_reach: Session) -> None:
    out_of_reach.logout()
    assert out_of_reach == {}


# -- saving now --------------------------------------------------------------------------------------------------------


def test_saving_does_what_the_front_end_said(full: Site) -> None:
    session, saved = full.lazy(), list[Session]()

    async def save() -> None:
        saved.append(session)

    state_of(session).save = save
    run_blocking(session.save())
    assert saved == [session]


def test_saving_without_a_front_end_commits(full: Site) -> None:
    session = full.lazy()
    session["n"] = 2
    run_blocking(session.save())
    assert full.lazy()["n"] == 2


# -- cookies are judged when it is touched -----------------------------------------------------------------------------


@pytest.mark.parametrize("do", NEITHER.values(), ids=NEITHER.keys())
def test_no_signature_is_verified_for_a_request_that_leaves_its_session_alone(
    full: Site, do: Callable[[Session], Any]
) -> None:
    session = full.manager.begin("vedsess=forged; vedsess=forged too")
    do(session)
    assert full.commit(session) is None
    assert full.events == []


TOUCHES: dict[str, Callable[[Session], Any]] = {**LOOKS, **WRITERS, "logout": Session.logout}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES.keys())
def test_whoever_touches_it_has_its_cookies_judged_once(fresh: Site, touch: Callable[[Session], Any]) -> None:
    session = fresh.manager.begin("vedsess=forged; vedsess=forged too")
    for _ in range(2):
        with suppress(KeyError):
            touch(session)
    assert fresh.events == [CookieRejected(reason="bad signature")] * 2
    assert session.is_new
    assert fresh.store.loads == 0


def test_a_session_that_is_loaded_has_its_cookies_judged(full: Site) -> None:
    run_blocking(full.manager.open("vedsess=forged"))
    assert full.events == [CookieRejected(reason="bad signature")]


def test_a_blind_write_under_a_cookie_that_is_not_ours_begins_a_session(fresh: Site) -> None:
    session = fresh.manager.begin("vedsess=forged")
    session["n"] = 1
    fresh.commit(session)
    assert fresh.lazy() == {"n": 1}
    assert [type(event).__name__ for event in fresh.events] == ["CookieRejected", "SessionCreated"]


# -- a value is decoded when it is handed out --------------------------------------------------------------------------

SEEN_NAMES: dict[str, Callable[[Session], Any]] = {
    name: READERS[name] for name in ("in", "not in", "len", "bool", "not", "if")
}
SEEN_ONE: dict[str, Callable[[Session], Any]] = {
    **{name: READERS[name] for name in ("get", "[]", "%", "format_map")},
    "pop": lambda x: x.pop("name", None),
    "setdefault": lambda x: x.setdefault("name", 1),
}
SEEN_ALL = {
    name: read
    for name, read in {**READERS, "popitem": lambda x: x and x.popitem()}.items()
    if name not in {**SEEN_NAMES, **SEEN_ONE}
}
LENGTH_FIRST = [
    SEEN_ALL[name]
    for name in ("format(**x)", "MappingProxyType", "popitem", "json, indented", "json, sorted", "json, piece by piece")
]
DROPPED: dict[str, Callable[[Session], Any]] = {
    name: CHANGERS[name] for name in ("clear", "del", "assign", "regenerate_id")
}


@pytest.mark.parametrize("open_it", [Site.lazy, Site.eager])
@pytest.mark.parametrize(
    ("look", "count"),
    [
        *((look, 0) for look in {**SEEN_NAMES, **DROPPED, **ATTRIBUTES, **WRITERS, **NEITHER}.values()),
        *((look, 1) for look in SEEN_ONE.values()),
        *((look, 3) for look in SEEN_ALL.values()),
    ],
    ids=[*SEEN_NAMES, *DROPPED, *ATTRIBUTES, *WRITERS, *NEITHER, *SEEN_ONE, *SEEN_ALL],
)
def test_what_is_not_handed_out_is_not_decoded(
    full: Site, open_it: Callable[[Site], Session], look: Callable[[Session], Any], count: int
) -> None:
    session = open_it(full)
    look(session)
    full.commit(session)
    assert len(full.codec.decoded) == count


def test_a_value_is_decoded_once(full: Site) -> None:
    session = full.lazy()
    for _ in range(2):
        assert session["cart"] is session.get("cart") is session.setdefault("cart", 1) is dict(session)["cart"]
    assert len(full.codec.decoded) == 3
    session["n"] += 1
    assert session["n"] == 1
    assert len(full.codec.decoded) == 3


def test_what_was_written_is_never_decoded(full: Site) -> None:
    session = full.lazy()
    session["name"] = "new"
    assert session == {**FULL, "name": "new"}
    assert sorted(full.codec.decoded) == ["0", '["hunter2"]']


def test_what_reads_the_memory_of_the_dict_finds_no_values_but_what_to_do(full: Site) -> None:
    session = full.lazy()
    assert len(session) == 3
    assert [repr(value) for value in dict.values(session)] == ["<not decoded yet: use dict(session)>"] * 3


# -- only what can have changed is encoded -----------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{**FULL, "f": 1.5, "none": None, "b": b"b", "when": datetime(2026, 1, 2, 3, 4)}])
@pytest.mark.parametrize(
    ("work", "encoded"),
    [
        (len, []),
        (lambda x: x["name"], []),
        (lambda x: x.pop("name"), []),
        (lambda x: x["cart"], ["cart"]),
        (dict, ["cart"]),
        (lambda x: x.update(n=1), ["n"]),
        (lambda x: x.update(n=x["n"] + 1), ["n"]),
        (lambda x: (x["name"], x["cart"], x.update(more=[])), ["cart", "more"]),
        (lambda x: x.regenerate_id(), []),
        (lambda x: (x.login("ada"), x["name"]), []),
        (lambda x: (x.login("ada"), x.update(n=1)), ["n"]),
        (lambda x: x.logout(), []),
    ],
)
def test_a_value_that_cannot_have_changed_is_not_encoded(
    values: dict[str, Any], work: Callable[[Session], Any], encoded: list[str]
) -> None:
    site = Site(values)
    session = site.lazy()
    work(session)
    site.commit(session)
    assert site.codec.encoded == encoded


def test_a_value_of_a_subclass_of_a_plain_type_may_have_changed() -> None:
    """`_CONSTANTS` are exact types: what a codec of the app's own makes may be editable."""

    class Text(str):
        def __init__(self, _: object) -> None:
            self.edits = 0

    class Custom(CountingCodec):
        def encode(self, name: str, value: object) -> str:
            return super().encode(name, [str(value), value.edits] if isinstance(value, Text) else value)

        def decode(self, text: str) -> object:
            value = super().decode(text)
            return Text(value[0]) if isinstance(value, list) else value

    site = Site(FULL)
    session = SessionManager(site.store, Settings(secret_key=KEY), codec=Custom(), clock=lambda: AT).begin(site.cookie)
    session["cart"].edits = 7
    assert session.changes() == Changes(put={"cart": '["hunter2",7]'})


@pytest.mark.parametrize("remove", [lambda x: x.update(n=1), lambda x: x.pop("n")])
def test_a_value_that_is_put_back_after_a_commit_has_changed_again(
    full: Site, remove: Callable[[Session], Any]
) -> None:
    session = full.lazy()
    before = session["n"]
    remove(session)
    full.commit(session)
    session["n"] = before
    full.commit(session)
    assert full.lazy() == FULL


@pytest.mark.parametrize("change_id", [lambda x: x.login("ada"), lambda x: x.regenerate_id()])
def test_a_new_id_takes_edits_and_removals_along(full: Site, change_id: Callable[[Session], Any]) -> None:
    session = full.lazy()
    session["cart"].append("more")
    n = session.pop("n")
    change_id(session)
    full.commit(session)
    assert full.lazy() == {"name": "hunter2", "cart": ["hunter2", "more"]}
    session["n"] = n
    full.commit(session)
    assert full.lazy() == {**FULL, "cart": ["hunter2", "more"]}


def test_after_a_write_it_knows_what_is_stored(full: Site) -> None:
    session = full.lazy()
    session["n"] = session["n"] + 1
    full.now += 30.0
    full.commit(session)
    assert (session.created_at, session.last_activity, session.expires_at) == (AT, AT + 30.0, AT + 86430.0)
    assert (session.user_id, session.store, session.is_new) == ("ada", "memory", False)
    assert repr(session) == "<Session 0.2, 3 values>"


def test_after_a_first_write_it_knows_what_is_stored(fresh: Site) -> None:
    session = fresh.lazy()
    session["n"] = 1
    fresh.commit(session)
    assert (session.created_at, session.expires_at, session.is_new) == (AT, AT + 86400.0, False)
    assert repr(session) == "<Session 0.1, 1 values>"


def test_changes_that_were_refused_are_not_tried_again(fresh: Site) -> None:
    session = fresh.lazy()
    session["n"] = [1]
    for _ in range(2):
        assert run_blocking(fresh.manager.commit(session, headers_left=True)) is None
    assert [type(event) for event in fresh.events] == [WriteRefused]


# -- a value that cannot be read ---------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(full: Site) -> Site:
    """A browser whose session has one value that no codec can read, `name`."""
    full.spoil("name")
    return full


@pytest.mark.parametrize("open_it", [Site.lazy, Site.eager])
@pytest.mark.parametrize("read", SEEN_ALL.values(), ids=SEEN_ALL.keys())
def test_a_session_with_a_value_that_cannot_be_read_is_an_empty_one(
    spoilt: Site, open_it: Callable[[Site], Session], read: Callable[[Any], Any]
) -> None:
    session, plain = open_it(spoilt), dict[str, Any]()
    if read in LENGTH_FIRST:
        assert dict(session) == {}
    assert read(session) == read(plain)
    assert [type(event) for event in spoilt.events] == [RecordRejected]


@pytest.mark.parametrize("open_it", [Site.lazy, Site.eager])
def test_asking_for_a_value_that_cannot_be_read_is_asking_for_none(
    spoilt: Site, open_it: Callable[[Site], Session]
) -> None:
    assert open_it(spoilt).get("name") is None
    assert open_it(spoilt).get("name", 5) == 5
    assert open_it(spoilt).pop("name", 5) == 5
    assert open_it(spoilt).setdefault("name", 5) == 5
    with pytest.raises(KeyError, match="name"):
        open_it(spoilt)["name"]
    with pytest.raises(KeyError, match="name"):
        open_it(spoilt).pop("name")
    assert [type(event) for event in spoilt.events] == [RecordRejected] * 6


def test_a_value_that_cannot_be_read_ends_the_session_for_this_request(spoilt: Site) -> None:
    session = spoilt.lazy()
    assert session["n"] == 0
    assert (session.user_id, session.is_new) == ("ada", False)
    session_id = session.id or "none"
    assert session.get("name") is None
    assert (dict(session), session.id, session.is_new, session.user_id, session.created_at) == (
        {},
        None,
        True,
        None,
        None,
    )
    assert repr(session) == "<Session new, 0 values>"
    assert not session.modified
    assert spoilt.commit(session) is None
    [event] = spoilt.events
    assert isinstance(event, RecordRejected)
    assert event.session == event_name(KEY, hashlib.sha256(session_id.encode()).hexdigest())
    assert "not json" not in event.reason


def test_after_a_value_that_cannot_be_read_only_what_the_app_wrote_begins_a_new_session(spoilt: Site) -> None:
    session, old_cookie = spoilt.lazy(), spoilt.cookie
    session["flash"] = "hello"
    session["cart"].append("more")
    session["n"] = session["n"] + 1
    session.regenerate_id()
    assert session.get("name") is None
    session["late"] = 1
    assert dict(session) == {"flash": "hello", "n": 1, "late": 1}
    assert spoilt.commit(session) is not None
    assert spoilt.cookie.partition(".")[0] != old_cookie.partition(".")[0]
    assert spoilt.lazy() == {"flash": "hello", "n": 1, "late": 1}
    assert spoilt.lazy().user_id is None
    assert [type(event).__name__ for event in spoilt.events] == ["RecordRejected", "SessionCreated"]


def test_a_new_id_is_not_needed_after_a_value_that_cannot_be_read(spoilt: Site) -> None:
    session = spoilt.lazy()
    session.regenerate_id()
    assert session.get("name") is None
    assert not session.modified


def test_a_login_goes_on_after_a_value_that_cannot_be_read(spoilt: Site) -> None:
    session = spoilt.lazy()
    session.login("bob")
    assert session.get("name") is None
    assert session.user_id == "bob"
    spoilt.commit(session)
    assert (spoilt.lazy().user_id, spoilt.lazy()) == ("bob", {})


def test_a_value_that_cannot_be_read_harms_nobody_who_does_not_ask_for_it(spoilt: Site) -> None:
    session = spoilt.lazy()
    assert ("name" in session, len(session), session["n"], session["cart"]) == (True, 3, 0, ["hunter2"])
    session["n"] = 1
    spoilt.commit(session)
    session = spoilt.lazy()
    assert session["n"] == 1
    session["name"] = "mended"
    spoilt.commit(session)
    assert spoilt.lazy() == {**FULL, "name": "mended", "n": 1}
    assert spoilt.events == []


def test_a_value_that_cannot_be_read_can_be_removed(spoilt: Site) -> None:
    session = spoilt.lazy()
    del session["name"]
    spoilt.commit(session)
    assert spoilt.lazy() == {"cart": ["hunter2"], "n": 0}


# -- any sequence of operations ----------------------------------------------------------------------------------------

_names = st.sampled_from(["name", "cart", "n", "a", "é"])
_values = st.recursive(st.integers(-5, 5) | st.text(max_size=3) | st.none(), lambda inner: st.lists(inner, max_size=2))
_mappings = st.dictionaries(_names, _values, max_size=3)


def _operation(name: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(st.just(name), *arguments)


_OPERATIONS = st.one_of(
    _operation("__setitem__", _names, _values),
    _operation("update", _mappings),
    _operation("__ior__", _mappings),
    _operation("setdefault", _names, _values),
    _operation("pop", _names, st.none()),
    _operation("get", _names),
    _operation("__contains__", _names),
    _operation("__len__"),
    _operation("copy"),
    _operation("clear"),
)


@CALM
@given(
    requests=st.lists(st.lists(_OPERATIONS, max_size=6), max_size=3),
    start=_mappings,
    eager=st.booleans(),
    known=st.booleans(),
)
def test_any_sequence_of_operations_gives_what_a_dict_gives_and_is_kept(
    requests: list[list[tuple[Any, ...]]], start: dict[str, Any], eager: bool, known: bool
) -> None:
    site = Site(start, new=not known)
    plain = copy.deepcopy(start) if known else {}
    for operations in requests:
        session = site.eager() if eager else site.lazy()
        for name, *arguments in operations:
            assert getattr(session, name)(*copy.deepcopy(arguments)) == getattr(plain, name)(*copy.deepcopy(arguments))
        site.now += 1.0
        site.commit(session)
    assert site.lazy() == plain


def _edited(mapping: Any, name: str, value: Any) -> None:
    if isinstance(mapping.get(name), list):
        mapping[name].append(value)


_STEPS: dict[str, Callable[[Any, str, Any], Any]] = {
    "[]=": lambda x, name, value: x.__setitem__(name, value),
    "[]": lambda x, name, value: x[name] if name in x else value,  # noqa: SIM401
    "get": lambda x, name, value: x.get(name, value),
    "in": lambda x, name, value: name in x,
    "pop": lambda x, name, value: x.pop(name, value),
    "popitem": lambda x, name, value: x.popitem() if x else value,
    "setdefault": lambda x, name, value: x.setdefault(name, value),
    "put back": lambda x, name, value: x.__setitem__(name, x.get(name, value)),
    "moved": lambda x, name, value: x.__setitem__("a", x.get(name)),
    "edited": _edited,
    "clear": lambda x, name, value: x.clear(),
    "names": lambda x, name, value: sorted(x),
    "values": lambda x, name, value: sorted(map(repr, x.values())),
    "dict": lambda x, name, value: dict(x),
    "len": lambda x, name, value: (len(x), bool(x)),
    "==": lambda x, name, value: (x == {name: value}, x == {}),
    "|=": lambda x, name, value: x.__ior__({name: value}) and None,
}


@CALM
@given(
    start=_mappings,
    steps=st.lists(st.tuples(st.sampled_from([*_STEPS, "commit", "next request"]), _names, _values), max_size=15),
    eager=st.booleans(),
)
def test_values_that_are_decoded_late_and_committed_in_between_are_those_of_a_dict(
    start: dict[str, Any], steps: list[tuple[str, str, Any]], eager: bool
) -> None:
    site, plain = Site(start), copy.deepcopy(start)
    session = site.eager() if eager else site.lazy()
    for step, name, value in [*steps, ("next request", "", None)]:
        if step in _STEPS:
            found, expected = (_STEPS[step](each, name, copy.deepcopy(value)) for each in (session, plain))
            assert found == expected
            continue
        site.now += 1.0
        site.commit(session)
        if step == "next request":
            session = site.eager() if eager else site.lazy()
    assert session == plain
