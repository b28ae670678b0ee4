"""One spelling for a place, however it is written."""

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lance_pipeline.errors import InputError
from lance_pipeline.storage.table_lock import lock_path, locked
from lance_pipeline.storage.uris import is_remote, local_path, normalized_uri

# Anything but NUL; what is not UTF-8 becomes surrogates, as in names that the system lists.
NAMES = st.binary(min_size=1, max_size=8).filter(lambda name: not set(name) & {0, ord("/")}).map(os.fsdecode)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map(
    lambda names: "/" + "/".join(names)
)


@given(PATHS)
def test_every_spelling_of_a_path_gives_the_path(path: str):
    quoted = quote(os.fsencode(path))
    for spelling in (
        path,
        Path(path),
        f"{path}/",
        f"/{path}",
        f"//{path}//",
        f"/.{path}/.",
        f"/nowhere/..{path}",
        f"{path}/more/..",
        os.path.relpath(path),
        f"file://{quoted}",
        f"file://{quoted}/",
        f"file://localhost{quoted}",
        f"FILE://LOCALHOST{quoted}",
        f"file:{quoted}",
        f"file:///nowhere/..{quoted}",
    ):
        assert normalized_uri(spelling) == path
    assert not is_remote(normalized_uri(path))
    assert normalized_uri(normalized_uri(path)) == path


@given(st.text())
def test_a_normalized_uri_is_its_own_spelling(text: str):
    try:
        uri = normalized_uri(text)
    except InputError:
        return
    assert normalized_uri(uri) == uri
    assert is_remote(uri) or uri.startswith("/")


def test_home_is_for_paths_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert normalized_uri("~/x.lance") == normalized_uri(Path("~/x.lance")) == f"{tmp_path}/x.lance"
    assert normalized_uri("./~/x.lance") == f"{tmp_path}/~/x.lance"
    assert normalized_uri("file:///~/x.lance") == "/~/x.lance"


def test_the_parent_of_a_link_is_that_of_its_target(tmp_path: Path):
    (tmp_path / "disk" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "sub")
    assert normalized_uri(tmp_path / "link" / ".." / "x.lance") == f"{tmp_path}/disk/x.lance"
    assert normalized_uri(tmp_path / "link" / "x.lance") == f"{tmp_path}/link/x.lance"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\0b",
        "file://host/x",
        "file://~/x",
        "file://x.lance",
        "file:///x?y",
        "file:///x#y",
        "file:///x%00",
        "s3://",
        "s3:///x",
        "s3://bucket/../x",
        "s3://bucket//x",
        "s3://bucket/./x",
    ],
)
def test_what_names_no_place_is_refused(text: str):
    with pytest.raises(InputError):
        normalized_uri(text)


@pytest.mark.parametrize("place", [None, 3, b"/x", Path])
def test_what_is_no_path_is_a_type_error(place: object):
    with pytest.raises(TypeError):
        normalized_uri(place)  # pyright: ignore[reportArgumentType]


def test_object_stores():
    assert normalized_uri("S3://Bucket/a/x.lance/") == "s3://Bucket/a/x.lance"
    assert normalized_uri("s3://bucket/") == "s3://bucket"
    assert is_remote("s3://bucket")
    assert not any(map(is_remote, ["file:///x", "a/b://c", "/x", "x"]))
    with pytest.raises(InputError, match="local"):
        local_path("s3://bucket/x", "the cache")


def test_a_secret_in_a_uri_is_not_shown():
    with pytest.raises(InputError) as caught:
        normalized_uri("file://me:letmein1@host/x")
    assert "letmein1" not in str(caught.value)


def test_every_spelling_takes_the_same_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other.lance").symlink_to(tmp_path / "x.lance")
    places = [
        tmp_path / "x.lance",
        f"file://{tmp_path}/x.lance",
        f"file://{tmp_path}/%78.lance/",
        "x.lance",
        Path("x.lance"),
        "~/x.lance",
        f"{tmp_path}/sub/../x.lance",
        f"{tmp_path}/x.lance/",
        "other.lance",
    ]
    assert {lock_path(place) for place in places} == {f"{tmp_path}/.x.lance.lock"}
    # Two spellings in one call would wait for each other.
    with locked(places[:2]):
        pass
    assert len({lock_path(uri) for uri in ("s3://bucket/x.lance", "s3://bucket/x.lance/", "S3://bucket/x.lance")}) == 1
