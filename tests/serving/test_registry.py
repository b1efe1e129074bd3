import shutil

import pytest

from lmsteer import save_steer
from lmsteer.errors import SteerError
from lmsteer.serving.registry import SteerRegistry
from tiny import random_steer


def test_a_steer_that_is_gone_can_be_recalled(llama, tmp_path):
    save_steer(random_steer(llama), tmp_path / "style")
    shelf = SteerRegistry([tmp_path], lambda _: None)
    found = shelf.find("style")
    shutil.rmtree(tmp_path / "style")
    with pytest.raises(SteerError, match="unknown steer"):
        shelf.dial("style=2")
    assert shelf.dial("style=2", recall=True) == ({"style": found}, {"style": 2.0})
    with pytest.raises(SteerError, match="unknown steer"):
        shelf.dial("other=2", recall=True)
