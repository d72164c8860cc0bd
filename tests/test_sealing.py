"""Sealing: what is stored comes back as it was and where it was, or is refused for the right reason; never garbled."""

import base64
import doctest
import json
import re
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from string import ascii_letters
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import vedsess_middleware
from vedsess_middleware.codec import JsonCodec
from vedsess_middleware.console.keygen import new_key
from vedsess_middleware.errors import ConfigurationError, SerializationError, SessionTooLarge, StoreMisconfigured
from vedsess_middleware.sealing import (
    MARKS,
    FieldSealer,
    Opened,
    PlainSealer,
    Sealer,
    check_sizes,
    field_sealer,
    largest,
    sealers,
    sizes,
)

CALM = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NEWEST = "uV7cQ2xM9zL4kJ8hG1fD5sA3pO6iU0yTrEwNbVcXeRt"
OLDER = "Bn3mK7jH1gF9dS5aP0oI8uY2tR6eW4qLzXcVbNmQwEr"
STRANGE = "Zx1cV5bN9mL3kJ7hG0fD4sA8pO2iU6yTqWeRtYuIoPa"
KEY = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
OTHER_KEY = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
SECRET = '{"card":"hunter2"}'
UNTIL = 1_795_467_600.123
LONG = json.dumps(["the same again"] * 300)
ENCRYPTED = re.compile(r"(@[0-9]+:)?\$1z?\$[0-9a-f]{8}\$[A-Za-z0-9_-]+")

TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcé!$@", max_size=3), inner, max_size=3),
    max_leaves=8,
).map(lambda value: JsonCodec().encode("field", value))
NAMES = st.text(max_size=8)
INSTANTS = st.none() | st.integers(0, 999_999_999_999_000).map(lambda milliseconds: milliseconds / 1000)


def encrypting(*keys: str, **options: Any) -> FieldSealer:
    """A sealer with these keys, the newest first."""
    made = field_sealer(encryption_keys=keys or (NEWEST,), **options)
    assert isinstance(made, FieldSealer)
    return made


def plain(**options: Any) -> Sealer:
    """A sealer without a key."""
    return field_sealer(encryption_keys=(), **options)


def key_id(key: str) -> str:
    """The id of a key, as it stands in a stored text."""
    return encrypting(key).seal(KEY, "cart", "1").split("$")[2]


def damage(sealer: Sealer, stored: str, *, key: str = KEY, name: str = "cart") -> str:
    """Why a text cannot be read, ever."""
    with pytest.raises(SerializationError) as caught:
        sealer.open(key, name, stored)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert not isinstance(caught.value.__context__, UnicodeDecodeError)  # it would carry the value
    return str(caught.value)


def mend(sealer: Sealer, stored: str, *, name: str = "cart") -> str:
    """What a person has to do before a text can be read."""
    with pytest.raises(StoreMisconfigured) as caught:
        sealer.open(KEY, name, stored)
    assert caught.value.one_key
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


SEALERS: dict[str, Callable[[], Sealer]] = {
    "plain": plain,
    "compressed": lambda: plain(compress_above=64),
    "encrypted": encrypting,
    "both": lambda: encrypting(compress_above=64),
}


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", SEALERS.values(), ids=SEALERS)
@pytest.mark.parametrize("until", [None, 0.0, UNTIL])
@pytest.mark.parametrize("text", ["1", '"é𝄞"', "[1,2]", SECRET, LONG, "$100", "@home", "$1$", "$p$", "@1:2", ""])
def test_a_field_comes_back(make: Callable[[], Sealer], text: str, until: float | None) -> None:
    sealer = make()
    assert sealer.open(KEY, "cart", sealer.seal(KEY, "cart", text, until=until)) == (text, until, True)


@CALM
@given(TEXTS, NAMES, INSTANTS)
def test_any_field_comes_back_and_looks_like_no_json_unless_it_is_the_codecs(
    text: str, name: str, until: float | None
) -> None:
    for make in SEALERS.values():
        sealer = make()
        stored = sealer.seal(KEY, name, text, until=until)
        assert sealer.open(KEY, name, stored) == Opened(text, until, True)
        assert stored == text or stored[0] in MARKS


def test_without_settings_the_text_of_the_codec_is_stored_itself() -> None:
    stored = plain().seal(KEY, "cart", LONG)
    assert stored is LONG
    assert plain().open(KEY, "cart", stored).text is LONG


def test_only_a_plain_sealer_lets_unmarked_texts_pass() -> None:
    assert plain().transparent
    assert plain(compress_above=0).transparent
    assert not encrypting().transparent
    assert not encrypting(accepts_plain=True).transparent


def test_a_name_that_utf_8_cannot_hold_is_a_name_like_any_other() -> None:
    stored = encrypting().seal(KEY, "\ud800", "1")
    assert encrypting().open(KEY, "\ud800", stored).text == "1"
    assert "changed, or moved" in damage(encrypting(), stored, name="\udfff")


def test_an_end_stands_in_front_in_milliseconds() -> None:
    assert plain().seal(KEY, "cart", "[1]", until=UNTIL) == "@1795467600123:[1]"
    assert encrypting().seal(KEY, "cart", "[1]", until=UNTIL).startswith("@1795467600123:$1$")
    assert plain(compress_above=0).seal(KEY, "cart", LONG, until=UNTIL).startswith("@1795467600123:$z$")


@pytest.mark.parametrize("until", [-1.0, 1e15, 1e300, float("inf")])
def test_an_end_beyond_what_can_be_stored_is_the_nearest_that_can(until: float) -> None:
    for make in SEALERS.values():
        opened = make().open(KEY, "cart", make().seal(KEY, "cart", "1", until=until))
        assert opened == ("1", 0.0 if until < 0 else 999_999_999_999.0, True)


def test_what_was_opened_does_not_show_its_text() -> None:
    assert repr(Opened(SECRET, UNTIL, False)) == f"<Opened until={UNTIL} current=False>"


@pytest.mark.parametrize(
    "stored", ["@", "@:1", "@x:1", "@1", "@1:", "@-1:1", "@1:@1:1", "$", "$$", "$z", "$P$1", "$z1$"]
)
def test_a_text_with_a_mark_that_nothing_wrote_is_damaged(stored: str) -> None:
    for sealer in (plain(), encrypting(), encrypting(accepts_plain=True)):
        assert damage(sealer, stored) == "session field cart is damaged"


@pytest.mark.parametrize("form", ["2", "1y", "q"])
def test_a_form_of_another_release_logs_nobody_out(form: str) -> None:
    for sealer in (plain(), encrypting(), encrypting(accepts_plain=True)):
        assert f"'{form}'" in mend(sealer, f"${form}$abcd")


def test_an_error_shows_a_strange_name_printably_and_shortly() -> None:
    for message in (damage(plain(), "$", name="é\n\ud800" * 50), mend(plain(), "$9$", name="é\n\ud800" * 50)):
        assert message.isascii()
        assert message.isprintable()
        assert len(message) < 200


# -- encryption --------------------------------------------------------------------------------------------------------


def test_an_encrypted_field_shows_nothing_of_its_text() -> None:
    for sealer in (encrypting(), encrypting(compress_above=0)):
        stored = sealer.seal(KEY, "card", SECRET)
        assert ENCRYPTED.fullmatch(stored)
        assert "hunter2" not in stored
        assert b"hunter2" not in base64.urlsafe_b64decode(stored.split("$")[3] + "==")


def test_a_field_is_never_encrypted_twice_alike() -> None:
    sealer = encrypting()
    assert len({sealer.seal(KEY, "cart", "1") for _ in range(100)}) == 100


def test_the_encrypted_form_is_what_the_documentation_says() -> None:
    """Read by hand, as another program would."""
    head, sealed = encrypting().seal(KEY, "cart", SECRET, until=UNTIL).rsplit("$", 1)
    raw = base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))
    info = b"vedsess_middleware.sealing:1"
    aes = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(NEWEST.encode())
    name = HKDF(algorithm=SHA256(), length=4, salt=None, info=info + b":id").derive(NEWEST.encode()).hex()
    assert head == f"@1795467600123:$1${name}"
    assert AESGCM(aes).decrypt(raw[:12], raw[12:], f"{head}$64:{KEY}cart".encode()).decode() == SECRET


def test_the_newest_key_encrypts_and_all_decrypt() -> None:
    old, rotated = encrypting(OLDER), encrypting(NEWEST, OLDER)
    stored = old.seal(KEY, "cart", SECRET, until=UNTIL)
    assert rotated.open(KEY, "cart", stored) == (SECRET, UNTIL, False)
    again = rotated.seal(KEY, "cart", SECRET)
    assert rotated.open(KEY, "cart", again).current
    assert encrypting(NEWEST).open(KEY, "cart", again).text == SECRET
    assert key_id(NEWEST) in again


def test_a_key_that_is_listed_twice_is_one_key() -> None:
    sealer = encrypting(NEWEST, OLDER, NEWEST)
    assert sealer.open(KEY, "cart", sealer.seal(KEY, "cart", "1")).current


def test_a_key_that_is_not_configured_logs_nobody_out() -> None:
    message = mend(encrypting(NEWEST, OLDER), encrypting(STRANGE).seal(KEY, "cart", SECRET))
    assert "encryption_key" in message
    assert all(key_id(key) in message for key in (NEWEST, OLDER, STRANGE))
    assert not any(key in message for key in (NEWEST, OLDER, STRANGE))


def test_an_encrypted_field_without_any_key_logs_nobody_out() -> None:
    for compress_above in (None, 0):
        stored = encrypting(compress_above=compress_above).seal(KEY, "cart", LONG)
        for sealer in (plain(), plain(compress_above=0)):
            message = mend(sealer, stored)
            assert "encryption_key" in message
            assert key_id(NEWEST) in message


@pytest.mark.parametrize("until", [None, UNTIL])
@pytest.mark.parametrize("text", [SECRET, LONG, "$100"])
def test_a_plain_field_is_refused_where_fields_are_encrypted(text: str, until: float | None) -> None:
    for before in (plain(), plain(compress_above=64)):
        stored = before.seal(KEY, "cart", text, until=until)
        assert "encryption_accepts_plain" in mend(encrypting(), stored)
        assert encrypting(accepts_plain=True).open(KEY, "cart", stored) == (text, until, False)


@pytest.mark.parametrize("key", ["", "hunter2", "x" * 31])
def test_a_short_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError, match=r"encryption_key .*vedsess keygen") as caught:
        field_sealer(encryption_keys=[key])
    assert not key or key not in str(caught.value)


def test_a_text_is_not_taken_for_a_list_of_keys() -> None:
    with pytest.raises(ConfigurationError):
        field_sealer(encryption_keys=NEWEST)


def test_a_key_that_the_command_makes_is_long_enough() -> None:
    assert encrypting(new_key())


def test_nothing_shows_a_key() -> None:
    sealer = encrypting(NEWEST)
    shown = [repr(value) for value in (sealer, *vars(sealer).values())]
    assert not any(NEWEST in text for text in shown)


@pytest.mark.parametrize("module", ["cryptography.exceptions", "cryptography.hazmat.primitives.kdf.hkdf"])
def test_a_missing_library_is_a_configuration_error_that_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=re.escape("pip install 'vedsess-middleware[crypto]'")):
        field_sealer(encryption_keys=[NEWEST])
    assert isinstance(plain(compress_above=0), PlainSealer)


def test_without_a_key_the_library_is_not_imported() -> None:
    program = """
        import sys
        from vedsess_middleware.sealing import field_sealer
        field_sealer(encryption_keys=[]).seal("", "", "1")
        print("cryptography" in sys.modules)
    """
    folder = Path(vedsess_middleware.__file__).parent.parent
    command = [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines())]
    assert subprocess.check_output(command, cwd=folder, timeout=60).split() == [b"False"]


# -- what somebody may have done in the store --------------------------------------------------------------------------


def refused(sealer: Sealer, key: str, name: str, stored: str) -> bool:
    """Whether a text is refused with one of the two errors, at the latest by the codec."""
    try:
        JsonCodec().decode(sealer.open(key, name, stored).text)
    except (SerializationError, StoreMisconfigured):
        return True
    return False


SEALED = st.builds(
    lambda text, until, above: encrypting(compress_above=above).seal(KEY, "cart", text, until=until),
    TEXTS | st.just(LONG),
    INSTANTS,
    st.sampled_from([None, 0]),
)


@CALM
@given(SEALED, st.data())
def test_a_flipped_byte_anywhere_is_refused(stored: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(stored) - 1))
    flipped = chr(ord(stored[place]) ^ data.draw(st.integers(1, 255)))
    changed = stored[:place] + flipped + stored[place + 1 :]
    with pytest.raises((SerializationError, StoreMisconfigured)):
        encrypting().open(KEY, "cart", changed)
    assert refused(encrypting(accepts_plain=True), KEY, "cart", changed)


@pytest.mark.parametrize("until", [None, UNTIL])
@pytest.mark.parametrize("text", ["1", "12", "123"])
def test_every_single_bit_counts(text: str, until: float | None) -> None:
    """In each of the ways in which base64 can end."""
    sealer, tolerant = encrypting(), encrypting(accepts_plain=True)
    stored = sealer.seal(KEY, "cart", text, until=until)
    for place, character in enumerate(stored):
        for bit in range(8):
            changed = stored[:place] + chr(ord(character) ^ 1 << bit) + stored[place + 1 :]
            assert refused(sealer, KEY, "cart", changed)
            assert refused(tolerant, KEY, "cart", changed)


@CALM
@given(SEALED, st.data())
def test_an_encrypted_text_that_is_cut_or_grown_is_refused(stored: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(stored)))
    more = data.draw(st.text("ABab01-_=+/$@: \n", max_size=3))
    for changed in (stored[:place], stored[place:], stored[:place] + more + stored[place:], stored + more):
        assert changed == stored or refused(encrypting(), KEY, "cart", changed)


@CALM
@given(SEALED, st.text(max_size=8), st.text(max_size=8))
def test_a_text_that_is_moved_to_another_place_is_refused(stored: str, key: str, name: str) -> None:
    sealer = encrypting()
    for place in ((OTHER_KEY, "cart"), (KEY, "user"), (KEY + "c", "art"), (KEY[:-1], KEY[-1] + "cart"), (key, name)):
        with pytest.raises(SerializationError, match="changed, or moved"):
            sealer.open(*place, stored)


@CALM
@given(TEXTS, INSTANTS, INSTANTS)
def test_a_text_that_is_given_another_end_is_refused(text: str, until: float | None, other: float | None) -> None:
    sealer = encrypting()
    stored = sealer.seal(KEY, "cart", text, until=until)
    body = stored[stored.index("$") :]
    assert sealer.open(KEY, "cart", stored).until == until
    if other != until:
        head = plain().seal(KEY, "cart", "", until=other).removesuffix("$p$")
        assert "changed, or moved" in damage(sealer, head + body)


def test_an_end_that_is_written_in_another_way_is_refused() -> None:
    stored = encrypting().seal(KEY, "cart", "1", until=1.0)
    assert "changed, or moved" in damage(encrypting(), stored.replace("@1000:", "@01000:"))


@pytest.mark.parametrize(("form", "other"), [("$1$", "$1z$"), ("$1z$", "$1$")])
def test_a_text_that_is_said_to_have_another_form_is_refused(form: str, other: str) -> None:
    stored = encrypting(compress_above=0 if "z" in form else None).seal(KEY, "cart", LONG)
    assert stored.startswith(form)
    assert "changed, or moved" in damage(encrypting(), stored.replace(form, other, 1))


def test_a_text_of_one_key_is_refused_under_the_id_of_another() -> None:
    stored = encrypting(OLDER).seal(KEY, "cart", SECRET)
    assert "changed, or moved" in damage(encrypting(NEWEST, OLDER), stored.replace(key_id(OLDER), key_id(NEWEST)))


@pytest.mark.parametrize(
    "sealed", ["", "A", "AAAA", "A" * 16, "A" * 20, "A" * 38, "A" * 38 + "==", "é" * 40, "A A" * 20]
)
def test_an_encrypted_text_that_is_too_short_or_no_base64_is_refused(sealed: str) -> None:
    assert damage(encrypting(), f"$1${key_id(NEWEST)}${sealed}")
    assert damage(encrypting(), f"$1z${key_id(NEWEST)}${sealed}")


@pytest.mark.parametrize("rest", ["", "$", "abcd$AAAA", "ABCDEF01$AAAA", "abcdef012$AAAA", "abcdef01AAAA"])
def test_an_encrypted_text_without_the_id_of_a_key_is_damaged(rest: str) -> None:
    for sealer in (plain(), encrypting(), encrypting(accepts_plain=True)):
        assert damage(sealer, f"$1${rest}") == "session field cart is damaged"


@CALM
@given(st.text() | st.from_regex(r"(@[0-9]{1,3}:)?\$(1|1z|z|p|2)\$([0-9a-f]{8}\$)?[A-Za-z0-9_=-]*", fullmatch=True))
def test_any_text_at_all_is_opened_or_refused(stored: str) -> None:
    for sealer in (plain(), encrypting(), encrypting(accepts_plain=True)):
        try:
            opened = sealer.open(KEY, "cart", stored)
        except (SerializationError, StoreMisconfigured):
            continue
        assert opened.text == stored or stored[0] in MARKS


# -- compression -------------------------------------------------------------------------------------------------------


def packed(raw: bytes) -> str:
    """A compressed text, stored."""
    return f"$z${base64.urlsafe_b64encode(zlib.compress(raw)).decode().rstrip('=')}"


def test_a_long_text_is_compressed_and_a_short_one_is_not() -> None:
    raw = len(LONG.encode())
    assert plain(compress_above=raw).seal(KEY, "cart", LONG) == LONG
    assert plain(compress_above=raw - 1).seal(KEY, "cart", LONG).startswith("$z$")
    assert encrypting(compress_above=raw).seal(KEY, "cart", LONG).startswith("$1$")
    assert encrypting(compress_above=raw - 1).seal(KEY, "cart", LONG).startswith("$1z$")


def test_the_limit_counts_bytes_and_not_characters() -> None:
    text = json.dumps("é" * 100, ensure_ascii=False)
    assert len(text) == 102
    assert plain(compress_above=150).seal(KEY, "cart", text).startswith("$z$")
    assert plain(compress_above=202).seal(KEY, "cart", text) == text


@CALM
@given(TEXTS | st.integers(1, 60).map(lambda length: json.dumps("ab" * length)))
def test_compression_makes_a_stored_text_smaller_or_is_left_out(text: str) -> None:
    stored = plain(compress_above=0).seal(KEY, "cart", text)
    assert len(stored.encode()) < len(text.encode()) or stored == text
    both, encrypted = (encrypting(compress_above=above).seal(KEY, "cart", text) for above in (0, None))
    assert len(both) < len(encrypted) or (len(both) == len(encrypted) and both.startswith("$1$"))


def test_no_text_is_compressed_to_its_own_size() -> None:
    """Around where it begins to pay, whatever a text has to begin with."""
    for distinct in range(10, 60):
        for repeated in range(60):
            text = json.dumps(ascii_letters[:distinct] + "a" * repeated)
            stored = plain(compress_above=0).seal(KEY, "cart", text)
            assert stored == text or len(stored) < len(text)


def test_what_was_compressed_is_read_when_nothing_is_compressed_any_more() -> None:
    assert plain().open(KEY, "cart", plain(compress_above=0).seal(KEY, "cart", LONG)) == (LONG, None, True)
    assert encrypting().open(KEY, "cart", encrypting(compress_above=0).seal(KEY, "cart", LONG)) == (LONG, None, True)


def test_the_compressed_form_is_what_the_documentation_says() -> None:
    stored = plain(compress_above=0).seal(KEY, "cart", LONG)
    body = stored.removeprefix("$z$")
    assert zlib.decompress(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))).decode() == LONG
    assert plain().open(KEY, "cart", "$z$eAGLNtQxigUAA9UBSA") == ("[1,2]", None, True)


@pytest.mark.parametrize("longest", [1000, 1024])
def test_a_text_is_decompressed_up_to_the_limit_and_refused_beyond(longest: int) -> None:
    sealer = plain(longest=longest)
    assert sealer.open(KEY, "cart", packed(b"1" * longest)).text == "1" * longest
    assert f"more than {longest} bytes" in damage(sealer, packed(b"1" * (longest + 1)))


def test_what_could_not_be_decompressed_again_is_not_compressed() -> None:
    for make in (plain, encrypting):
        sealer = make(compress_above=0, longest=1000)
        assert sealer.open(KEY, "cart", sealer.seal(KEY, "cart", "1" * 1001)).text == "1" * 1001


def test_a_zip_bomb_is_refused_before_it_fills_the_memory() -> None:
    stored = packed(b"0" * 200_000_000)
    tracemalloc.start()
    try:
        assert "more than 16777216 bytes" in damage(plain(), stored)
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "AAAA",
        "?",
        packed(b"[1,2]")[3:-1],
        packed(b"[1,2]")[3:] + "AAAA",
        base64.urlsafe_b64encode(zlib.compress(b"[1,2]") + b"xyz").decode().rstrip("="),
        base64.urlsafe_b64encode(zlib.compress(LONG.encode())[:-9]).decode().rstrip("="),
        packed(b"hunter2\xff")[3:],
        packed("hunter2\ud800".encode(errors="surrogatepass"))[3:],
    ],
)
def test_a_compressed_text_that_is_damaged_is_refused(body: str) -> None:
    assert damage(plain(), f"$z${body}") == "session field cart is damaged"
    assert damage(encrypting(accepts_plain=True), f"@1:$z${body}") == "session field cart is damaged"


def test_padding_and_another_alphabet_are_not_read() -> None:
    body = base64.b64encode(zlib.compress(bytes(range(128)))).decode()
    assert "+" in body
    assert body.endswith("=")
    url_safe = body.translate(str.maketrans("+/", "-_")).rstrip("=")
    assert plain().open(KEY, "cart", f"$z${url_safe}").text == bytes(range(128)).decode()
    for other in (url_safe + "=" * (-len(url_safe) % 4), body.rstrip("="), url_safe + "\n"):
        assert damage(plain(), f"$z${other}")


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_the_largest_fields_are_named_with_their_sizes() -> None:
    fields = {"a": "1", "cart": "x" * 31_700, "history": "x" * 12_281, "big": "x" * 5_000_000}
    assert largest(fields) == "big 5 MB, cart 31 KB, history 12 KB, a 2 B"
    assert largest(fields, 2) == "big 5 MB, cart 31 KB"
    assert largest({}) == ""
    assert largest({"é": "é" * 100}) == "\\xe9 202 B"


@pytest.mark.parametrize(("length", "shown"), [(998, "999 B"), (999, "1 KB"), (1023, "1 KB"), (1_023_999, "1 MB")])
def test_a_size_has_at_most_three_digits_before_its_unit(length: int, shown: str) -> None:
    assert largest({"n": "x" * length}) == f"n {shown}"


def test_a_report_shows_no_value_and_strange_names_printably_and_shortly() -> None:
    fields = {f"{letter}\n\ud800" * 100: '"hunter2"' for letter in "abcdefg"}
    text = largest(fields)
    assert "hunter2" not in text
    assert text.isascii()
    assert text.isprintable()
    assert len(text) < 5 * 100


def too_large(fields: dict[str, str], **limits: int | None) -> str:
    """Why a session may not be written."""
    with pytest.raises(SessionTooLarge) as caught:
        check_sizes(fields, **{"max_field_bytes": None, "max_session_bytes": None, **limits})
    assert "hunter2" not in str(caught.value)
    return str(caught.value)


def test_a_field_beyond_its_limit_is_refused_by_name() -> None:
    fields = {"user": "7", "cart": "hunter2" * 300, "note": "x" * 900}
    message = too_large(fields, max_field_bytes=1000, max_session_bytes=5000)
    assert message.startswith("session field cart has 2104 bytes, and max_field_bytes is 1000")
    assert message.endswith("cart 2 KB, note 904 B, user 5 B")
    check_sizes(fields, max_field_bytes=2104, max_session_bytes=None)


def test_a_session_beyond_its_limit_is_refused_with_its_largest_fields() -> None:
    fields = {"user": "7", "cart": "hunter2" * 300, "é": "é"}
    message = too_large(fields, max_field_bytes=2104, max_session_bytes=2112)
    assert message.startswith("the session has 2113 bytes, and max_session_bytes is 2112")
    assert message.endswith("cart 2 KB, user 5 B, \\xe9 4 B")
    check_sizes(fields, max_field_bytes=None, max_session_bytes=2113)


def test_without_limits_or_fields_nothing_is_refused() -> None:
    check_sizes({"cart": "x" * 1_000_000}, max_field_bytes=None, max_session_bytes=None)
    check_sizes({}, max_field_bytes=0, max_session_bytes=0)


def test_a_session_that_is_too_large_is_a_value_that_cannot_be_stored() -> None:
    assert issubclass(SessionTooLarge, SerializationError)


@pytest.mark.parametrize("module", [sealers, sizes])
def test_the_examples_of_the_docstrings_are_true(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert (failed, bool(tried)) == (0, True)


def test_an_app_can_bring_a_sealer_of_its_own() -> None:
    class Upper:
        transparent = False

        def seal(self, key: str, name: str, text: str, *, until: float | None = None) -> str:
            return text.upper()

        def open(self, key: str, name: str, stored: str) -> Opened:
            return Opened(stored.lower(), None, True)

    sealers: Sequence[Sealer] = [Upper(), plain(), encrypting()]
    assert [each.open("", "", each.seal("", "", "a")).text for each in sealers] == ["a"] * 3
