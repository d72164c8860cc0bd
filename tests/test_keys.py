"""Keys in files: where a file gives them, and how they come and go there."""

import errno
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vedsess_middleware import Settings
from vedsess_middleware.console.cli import cli
from vedsess_middleware.console.env_file import assignments
from vedsess_middleware.console.files import OwnerLost, replace_content
from vedsess_middleware.console.keygen import VARIABLES, Purpose
from vedsess_middleware.console.rotation import Move, moved

NAME = "VEDSESS_SECRET_KEY"
# Of nobody, and long enough for the settings.
FIRST, SECOND, THIRD, FOURTH = (f"{word}7kKZyK8Ej0EMyl5eNDVkpH9i7Bwfgx5bZ9pXE9Tuy2Q0aVg" for word in "nfmq")


def vedsess(*arguments: str) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(cli, arguments, prog_name="vedsess")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rotate(path: Path, *options: str, kind: str = "env") -> Result:
    """Rotate the keys in a file; none of them may be shown, before or after."""
    keys = path.read_text().replace("=", ",").replace("\n", ",").split(",")
    result = vedsess("rotate-keys", f"--{kind}-file", str(path), *options)
    keys += path.read_text().replace("=", ",").replace("\n", ",").split(",")
    assert not [key for key in keys if len(key) > 30 and key in result.output]
    return result


def keys_in(path: Path, purpose: Purpose = "secret") -> list[str]:
    """The list in a file of one plain line."""
    name, _, text = path.read_text().rstrip("\n").partition("=")
    assert name == VARIABLES[purpose]
    return text.split(",")


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    """A file with one key."""
    path = tmp_path / ".env"
    path.write_text(f"{NAME}={FIRST}\n")
    path.chmod(0o600)
    return path


class TestAssignments:
    """Where a file gives a variable."""

    @pytest.mark.parametrize(
        ("line", "value"),
        [
            (b"VEDSESS_SECRET_KEY=a", b"a"),
            (b"  export VEDSESS_SECRET_KEY=a,b", b"a,b"),
            (b"\tVEDSESS_SECRET_KEY = a, b  ", b"a, b"),
            (b"VEDSESS_SECRET_KEY: a", b"a"),
            (b"VEDSESS_SECRET_KEY='a,b'", b"a,b"),
            (b'VEDSESS_SECRET_KEY="a,b" # two', b"a,b"),
            (b'VEDSESS_SECRET_KEY="a#b"', b"a#b"),
            (b'VEDSESS_SECRET_KEY="a\\"b"', b'a\\"b'),
            (b'VEDSESS_SECRET_KEY="it\'s"', b"it's"),
            (b"VEDSESS_SECRET_KEY=a#b # a word on it", b"a#b"),
            (b"VEDSESS_SECRET_KEY=a\t#b", b"a"),
            (b"VEDSESS_SECRET_KEY=$OLD,${OLDER}", b"$OLD,${OLDER}"),
            (b"VEDSESS_SECRET_KEY=", b""),
            (b"VEDSESS_SECRET_KEY= # later", b""),
            (b"VEDSESS_SECRET_KEY=''", b""),
            (b"\xef\xbb\xbfVEDSESS_SECRET_KEY=a", b"a"),
        ],
    )
    @pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
    def test_a_value_is_found_as_it_is_spelled(self, line: bytes, value: bytes, end: bytes) -> None:
        content = b"A=1" + (end or b"\n") + line + end if not line.startswith(b"\xef") else line + end
        (found,) = assignments(content, NAME)
        assert (found.variable, found.value) == (NAME, value)
        assert found.span is not None
        assert content[slice(*found.span)] == value

    @pytest.mark.parametrize(
        "line", [b'KEY="a', b"KEY='a\nb'", b'KEY="a","b"', b"KEY=a\\", b"KEY='a\\'", b'KEY="a"b', b"KEY='a\""]
    )
    def test_what_shells_would_read_on_the_next_line_or_otherwise_has_no_place(self, line: bytes) -> None:
        (found,) = assignments(b"VEDSESS_SECRET_" + line + b"\nB=2\n", NAME)
        assert found.span is None

    @pytest.mark.parametrize(
        "line",
        [b"# VEDSESS_SECRET_KEY=a", b"MY_VEDSESS_SECRET_KEY=a", b"VEDSESS_SECRET_KEYS=a", b"X=VEDSESS_SECRET_KEY=a"],
    )
    def test_another_line_gives_none(self, line: bytes) -> None:
        assert assignments(line, NAME) == []

    def test_one_that_names_a_file_is_found_under_its_own_name(self) -> None:
        (found,) = assignments(b"VEDSESS_SECRET_KEY_FILE=/run/key", NAME)
        assert found.variable == "VEDSESS_SECRET_KEY_FILE"

    def test_what_it_found_does_not_show_the_key(self) -> None:
        (found,) = assignments(f"{NAME}={FIRST}".encode(), NAME)
        assert FIRST not in repr(found)


class TestMoves:
    @pytest.mark.parametrize(
        ("keys", "move", "keep", "after"),
        [
            ("a", "in front", 2, "na"),
            ("abc", "in front", 2, "nab"),
            ("abc", "in front", 0, "n"),
            ("a", "behind", 2, "an"),
            ("abcd", "behind", 2, "abcn"),
            ("ab", "behind", 0, "an"),
            ("ab", "to front", 2, "ba"),
            ("abcd", "to front", 2, "dab"),
            ("abc", "to front", 0, "c"),
        ],
    )
    def test_each_keeps_so_many_old_ones(self, keys: str, move: Move, keep: int, after: str) -> None:
        assert moved(list(keys), move, new="n", keep=keep) == list(after)

    def test_in_two_steps_it_comes_out_the_same_as_in_one(self) -> None:
        behind = moved(["a", "b", "c"], "behind", new="n", keep=2)
        assert moved(behind, "to front", new="-", keep=2) == moved(["a", "b", "c"], "in front", new="n", keep=2)


class TestReplacing:
    def test_mode_and_other_attributes_stay(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        path.chmod(0o640)
        try:
            os.setxattr(path, "user.note", b"kept")
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
        kept = os.listxattr(path)
        replace_content(path, b"new")
        assert path.read_bytes() == b"new"
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert os.listxattr(path) == kept
        assert [each.name for each in tmp_path.iterdir()] == ["file"]

    def test_a_link_stays_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "real").mkdir()
        target, link = tmp_path / "real" / "file", tmp_path / "link"
        target.write_bytes(b"old")
        link.symlink_to(target)
        replace_content(link, b"new")
        assert link.is_symlink()
        assert target.read_bytes() == b"new"

    def test_it_is_another_file_so_that_nobody_reads_a_half(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        with path.open("rb") as reader:
            replace_content(path, b"new and longer")
            assert reader.read() == b"old"

    def test_it_counts_as_changed_now(self, tmp_path: Path) -> None:
        path = tmp_path / "file"
        path.write_bytes(b"old")
        os.utime(path, (1, 1))
        replace_content(path, b"new")
        assert path.stat().st_mtime > 1_000_000_000

    def test_a_failure_leaves_the_old_one_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(handle: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        path = tmp_path / "file"
        path.write_bytes(b"old")
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            replace_content(path, b"new")
        assert path.read_bytes() == b"old"
        assert [each.name for each in tmp_path.iterdir()] == ["file"]

    def test_an_owner_who_cannot_stay_is_not_replaced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def forbidden(path: Path, user: int, group: int) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")

        path = tmp_path / "file"
        path.write_bytes(b"old")
        found = path.stat()
        other = os.stat_result((*found[:4], found.st_uid + 1, *found[5:]))
        stat_of = Path.stat
        monkeypatch.setattr(Path, "stat", lambda self: other if self == path else stat_of(self))
        monkeypatch.setattr(os, "chown", forbidden)
        with pytest.raises(OwnerLost, match="run this as its owner"):
            replace_content(path, b"new")
        assert path.read_bytes() == b"old"
        assert [each.name for each in tmp_path.iterdir()] == ["file"]

    def test_root_gives_the_new_one_to_the_owner_of_the_old(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given: list[tuple[int, int]] = []
        path = tmp_path / "file"
        path.write_bytes(b"old")
        found = path.stat()
        other = os.stat_result((*found[:4], 4711, 4712, *found[6:]))
        stat_of = Path.stat
        monkeypatch.setattr(Path, "stat", lambda self: other if self == path else stat_of(self))
        monkeypatch.setattr(os, "chown", lambda path, user, group: given.append((user, group)))
        replace_content(path, b"new")
        assert given == [(4711, 4712)]


class TestRotateKeys:
    def test_a_new_key_comes_in_front_and_the_settings_take_the_list(self, env_file: Path) -> None:
        result = rotate(env_file)
        new, old = keys_in(env_file)
        assert result.exit_code == 0
        assert (old, new != old) == (FIRST, True)
        assert Settings.from_env({NAME: f"{new},{old}"}).secret_keys == (new, old)
        assert result.stdout.startswith(f"{NAME}: 2 keys in {env_file} now.\nRestart all processes.")

    def test_so_many_old_ones_stay_as_are_asked_for(self, env_file: Path) -> None:
        results = [rotate(env_file) for _ in range(4)]
        assert len(keys_in(env_file)) == 3
        assert f"3 keys in {env_file} now, after 1 went.\n" in results[-1].stdout
        newest = keys_in(env_file)[0]
        assert f"{NAME}: 1 key in {env_file} now" in rotate(env_file, "--keep", "0").stdout
        assert newest not in keys_in(env_file)

    def test_for_encryption_it_is_the_other_variable(self, tmp_path: Path) -> None:
        path = tmp_path / ".env"
        path.write_text(f"{NAME}={FIRST}\nVEDSESS_ENCRYPTION_KEY={SECOND}\n")
        assert rotate(path, "--for", "encryption").exit_code == 0
        first, second = path.read_text().splitlines()
        assert first == f"{NAME}={FIRST}"
        assert second.startswith("VEDSESS_ENCRYPTION_KEY=")
        assert second.endswith(f",{SECOND}")

    @pytest.mark.parametrize(
        ("purpose", "words"),
        [("secret", "An older key may go after idle_timeout;"), ("encryption", "may go after the longer of absolute_")],
    )
    def test_it_says_when_an_older_key_may_go(self, tmp_path: Path, purpose: Purpose, words: str) -> None:
        path = tmp_path / ".env"
        path.write_text(f"{VARIABLES[purpose]}={FIRST}\n")
        assert words in rotate(path, "--for", purpose).stdout

    def test_in_two_steps_every_process_knows_a_key_before_one_uses_it(self, tmp_path: Path) -> None:
        path = tmp_path / "my keys.env"
        path.write_text(f"VEDSESS_ENCRYPTION_KEY={FIRST}\n")
        result = rotate(path, "--for", "encryption", "--behind")
        first, new = keys_in(path, "encryption")
        assert first == FIRST
        assert "none uses it" in result.stdout
        command = f"vedsess rotate-keys --for encryption --env-file '{path}' --to-front"
        assert result.stdout.endswith(f"After that: {command}\n")
        result = rotate(path, "--for", "encryption", "--to-front")
        assert keys_in(path, "encryption") == [new, FIRST]
        assert result.stdout.startswith(f"VEDSESS_ENCRYPTION_KEY: 2 keys in {path} now.\nRestart all processes.  What")

    def test_a_single_key_cannot_go_in_front(self, env_file: Path) -> None:
        result = rotate(env_file, "--to-front")
        assert result.exit_code == 1
        assert "with --behind" in result.stderr
        assert keys_in(env_file) == [FIRST]

    def test_all_else_in_the_file_stays_byte_for_byte(self, tmp_path: Path) -> None:
        path = tmp_path / ".env"
        before, after = b"\xff binary\r\n\r\nA='x'\r\n export VEDSESS_SECRET_KEY = \"", b'" # ours\r\nB=2\r\n\r\nlast'
        path.write_bytes(before + FIRST.encode() + after)
        assert vedsess("rotate-keys", "--env-file", str(path)).exit_code == 0
        content = path.read_bytes()
        assert content.startswith(before)
        assert content.endswith(b"," + FIRST.encode() + after)
        assert content.count(b",") == 1

    @pytest.mark.parametrize("spelled", [f"{FIRST}, {SECOND}", f"{FIRST} {SECOND}", f"{FIRST},,{SECOND},"])
    def test_a_list_is_parted_as_the_settings_part_it(self, tmp_path: Path, spelled: str) -> None:
        path = tmp_path / ".env"
        path.write_text(f"{NAME}={spelled}\n")
        assert Settings.from_env({NAME: spelled}).secret_keys == (FIRST, SECOND)
        rotate(path)
        assert keys_in(path)[1:] == [FIRST, SECOND]

    @pytest.mark.skipif(shutil.which("sh") is None, reason="there is no shell here")
    @pytest.mark.parametrize("line", ["export {}={}", '{}="{}"', "{}='{}' # one", "{}={}  # one"])
    def test_a_shell_reads_what_it_wrote(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / ".env"
        path.write_text(line.format(NAME, FIRST) + "\n")
        assert rotate(path).exit_code == 0
        script = f'. "$0"; printf %s "${NAME}"'
        done = subprocess.run(["sh", "-c", script, str(path)], capture_output=True, text=True, check=True)
        assert len(Settings.from_env({NAME: done.stdout}).secret_keys) == 2
        assert done.stdout.endswith(f",{FIRST}")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("A=1\n", "vedsess keygen --for secret"),
            ("", "vedsess keygen --for secret"),
            (f"{NAME}=\n", "vedsess keygen --for secret"),
            (f"{NAME}=','\n", "vedsess keygen --for secret"),
            (f"{NAME}_FILE=/run/key\n", f"{NAME}_FILE: rotate that one, with --key-file"),
            (f"{NAME}={FIRST}\n{NAME}_FILE=/run/key\n", "with --key-file"),
            (f"{NAME}={FIRST}\n{NAME}={SECOND}\n", "2 times: remove all lines but one"),
            (f'{NAME}="{FIRST},\n{SECOND}"\n', "write it on one line"),
        ],
    )
    def test_what_cannot_be_rotated_stays_and_one_line_says_why(self, tmp_path: Path, content: str, words: str) -> None:
        path = tmp_path / ".env"
        path.write_text(content)
        result = rotate(path)
        assert result.exit_code == 1
        assert words in result.stderr
        assert result.stderr.count("\n") == 1
        assert path.read_text() == content

    def test_a_key_that_is_no_text_is_refused_and_not_shown(self, tmp_path: Path) -> None:
        path = tmp_path / ".env"
        path.write_bytes(f"{NAME}=".encode() + b"\xff\xfe" * 20)
        result = vedsess("rotate-keys", "--env-file", str(path))
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert "no key that can be read" in result.stderr

    def test_a_link_leads_to_the_file(self, tmp_path: Path, env_file: Path) -> None:
        link = tmp_path / "current"
        link.symlink_to(env_file.name)
        assert rotate(link).exit_code == 0
        assert link.is_symlink()
        assert len(keys_in(env_file)) == 2
        assert stat.S_IMODE(env_file.stat().st_mode) == 0o600

    def test_a_file_that_others_can_read_is_mentioned(self, env_file: Path) -> None:
        assert rotate(env_file).stderr == ""
        env_file.chmod(0o644)
        assert "chmod 600" in rotate(env_file).stderr

    @pytest.mark.parametrize("options", [[], ["--env-file", "{0}", "--key-file", "{0}"]])
    def test_one_file_has_to_be_named(self, env_file: Path, options: list[str]) -> None:
        result = vedsess("rotate-keys", *(option.format(env_file) for option in options))
        assert result.exit_code == 2
        assert "either --env-file or --key-file" in result.stderr

    def test_both_steps_at_once_are_wrong_usage(self, env_file: Path) -> None:
        assert rotate(env_file, "--behind", "--to-front").exit_code == 2
        assert keys_in(env_file) == [FIRST]

    def test_a_file_that_is_not_there_is_wrong_usage(self, tmp_path: Path) -> None:
        assert vedsess("rotate-keys", "--env-file", str(tmp_path / "no.env")).exit_code == 2
        assert list(tmp_path.iterdir()) == []


class TestKeyFile:
    """A file that holds the list alone."""

    @pytest.mark.parametrize("end", ["\n", "", "\r\n", "\n\n"])
    @pytest.mark.parametrize("purpose", VARIABLES)
    def test_its_keys_are_rotated_and_its_end_stays(self, tmp_path: Path, end: str, purpose: Purpose) -> None:
        path = tmp_path / "key"
        path.write_bytes(f"{FIRST},{SECOND}{end}".encode())
        assert rotate(path, "--for", purpose, kind="key").exit_code == 0
        text = path.read_bytes().decode()
        assert text.endswith(f",{FIRST},{SECOND}{end}")
        environ = {f"{VARIABLES[purpose]}_FILE": str(path)}
        if purpose == "secret":
            keys = Settings.from_env(environ).secret_keys
        else:
            keys = Settings.from_env(environ, secret_key=FOURTH).encryption_keys
        assert keys[1:] == (FIRST, SECOND)

    @pytest.mark.parametrize("purpose", VARIABLES)
    def test_one_key_on_each_line_is_a_list_too(self, tmp_path: Path, purpose: Purpose) -> None:
        path = tmp_path / "key"
        path.write_text(f"{FIRST}\n{SECOND}\n")
        assert rotate(path, "--for", purpose, kind="key").exit_code == 0
        assert path.read_text().rstrip("\n").split(",")[1:] == [FIRST, SECOND]
        assert path.read_text().count("\n") == 1

    def test_a_mark_at_its_begin_is_no_part_of_a_key(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_bytes(b"\xef\xbb\xbf" + FIRST.encode() + b"\n")
        assert rotate(path, kind="key").exit_code == 0
        assert path.read_text().endswith(f",{FIRST}\n")

    def test_an_empty_one_has_no_key_to_rotate(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text("\n")
        result = rotate(path, kind="key")
        assert result.exit_code == 1
        assert "vedsess keygen" in result.stderr

    def test_the_next_step_is_for_the_same_file(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text(f"{FIRST}\n")
        assert rotate(path, "--behind", kind="key").stdout.endswith(f"--for secret --key-file {path} --to-front\n")
