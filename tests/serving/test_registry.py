import shutil

import pytest

from lmsteer import save_steer
from lmsteer.errors import SteerError
from lmsteer.serving.registry import SteerRegistry
from lmsteer.steer.card import Card
from lmsteer.util.progress import notice_once
from tiny import kin_of, own_steer, random_steer


def test_deleted_steer_can_be_recalled(llama, tmp_path):
    save_steer(random_steer(llama), tmp_path / "style")
    registry = SteerRegistry([tmp_path], lambda _: None)
    found = registry.find("style")
    shutil.rmtree(tmp_path / "style")
    with pytest.raises(SteerError, match="unknown steer"):
        registry.steering("style=2")
    assert registry.steering("style=2", recall=True) == ({"style": found}, {"style": 2.0})
    with pytest.raises(SteerError, match="unknown steer"):
        registry.steering("other=2", recall=True)


def test_folder_with_a_name_that_no_request_can_have_is_passed_over(llama, tmp_path):
    for name in ("style", "größe", "my style", "日本"):
        save_steer(random_steer(llama), tmp_path / name)
    registry = SteerRegistry([tmp_path], lambda _: None)
    assert registry.names() == ["style"]
    with pytest.raises(SteerError, match="unknown steer 'my style': a server finds steers whose names have"):
        registry.find("my style")
    with pytest.raises(SteerError, match="unknown steer 'other'; known steers: style"):
        registry.find("other")


def test_a_damaged_steer_leaves_the_others_alone(llama, tmp_path):
    for name in ("good", "deep"):
        save_steer(random_steer(llama), tmp_path / name)
    (tmp_path / "deep" / "steer.json").write_text("[" * 100_000)
    registry = SteerRegistry([tmp_path], lambda _: None)
    assert registry.names() == ["good"]
    with pytest.raises(SteerError, match="nested too deeply"):
        registry.find("deep")


def test_a_steer_of_the_hub_is_named_by_its_id_and_fetched_at_the_start_alone(hub, llama, tmp_path):
    sha = hub.add("org/style", save_steer(random_steer(llama), tmp_path / "made"))
    save_steer(random_steer(llama, "add"), tmp_path / "own" / "style")
    registry = SteerRegistry([tmp_path / "own", "hf://org/style@main"], lambda _: None)
    assert registry.names() == ["org/style", "style"]
    assert registry.sources == [str(tmp_path / "own"), f"hf://org/style@{sha}"]
    asked = len(hub.requests)
    steers, strengths = registry.steering("org/style=2,style=1")
    assert [steers[name].form for name in strengths] == ["multiply", "add"]
    assert steers["org/style"].card.origin == f"hf://org/style@{sha}"
    hub.add("org/other", tmp_path / "made")
    for name in ("org/other", "hf://org/other", "hf://org/style", "../made"):
        with pytest.raises(SteerError, match="those of the Hub are named when it starts"):
            registry.steering(f"{name}=1")
    assert len(hub.requests) == asked


def test_a_steer_of_the_hub_that_must_not_be_used_is_refused_at_the_start(hub, llama, tmp_path):
    hub.add("org/style", save_steer(random_steer(llama), tmp_path / "made"))

    def refuse(_: Card) -> None:
        raise SteerError("another base")

    with pytest.raises(SteerError, match="another base"):
        SteerRegistry(["org/style"], refuse)
    with pytest.raises(SteerError, match="nowhere holds no steers: it is neither a folder nor an id of the Hub"):
        SteerRegistry(["nowhere"], refuse)


def test_steers_of_kin_are_served_together(llama, tmp_path, capsys):
    notice_once.cache_clear()
    kin = kin_of(llama)
    for lm, name in ((llama, "whole"), (kin, "rounded")):
        save_steer(own_steer(lm, name=name), tmp_path / name)
    save_steer(random_steer(llama), tmp_path / "unknown")  # its card has no sample of the head
    assert SteerRegistry([tmp_path], lambda card: card.check_base(kin)).names() == ["rounded", "whole"]
    assert capsys.readouterr().err.count("is kin to it") == 1
