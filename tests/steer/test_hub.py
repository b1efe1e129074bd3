"""Steers are fetched from a stand-in for the Hub by huggingface_hub's own code."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub_server import TOKEN
from lmsteer.errors import SteerError
from lmsteer.steer.algebra import merge
from lmsteer.steer.files import find_steer, load_steer, save_steer
from lmsteer.steer.hub import HubId, fetch, parse_hub_id
from lmsteer.steer.lookup import find_card, find_folder, folder_for_update
from lmsteer.steer.mix import Mix
from lmsteer.steer.notation import of_model_name, parse_strengths
from tiny import random_steer


@pytest.fixture
def folder(llama, tmp_path, monkeypatch) -> Path:
    """The folder of a steer; the current folder is another one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return save_steer(random_steer(llama), tmp_path / "made")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("org/name", HubId("org/name")),
        ("hf://org/name", HubId("org/name")),
        ("hf://my-org/a.name_2@v1.0", HubId("my-org/a.name_2", "v1.0")),
        ("org/name@refs/pr/1", HubId("org/name", "refs/pr/1")),
        *(
            (name, None)
            for name in ("name", "a/b/c", "./a/b", "/a/b", "a/b/", "org/na me", "org/..", "a--b/c", "größe/x")
        ),
        *((name, None) for name in ("org/name.git", "org/name@", "org/name@../x", "org/" + "x" * 97, "", "/")),
    ],
)
def test_ids_are_told_from_paths(name, expected):
    assert parse_hub_id(name) == expected


@pytest.mark.parametrize("name", ["hf://", "hf://name", "hf://a/b/c", "hf://../..", "hf://org/name@", "hf:///etc/x"])
def test_a_name_that_no_repository_can_have_is_refused_before_the_hub_is_asked(hub, name):
    with pytest.raises(SteerError, match="is no id of the Hub: write hf://ORG/NAME"):
        find_folder(name)
    assert not hub.requests


def test_a_steer_is_found_by_its_id_and_its_card_says_which_commit_it_is(hub, folder):
    old = hub.add("org/style", folder, **{"README.md": b"old"})
    hub.repositories["org/style"].refs["v1"] = old
    new = hub.add("org/style", **{"README.md": b"new"})
    assert find_card("org/style").origin == f"hf://org/style@{new}"
    assert find_steer("hf://org/style").card.origin == f"hf://org/style@{new}"
    assert load_steer("hf://org/style@v1").card.origin == f"hf://org/style@{old}"
    assert load_steer(f"org/style@{old[:40]}").factors["A"].equal(load_steer(folder).factors["A"])
    assert load_steer(folder).card.origin == ""
    assert {file.name for file in find_folder("org/style").iterdir()} == {
        "steer.json",
        "steer.safetensors",
        "README.md",
    }


def test_ids_stand_in_notations_and_in_names_of_models(hub, folder):
    hub.add("org/style", folder)
    cards, settings = parse_strengths(["org/style=2.5", "hf://org/style@main=-1,1"], find_card)
    assert [card.name for card in cards.values()] == ["style", "style"]
    assert settings == [{"org/style": 2.5, "hf://org/style@main": s} for s in (-1.0, 1.0)]
    assert of_model_name("org/style@2+hf://org/style@main@1") == "org/style=2,hf://org/style@main=1"


def test_a_folder_goes_before_the_hub(hub, folder, llama):
    hub.add("org/style", folder)
    save_steer(random_steer(llama, "add"), "org/style")
    assert find_steer("org/style").form == load_steer("org/style").form == "add"
    assert not hub.requests
    assert find_steer("hf://org/style").form == "multiply"
    Path("org/empty").mkdir()
    hub.add("org/empty", folder)
    with pytest.raises(SteerError, match=r"unknown steer 'org/empty': neither a folder with a steer\.json"):
        find_steer("org/empty")
    with pytest.raises(SteerError, match=r"unknown steer 'other/style': neither"):
        find_steer(Path("other/style"))  # a Path is a path


def test_what_was_fetched_is_used_without_a_network(hub, folder, monkeypatch, capfd):
    sha = hub.add("org/style", folder)
    found = find_folder("org/style")
    for break_network in (
        lambda: setattr(hub, "failing", 503),
        lambda: monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True),
    ):
        break_network()
        fetch.cache_clear()
        assert find_folder("org/style") == found
        assert f"Version {sha} is used, which was fetched before." in capfd.readouterr().err
        assert find_folder(f"org/style@{sha}") == found
        assert capfd.readouterr().err == ""  # a commit never changes: nothing is asked
        with pytest.raises(SteerError, match=r"no steer 'org/other' is here, and the Hub can.* hf://org/other"):
            find_folder("org/other")
    asked = len(hub.requests)
    with pytest.raises(SteerError, match=r"the Hub cannot be reached for hf://org/style@v2"):
        find_folder("hf://org/style@v2")
    assert len(hub.requests) == asked


def test_private_missing_and_gated_repositories_are_told_apart(hub, folder, tmp_path, monkeypatch):
    for name in ("org/private", "org/gated"):
        hub.add(name, folder)
    hub.repositories["org/private"].private = hub.repositories["org/gated"].gated = True
    with pytest.raises(SteerError, match=r"no such repository, or a private one. If it is private, log in with `hf"):
        find_folder("org/private")
    with pytest.raises(SteerError, match="unknown steer 'hf://org/missing': no folder of that name is here"):
        find_folder("org/missing")
    with pytest.raises(SteerError, match=r"hf://org/gated is gated: ask for access"):
        find_folder("org/gated")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert find_folder("org/private").name == hub.repositories["org/private"].refs["main"]
    with pytest.raises(SteerError, match="org/private has no revision 'v9' on the Hub"):
        find_folder("org/private@v9")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b""}, "holds no steer: steer.json and steer.safetensors of it are missing"),
        ({"steer.json": b"{}"}, "holds no steer: steer.safetensors of it is missing"),
        ({"pytorch_model.bin": b""}, "holds pytorch_model.bin, which no steer has"),
        ({"steer.py": b"", "a/b.pkl": b"", "c.pt": b"", "d.json": b""}, r"holds .* and 1 more, which no steer has"),
    ],
)
def test_a_repository_of_something_else_is_refused_and_nothing_is_fetched(hub, folder, tmp_path, files, message):
    hub.add("org/style", None if "holds no steer" in message else folder, **files)
    with pytest.raises(SteerError, match=message):
        find_folder("org/style")
    assert not any("resolve" in request for request in hub.requests)
    assert not list(tmp_path.glob("hub/*/snapshots/*"))


@pytest.mark.parametrize(
    ("name", "size"), [("steer.safetensors", 1 << 31), ("steer.json", 5 << 20), ("README.md", 1 << 30)]
)
def test_files_that_are_too_large_are_refused_before_they_are_fetched(hub, folder, name, size):
    hub.add("org/style", folder, **{"README.md": b"x", "LICENSE": b"x", "curve.png": b"x"})
    hub.repositories["org/style"].sizes[name] = size
    with pytest.raises(SteerError, match=rf"{name} of hf://org/style has [0-9,]+ bytes; a steer's has at most"):
        find_folder("org/style")
    assert not any("resolve" in request for request in hub.requests)


def test_a_damaged_steer_of_the_hub_is_refused_like_any_other(hub):
    hub.add("org/style", **{"steer.json": b'{"format": 1}', "steer.safetensors": b"no"})
    with pytest.raises(SteerError, match="is damaged"):
        find_steer("org/style")


def test_cards_of_what_is_made_of_a_steer_name_its_commit(hub, folder, llama):
    origin = f"hf://org/style@{hub.add('org/style', folder)}"
    mixed = merge(Mix({"a": find_steer("org/style"), "b": random_steer(llama)}, {"a": 1.0, "b": 2.0}), "mixed")
    assert [part.get("origin") for part in mixed.card.fit["of"]] == [origin, None]
    save_steer(find_steer("org/style"), "steers/copy")
    assert find_card("copy").origin == origin


def test_a_new_version_of_a_fetched_steer_goes_to_a_folder_of_the_user(hub, folder):
    hub.add("org/style", folder)
    found = find_folder("org/style")
    assert folder_for_update(found) == Path("steers/style")
    save_steer(load_steer(folder), "steers/style")
    with pytest.raises(SteerError, match=r"another steer than the one that comes from the Hub; choose"):
        folder_for_update(found)
    assert list(found.parent.iterdir()) == [found]
