import shutil

import pytest

from lmsteer import save_steer
from lmsteer.errors import SteerError
from lmsteer.serving.registry import SteerRegistry
from tiny import random_steer


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
