"""Files that exist whole or not at all, wherever the program that writes them is killed."""

import errno
import fcntl
import os
import tempfile
from itertools import count

import pytest
from commands import run_python
from dying import Killed, dying

from vigil.extract import files
from vigil.extract.files import (
    LOCK_NAME,
    make_folder,
    open_lock,
    remove_leftovers,
    replace_file,
    temporary_file,
    wait_for_lock,
)


def names_in(folder):
    return [path.name for path in folder.iterdir()]


def write(path, text):
    with replace_file(path) as partial:
        partial.write_bytes(text.encode())


def test_replacing_a_file_is_all_or_nothing(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with replace_file(path) as partial:
        assert partial.parent == path.parent
        partial.write_text("old")
        assert not path.exists()
    assert path.read_text() == "old"
    for error in (OSError("disk"), KeyboardInterrupt()):
        with pytest.raises(type(error)), replace_file(path) as partial:  # noqa: PT012
            partial.write_text("half")
            raise error
        assert path.read_text() == "old"
        assert names_in(path.parent) == ["a.txt"]


def test_a_file_that_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "a.txt"):
        pass
    assert names_in(tmp_path) == []


def test_file_and_folders_are_synced_around_the_rename(tmp_path, monkeypatch):
    synced = []
    path = tmp_path / "new" / "er" / "a.txt"

    def sync(descriptor):
        synced.append((os.path.realpath(f"/proc/self/fd/{descriptor}"), path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    with replace_file(path) as partial:
        partial.write_text("x")
    made = [(str(tmp_path), False), (str(tmp_path / "new"), False)]
    assert synced == [*made, (str(partial), False), (str(path.parent), True)]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_folders_that_cannot_be_synced_are_still_used(tmp_path, monkeypatch, number):
    def refuse(_descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write(tmp_path / "new" / "a.txt", "x")
    assert (tmp_path / "new" / "a.txt").read_text() == "x"


def test_a_disk_error_names_the_file(tmp_path, monkeypatch):
    def fail(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error") as caught:
        write(tmp_path / "a.txt", "x")
    assert caught.value.filename == str(tmp_path / "a.txt")
    assert names_in(tmp_path) == []


def test_an_error_without_a_number_keeps_its_text(tmp_path):
    with pytest.raises(TimeoutError, match=r"^timed out$"), replace_file(tmp_path / "a.txt"):
        raise TimeoutError("timed out")


def test_a_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "file" / "deep")


def test_killed_anywhere_the_file_is_the_old_or_the_new_one(tmp_path):
    for after in count():
        folder = tmp_path / str(after)
        write(folder / "deep" / "a.txt", "old")
        with dying(after) as calls:
            try:
                write(folder / "deep" / "a.txt", "new content")
            except Killed:
                pass
            else:
                break
        assert (folder / "deep" / "a.txt").read_text() in ("old", "new content")
        leftovers = [name for name in names_in(folder / "deep") if name != "a.txt"]
        assert [path.name for path in remove_leftovers(folder)] == leftovers
        assert names_in(folder / "deep") == ["a.txt"]
    assert calls == ["write_bytes", "fsync", "replace", "fsync"]


def test_only_our_own_leftovers_are_removed(tmp_path):
    mine = [".a.partial", "b.partial", f".{'0' * 15}.partial", f".{'0' * 16}.partial.txt"]
    for name in mine:
        (tmp_path / name).touch()
    other = tmp_path / "another store"
    other.mkdir()
    (other / f".{'0' * 16}.partial").touch()
    with wait_for_lock(other):
        assert remove_leftovers(tmp_path) == []
    assert sorted(names_in(tmp_path)) == sorted([*mine, "another store"])
    assert remove_leftovers(tmp_path) == [other / f".{'0' * 16}.partial"]


def test_leftovers_stay_if_the_state_of_the_lock_is_unknown(tmp_path):
    other = tmp_path / "another store"
    other.mkdir()
    (other / f".{'0' * 16}.partial").touch()
    (other / LOCK_NAME).symlink_to("loop")
    assert remove_leftovers(tmp_path) == []


def test_the_temporary_file_of_a_killed_run_is_recognized(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "_O_TMPFILE_WORKS", False)  # as on NFS
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", lambda *_: None)
        temporary_file(tmp_path).close()
    [left] = tmp_path.iterdir()
    assert remove_leftovers(tmp_path) == [left]
    with temporary_file(tmp_path) as file:
        file.write(b"x")
        assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("folder_mode", "mode"), [(0o700, 0o600), (0o755, 0o644), (0o2775, 0o664), (0o1777, 0o666)]
)
def test_whoever_may_write_to_a_folder_may_lock_it(tmp_path, folder_mode, mode):
    tmp_path.chmod(folder_mode)
    before = os.umask(0o022)
    try:
        open_lock(tmp_path).close()
    finally:
        os.umask(before)
    assert (tmp_path / LOCK_NAME).stat().st_mode & 0o777 == mode


def test_the_lock_of_another_user_is_acquired_without_writing(tmp_path, monkeypatch):
    (tmp_path / LOCK_NAME).write_text("another's")
    real_open = os.open

    def refuse(path, flags, *mode):
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real_open(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse)
    with open_lock(tmp_path) as file, open_lock(tmp_path) as other:
        assert not file.writable()
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    monkeypatch.setattr(os, "access", lambda *_: False)  # a folder that cannot be written either
    with pytest.raises(PermissionError, match=LOCK_NAME):
        open_lock(tmp_path)


def test_a_killed_writer_leaves_only_a_removable_partial_file(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from vigil.extract.files import replace_file\n"
        "with replace_file(Path(sys.argv[1])) as partial:\n"
        "    partial.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    target = tmp_path / "deep" / "a.mp4.h5"
    assert run_python("-c", script, str(target)).returncode == -9
    left = list(target.parent.iterdir())
    assert len(left) == 1
    assert left[0].name.endswith(files.PARTIAL_SUFFIX)
    assert remove_leftovers(tmp_path) == left
    assert list(target.parent.iterdir()) == []
