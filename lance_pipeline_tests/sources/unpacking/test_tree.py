"""Names in archives: conflicting, invalid and malicious ones, and those of Windows and macOS."""

import io
import os
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from lance_pipeline.errors import InputError
from lance_pipeline.sources.unpacking.limited_reader import LimitedReader, UnusableArchiveError
from lance_pipeline.sources.unpacking.tree import Tree
from lance_pipeline.storage.addresses import Address
from lance_pipeline_tests.sources.archives import FILES, FORMATS, add, content_of, make, pack, tar_writer


def of_members(form: str, *members: tuple[str, bytes | None]) -> bytes:
    """An archive of these members in this order; folders have no content."""
    buffer = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(buffer, "w") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about duplicate names
            for name, content in members:
                file.writestr(name if content is not None else f"{name}/", content or b"")
        return buffer.getvalue()
    with tar_writer(buffer, form) as file:
        for name, content in members:
            add(file, name, content or b"", tarfile.REGTYPE if content is not None else tarfile.DIRTYPE)
    return buffer.getvalue()


def unpack(content: bytes, tmp_path: Path, **more) -> dict[str, bytes]:
    archive = tmp_path / "archive"
    archive.write_bytes(content)
    make(archive.as_uri(), tmp_path / "raw" / "cinic", **more)
    return content_of(tmp_path / "raw" / "cinic")


def refusal(content: bytes, tmp_path: Path) -> str:
    with pytest.raises(InputError) as caught:
        unpack(content, tmp_path)
    assert os.listdir(tmp_path / "raw" / ".cinic.download") == []
    return str(caught.value)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("members", "name"),
    [
        ([("a/x", b"1"), ("a/x/y", b"2")], "a/x/y"),
        ([("a/x", b"1"), ("a/x", None)], "a/x"),
        ([("a/x", None), ("a/x", b"1")], "a/x"),
        ([("a/x/y", b"1"), ("a/x", b"1")], "a/x"),
        ([("a/x", b"1"), ("a/x", b"2")], "a/x"),
        ([("a/x", b"1"), ("./a//x", b"12")], "a//x"),
        ([("a/x", b"12"), ("a/x", b"1")], "a/x"),
    ],
)
def test_conflicting_names(form, members, name, tmp_path):
    assert name in refusal(of_members(form, *members), tmp_path)


@pytest.mark.parametrize("form", FORMATS)
def test_identical_duplicates_are_accepted(form, tmp_path):
    members = ("a/x", b"1"), ("a/x", b"1"), ("a/b", None), ("a/b", None), ("a/b/y", b"2")
    assert unpack(of_members(form, *members), tmp_path) == {"x": b"1", "b/y": b"2"}


class Caseless(Tree):
    """A tree on a disk that ignores case, as on macOS."""

    def __init__(self, folder: Path, meter: LimitedReader) -> None:
        super().__init__(folder, meter)
        self._ignores_case = True


@pytest.mark.parametrize(("first", "second"), [("a/Cat/1", "a/cat/2"), ("a/Cat.png", "a/cat.png")])
def test_names_that_differ_only_in_case(first, second, tmp_path, monkeypatch):
    """Simulates such a disk: a link from the other spelling leads to the existing file."""
    tree = Caseless(tmp_path, LimitedReader(Address("file:///a"), 100, 100))
    tree.add(first, io.BytesIO(b"1"))
    for one, other in zip(Path(first).parts, Path(second).parts, strict=True):
        if one.lower() == other.lower() and one != other:
            (tmp_path / "a" / other).symlink_to(tmp_path / "a" / one)
    listed = os.listdir
    monkeypatch.setattr(
        os, "listdir", lambda path: [name for name in listed(path) if not (Path(path, name)).is_symlink()]
    )
    with pytest.raises(UnusableArchiveError, match=f"'{second}'"):
        tree.add(second, io.BytesIO(b"1"))


def test_a_zip_by_macos(tmp_path):
    """The Finder's zip contains the folder of images and a folder of attributes."""
    beside = {
        "__MACOSX/CINIC-10/._train": b"attributes",
        "__MACOSX/._CINIC-10": b"attributes",
        ".DS_Store": b"places of icons",
        "._CINIC-10": b"attributes",
    }
    inside = {f"CINIC-10/{name}": content for name, content in FILES.items()}
    assert unpack(pack(inside | beside, "zip"), tmp_path) == FILES


@pytest.mark.parametrize("form", FORMATS)
def test_files_added_by_macos_are_skipped_and_counted(form, tmp_path):
    beside = {f"__MACOSX/{number}": b"attributes" * 100_000 for number in range(3)}
    content = pack(beside | {"cat/1.png": b"1", "dog/2.png": b"2"}, form)
    with pytest.raises(InputError, match=r"\b6\b.*`max_members`"):
        unpack(content, tmp_path, max_members=6)
    assert unpack(content, tmp_path, max_members=8) == {"cat/1.png": b"1", "dog/2.png": b"2"}


def test_a_zip_by_old_windows_tools(tmp_path):
    members = ("CINIC-10\\train\\", b""), ("CINIC-10\\train\\cat.png", b"1"), ("CINIC-10\\test\\dog.png", b"2")
    assert unpack(of_members("zip", *members), tmp_path) == {"train/cat.png": b"1", "test/dog.png": b"2"}


@pytest.mark.parametrize("name", ["a\\..\\..\\..\\escape", "\\escape", "..\\escape", "\\\\server\\share"])
def test_backslashes_do_not_lead_out_of_the_folder(name, tmp_path):
    assert name.replace("\\", "/") in refusal(of_members("zip", ("a/1", b"1"), (name, b"2")), tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["archive", "raw"]


@pytest.mark.parametrize("name", ["", ".", "./."])
def test_a_file_without_a_name(name, tmp_path):
    refusal(of_members("tar", ("a/1", b"1"), (name, b"2")), tmp_path)


@pytest.mark.parametrize("form", ["tar", "zip"])
def test_nested_folders(form, tmp_path):
    """Implicit parent folders are counted; too deep a nesting is refused, because it could not be removed."""
    deep = [("d/" * number + "1", b"1") for number in range(1, 40)]
    with pytest.raises(InputError, match=r"\b60\b.*`max_members`"):
        unpack(of_members(form, *deep), tmp_path, max_members=60)
    assert len(unpack(of_members(form, *deep), tmp_path, max_members=78)) == 39
    for folder in (20_000, 101):
        other = tmp_path / str(folder)
        other.mkdir()
        assert "d/d/d" in refusal(of_members(form, ("d/" * folder + "1", b"1")), other)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("length", [10, 700])
def test_hostile_names_are_shown_on_one_short_line(form, length, tmp_path):
    name = "../" + "\x1b]0;owned\x07\n2026-01-01 00:00:00 - dagster - INFO - all is well \u202e" * length
    message = refusal(of_members(form, ("a/1", b"1"), (name, b"2")), tmp_path)
    assert message.isprintable()
    assert "all is well" in message
    assert len(message) < 800


def test_permissions_of_members_are_ignored(tmp_path):
    member = tarfile.TarInfo("a/1.png")
    member.mode, member.uid = 0o6777, 12345
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.addfile(member)
    unpack(buffer.getvalue(), tmp_path)
    assert not (tmp_path / "raw" / "cinic" / "1.png").stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IXUSR)
