"""Files and folders are replaced whole or not at all, and one process at a time writes them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest
from safetensors import SafetensorError

from lmsteer.errors import DataError, OutputError
from lmsteer.util import files
from lmsteer.util.files import (
    check_writable,
    exclusive,
    file_sha256,
    finite,
    replace_file,
    replace_folder,
    write_file,
    write_jsonl,
    writing,
)

HOLDER = """
import sys
from pathlib import Path
from lmsteer.util.files import exclusive
with exclusive(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_file(tmp_path / "results.json", "old")
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "results.json") as aside:
        aside.write_bytes(tmp_path.joinpath("missing").read_bytes())
    assert [file.name for file in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "old"


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    """Both ways of replacing a folder."""
    if request.param == "two renames":
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    elif sys.platform != "linux":
        pytest.skip("the system cannot exchange two folders")
    return request.param


def test_a_folder_is_replaced_with_all_it_holds(tmp_path, way):
    for content in ("old", "new"):
        with replace_folder(tmp_path / "steer") as aside:
            (aside / "card").mkdir()
            (aside / "card" / f"{content}.json").write_text(content)
    assert [path.name for path in tmp_path.rglob("*")] == ["steer", "card", "new.json"]


def test_a_failed_replacement_leaves_the_old_folder(tmp_path, way):
    with replace_folder(tmp_path / "steer") as aside:
        (aside / "a").write_text("old")
    with pytest.raises(FileNotFoundError), replace_folder(tmp_path / "steer") as aside:
        (aside / "a").write_bytes((tmp_path / "missing").read_bytes())
    assert (tmp_path / "steer" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["steer"]


def test_a_link_to_a_folder_is_replaced_and_its_target_kept(tmp_path, way):
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "mine").write_text("")
    (tmp_path / "steer").symlink_to(tmp_path / "target")
    with replace_folder(tmp_path / "steer") as aside:
        (aside / "a").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["steer", "target"]
    assert (tmp_path / "target" / "mine").exists()
    assert (tmp_path / "steer" / "a").read_text() == "new"


@pytest.mark.skipif(sys.platform != "linux", reason="the system cannot exchange two folders")
def test_a_reader_finds_a_folder_at_any_moment(tmp_path, monkeypatch):
    folder, ended = tmp_path / "steer", Event()
    looks, misses = 0, 0

    def read() -> None:
        nonlocal looks, misses
        while not ended.is_set():
            misses += not folder.is_dir()
            looks += 1

    def let_it_look() -> None:
        enough = looks + 2
        while looks < enough and reader.is_alive():
            ended.wait(1e-4)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, target: (rename(path, target), let_it_look())[0])
    folder.mkdir()
    reader = Thread(target=read)
    reader.start()
    for _ in range(20):
        with replace_folder(folder):
            pass
        let_it_look()
    ended.set()
    reader.join()
    assert looks >= 20
    assert misses == 0


def test_content_reaches_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "_sync", lambda path: synced.append((path.name, (tmp_path / "steer").exists())))
    with replace_folder(tmp_path / "steer") as aside:
        (aside / "a").write_text("x")
    assert synced == [("a", False), (aside.name, False), (tmp_path.name, True)]
    synced.clear()
    with replace_file(tmp_path / "f") as aside:
        aside.write_text("x")
    assert [name for name, _ in synced] == [aside.name, tmp_path.name]


def test_a_second_process_is_refused_until_the_first_is_done_or_dead(tmp_path):
    work = tmp_path / "deep" / "adapter"
    command = [sys.executable, "-c", HOLDER, str(work)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process is writing"), exclusive(work):
            pass
        other.kill()
    with exclusive(work):
        assert [file.name for file in work.parent.iterdir()] == ["adapter.lock"]
    assert not [*work.parent.iterdir()]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"), exclusive(tmp_path / "file" / "adapter"):
        pass
    with pytest.raises(OutputError, match="cannot write"):
        write_file(tmp_path / "file" / "x", "")


@pytest.fixture
def bad_places(tmp_path):
    """Places where no file can be written, and why; what stands there must stay."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    yield {
        "folder": "it is a folder",
        "file/x/y": r"file is not a folder\.",
        "pipe": "a device or a pipe",
        "link": "a device or a pipe",
        "n" * 300: "File name too long",
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.skipif(sys.platform != "linux", reason="the system has other pipes")
def test_a_bad_place_is_refused_before_the_work_and_at_its_end(tmp_path, bad_places):
    for name, reason in bad_places.items():
        with pytest.raises(OutputError, match=reason):
            check_writable(tmp_path / name, "the gist")
        with pytest.raises(OutputError, match=reason):
            write_file(tmp_path / name, "new")
    for name in ("file", "file/x", "pipe", "n" * 300):
        with pytest.raises(OutputError, match="cannot write the steer to"):
            check_writable(tmp_path / name, "the steer", folder=True)
        with pytest.raises(OSError, match=r"a file|not a folder|a pipe|too long"), replace_folder(tmp_path / name):
            pass


@pytest.mark.skipif(sys.platform != "linux", reason="the system has other folders for devices")
@pytest.mark.parametrize("place", ["/dev/x", "/dev/stdout", "/dev/fd/x", "/proc/x", "/proc/self/x/y", "/sys/x"])
def test_names_of_streams_and_devices_are_never_replaced(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in (False, True):
        with pytest.raises(OutputError, match=r"devices and streams|a device or a pipe|it is a file"):
            check_writable(Path(place), folder=folder)


def test_a_read_only_folder_is_refused_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    for folder in (False, True):
        with pytest.raises(OutputError, match="is read-only"):
            check_writable(tmp_path / "missing" / "x", folder=folder)
    check_writable(tmp_path.parent / "x")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_what_is_needed(tmp_path, number):
    reason = rf"cannot write the steer to .*x: {os.strerror(number)} \(12\.0 MB are needed, [\d,.]+ MB are free\)\."
    with pytest.raises(OutputError, match=reason), writing(tmp_path / "a" / "x", "the steer", 12_000_000):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail] PytorchStreamWriter failed writing file data/0: file write failed"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_libraries_say_a_full_disk_in_other_words(tmp_path, error):
    with pytest.raises(OutputError, match=r"cannot write .*x: .* MB are free\)\."), writing(tmp_path / "x"):
        raise error
    with pytest.raises(RuntimeError, match="size mismatch"), writing(tmp_path / "x"):
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_nothing_is_left_of_what_was_not_written(tmp_path, error):
    def fail(replace) -> None:
        with replace(tmp_path / "x") as aside:
            (aside / "half" if aside.is_dir() else aside).write_text("half")
            raise error

    for replace in (replace_file, replace_folder):
        with pytest.raises(type(error)):
            fail(replace)
    assert not [*tmp_path.iterdir()]


def test_links_to_nowhere_are_replaced(tmp_path):
    for name in ("file", "folder"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
    write_file(tmp_path / "file", "new")
    with replace_folder(tmp_path / "folder") as aside:
        (aside / "a").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "a").read_text() == "new"


def test_the_longest_names_can_be_written(tmp_path):
    name = "é" * 127
    write_file(tmp_path / name, "half of a pair: \ud83d")
    assert (tmp_path / name).read_text() == "half of a pair: \\ud83d"


def test_objects_are_written_one_on_each_line(tmp_path):
    lines = [{"a": "naïve\n"}, {"b": None}]
    write_jsonl(tmp_path / "x.jsonl", lines)
    content = (tmp_path / "x.jsonl").read_text(encoding="utf-8")
    assert "naïve" in content
    assert [json.loads(line) for line in content.splitlines()] == lines


def test_json_has_no_nan_and_no_infinity():
    nan, inf = float("nan"), float("inf")
    assert finite({"a": [1, nan], "b": (2.5, -inf), "c": "nan"}) == {"a": [1, None], "b": [2.5, None], "c": "nan"}


def test_the_digest_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
