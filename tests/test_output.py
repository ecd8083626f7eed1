"""An output folder receives all files of a run or none, and keeps what is not ours."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tonno_core import output
from tonno_core.errors import TonnoError
from tonno_core.output import PARTIAL, atomic_file, check_output, output_folder, partial_folder, remove_abandoned


def tree(folder: Path) -> dict[str, str | None]:
    """All files with their text, and all folders, below a folder."""
    return {str(path.relative_to(folder)): path.read_text() if path.is_file() else None for path in folder.rglob("*")}


def run(folder: Path, *, overwrite: bool = False, failure: BaseException | None = None) -> None:
    with output_folder(folder, overwrite=overwrite) as temporary:
        (temporary / "a.txt").write_text("new a")
        (temporary / "b.txt").write_text("new b")
        if failure is not None:
            raise failure


@pytest.fixture
def existing(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.txt", "mine.txt", "sub/c.txt"):
        (folder / name).write_text(f"old {name}")
    return folder


def test_all_files_arrive_in_a_new_folder(tmp_path: Path) -> None:
    run(tmp_path / "x" / "y" / "out")
    assert tree(tmp_path / "x" / "y") == {"out": None, "out/a.txt": "new a", "out/b.txt": "new b"}
    # Others may read it, as any folder made by mkdir under the usual mask; a temporary folder is private.
    assert (tmp_path / "x" / "y" / "out").stat().st_mode & 0o777 == 0o755


def test_nothing_is_at_the_place_until_all_is_written(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out", overwrite=False) as temporary:
        (temporary / "a.txt").write_text("new a")
        assert not (tmp_path / "out").exists()


FAILURES = [ValueError("bug"), KeyboardInterrupt(), OSError(28, "No space left on device"), TonnoError("x")]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_a_failure_leaves_nothing_not_even_the_folders_above(failure: BaseException, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises((type(failure), TonnoError)):
        run(tmp_path / "there" / "x" / "y" / "out", failure=failure)
    assert tree(tmp_path) == {"there": None}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda error: type(error).__name__)
def test_a_failure_leaves_what_was_there(failure: BaseException, existing: Path) -> None:
    before = tree(existing.parent)
    with pytest.raises((type(failure), TonnoError)):
        run(existing, overwrite=True, failure=failure)
    assert tree(existing.parent) == before


def test_overwriting_replaces_files_of_the_same_name_only(existing: Path) -> None:
    run(existing, overwrite=True)
    assert tree(existing) == {
        "a.txt": "new a", "b.txt": "new b", "mine.txt": "old mine.txt", "sub": None, "sub/c.txt": "old sub/c.txt",
    }  # fmt: skip
    assert [path.name for path in existing.parent.iterdir()] == ["out"]


def test_an_existing_folder_is_kept_without_overwrite(existing: Path) -> None:
    before = tree(existing)
    with pytest.raises(TonnoError, match=r"^`output` .*out: exists already; choose another name or give `overwrite`$"):
        run(existing)
    assert tree(existing) == before


def test_a_folder_that_another_process_wrote_meanwhile(tmp_path: Path) -> None:
    folder = tmp_path / "new"

    def write(text: str, *, overwrite: bool) -> None:
        with output_folder(folder, overwrite=overwrite) as place:
            (place / "a.txt").write_text(text)
            folder.mkdir()
            (folder / "a.txt").write_text("theirs")
            (folder / "b.txt").write_text("theirs")

    with pytest.raises(
        TonnoError, match=r"new: another process wrote it meanwhile; choose another name or give `overw"
    ):
        write("ours", overwrite=False)
    assert [(folder / name).read_text() for name in ("a.txt", "b.txt")] == ["theirs", "theirs"]
    shutil.rmtree(folder)
    write("ours", overwrite=True)
    assert [(folder / name).read_text() for name in ("a.txt", "b.txt")] == ["ours", "theirs"]
    assert [each.name for each in tmp_path.iterdir()] == ["new"]


def test_overwriting_needs_no_right_to_write_beside_the_folder(existing: Path) -> None:
    # As for a folder that a container mounts at /out: all temporary files must be inside of it.
    with output_folder(existing, overwrite=True) as temporary:
        assert temporary.parent == existing


def test_a_folder_with_the_name_of_a_file_stops_all_of_them(existing: Path) -> None:
    (existing / "b.txt").mkdir()
    before = tree(existing)
    with pytest.raises(TonnoError, match=r"b\.txt in it is a folder, expected a file; remove it"):
        run(existing, overwrite=True)
    assert tree(existing) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_way(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(TonnoError, match=r"`output` .*out: is a file, expected the name of a folder"):
        check_output(tmp_path / "out", overwrite=overwrite)
    with pytest.raises(TonnoError, match=r"`output` .*deep: .*out is a file, expected a folder"):
        check_output(tmp_path / "out" / "very" / "deep", overwrite=overwrite)


def test_a_link_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "absent")
    with pytest.raises(TonnoError, match="is a link to nothing"):
        check_output(tmp_path / "out", overwrite=True)


def test_a_link_to_a_folder_is_followed(existing: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(existing)
    run(tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert (existing / "a.txt").read_text() == "new a"


def test_a_read_only_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Told by the system rather than by permissions, which bind not everybody (root).
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(TonnoError, match=rf"`output` .*out: {tmp_path} is not writable; choose another place"):
        check_output(tmp_path / "out", overwrite=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(TonnoError, match="is not writable"):
            check_output(tmp_path / "out", overwrite=False)
    finally:
        tmp_path.chmod(0o755)


def test_a_full_disk_is_named_by_the_option(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match=r"^`output` .*out: cannot be written \(No space left on device\)$"):
        run(tmp_path / "out", failure=OSError(28, "No space left on device"))


def test_the_system_is_quoted_where_a_library_raises_its_error_anew(tmp_path: Path) -> None:
    def write() -> None:  # as pydicom does, which adds the traceback to the words
        try:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        except OSError as error:
            raise OSError("With tag (7FE0,0008) got exception: [Errno 5]\nTraceback ...") from error

    for writing in (lambda: output_folder(tmp_path / "out", overwrite=False), lambda: atomic_file(tmp_path / "file")):
        with pytest.raises(TonnoError) as caught, writing():
            write()
        assert str(caught.value).endswith(f"cannot be written ({os.strerror(errno.EIO)})")


def test_a_disk_that_refuses_once_to_remove_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, refused = os.unlink, [OSError(errno.EIO, os.strerror(errno.EIO))]

    def refusing(*arguments: object, **options: object) -> None:
        if refused:
            raise refused.pop()
        unlink(*arguments, **options)  # type: ignore[arg-type]

    with partial_folder(tmp_path) as folder:
        (folder / "other").touch()
        monkeypatch.setattr(os, "unlink", refusing)
    assert not refused and not list(tmp_path.iterdir())


def test_errors_name_the_file_where_the_user_wanted_it(tmp_path: Path) -> None:
    with (
        pytest.raises(TonnoError, match=rf"^{tmp_path}/out/a.txt: cannot be written$"),
        output_folder(tmp_path / "out", overwrite=False) as temporary,
    ):
        raise TonnoError(f"{temporary / 'a.txt'}: cannot be written")


def test_the_place_taken_by_somebody_else_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with (
        pytest.raises(TonnoError, match="another process wrote it meanwhile"),
        output_folder(tmp_path / "out", overwrite=False) as temporary,
    ):
        (temporary / "a.txt").write_text("new a")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a.txt").write_text("theirs")
    assert tree(tmp_path) == {"out": None, "out/a.txt": "theirs"}
    shutil.rmtree(tmp_path / "out")


# -------------------- a single file


def test_a_file_arrives_whole_in_folders_that_are_made(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_file(tmp_path / "x" / "y" / "a.txt", make_folders=True) as partial:
            partial.write_text(text)
    assert tree(tmp_path) == {"x": None, "x/y": None, "x/y/a.txt": "new"}


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), ValueError("no"), OSError(28, "No space left on device")])
def test_a_failure_leaves_the_file_that_was_there(failure: BaseException, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    expected = TonnoError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected) as caught, atomic_file(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise failure
    assert tree(tmp_path) == {"a.txt": "old"}
    if expected is TonnoError:
        assert str(caught.value) == f"{tmp_path / 'a.txt'}: cannot be written (No space left on device)"


def test_a_file_is_written_under_its_name_with_room_for_others_beside_it(tmp_path: Path) -> None:
    """Writers of images go by the ending, and a page is made of pictures."""
    with atomic_file(tmp_path / "head.nii.gz") as partial:
        assert partial.name == "head.nii.gz"
        (partial.parent / "picture.png").write_text("a picture")
        partial.write_text((partial.parent / "picture.png").read_text())
    assert tree(tmp_path) == {"head.nii.gz": "a picture"}


def test_a_file_that_nobody_has_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(TonnoError, match=r"a\.txt: cannot be written \("), atomic_file(tmp_path / "a.txt"):
        pass
    with pytest.raises(TonnoError, match=r"x/a\.txt: cannot be written \("), atomic_file(tmp_path / "x" / "a.txt"):
        pytest.fail("there is no such folder")
    assert tree(tmp_path) == {}


def test_a_file_below_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(TonnoError, match=r"a/b\.txt: cannot be written \("), atomic_file(tmp_path / "a" / "b.txt"):
        pytest.fail("there is no place for it")


# --- what a process leaves that is killed

KILLED = """
import os, signal, sys
from pathlib import Path
from tonno_core.output import {how} as writing
with writing(Path(sys.argv[1]){options}) as partial:
    (partial if partial.is_dir() else partial.parent).joinpath("part").write_text("half")
    print(end="begun", flush=True)
    {then}
"""
DIES, WAITS = "os.kill(os.getpid(), signal.SIGKILL)", "sys.stdin.read()"


def writer(path: Path, how: str, then: str) -> subprocess.Popen[bytes]:
    """A process that writes to a place, and dies there or waits."""
    code = KILLED.format(how=how, options=", overwrite=True" if how == "output_folder" else "", then=then)
    started = subprocess.Popen(
        [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert started.stdout is not None and started.stdout.read(5) == b"begun"
    return started


def killed(path: Path, how: str) -> None:
    with writer(path, how, DIES) as process:
        pass
    assert process.returncode == -signal.SIGKILL


posix = pytest.mark.skipif(sys.platform == "win32", reason="nobody there tells who still writes")


@posix
@pytest.mark.parametrize("how", ["atomic_file", "output_folder"])
def test_what_a_killed_process_left_goes_when_the_next_writes_there(how: str, tmp_path: Path) -> None:
    killed(tmp_path / "a", how)
    assert len(list(tmp_path.glob(f"{PARTIAL}*/part"))) == 1
    with atomic_file(tmp_path / "b") as partial:
        partial.write_text("b")
    assert tree(tmp_path) == {"b": "b"}


@posix
def test_what_a_killed_process_left_goes_before_the_next_writes_to_the_folder(existing: Path) -> None:
    before = tree(existing)
    killed(existing, "output_folder")
    assert tree(existing) != before
    remove_abandoned(existing.parent, below=True)
    assert tree(existing) == before


@posix
def test_what_another_process_is_writing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writer(tmp_path / "a", "output_folder", WAITS) as other, partial_folder(tmp_path) as own:
        remove_abandoned(tmp_path)
        assert own.is_dir() and len(list(tmp_path.glob(f"{PARTIAL}*/part"))) == 1
        other.communicate()
    assert tree(tmp_path) == {"a": None, "a/part": "half"}


@posix
def test_what_another_machine_or_nobody_here_made_stays(tmp_path: Path) -> None:
    for name in (f"{PARTIAL}x", f"{PARTIAL}0123abcd-x"):
        (tmp_path / name).mkdir()
    remove_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


@posix
def test_a_folder_that_was_taken_for_abandoned_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its making and its lock, another process may come by."""
    lock, taken = output._lock, []

    def late(folder: Path) -> int | None:
        if not taken:
            taken.append(folder)
            folder.rmdir()
        return lock(folder)

    monkeypatch.setattr(output, "_lock", late)
    with partial_folder(tmp_path) as folder:
        assert folder.is_dir() and folder != taken[0]


def test_where_nothing_can_be_locked_writing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "fcntl", None)
    with partial_folder(tmp_path) as folder:
        remove_abandoned(tmp_path)
        assert folder.is_dir()
    assert tree(tmp_path) == {}


def test_the_file_that_describes_the_others_comes_last(existing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at a case's report while, or after, its process was killed finds what it describes."""
    moved: list[str] = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda file, target: (moved.append(file.name), replace(file, target))[1])
    with output_folder(existing, overwrite=True, last="report.json") as temporary:
        for name in ("heatmap.nii.gz", "report.json", "segmentation.nii.gz"):
            (temporary / name).write_text(name)
    assert moved[-1] == "report.json" and len(moved) == 3
