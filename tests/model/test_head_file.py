import pytest
import torch

from lmsteer.errors import ModelError
from lmsteer.model import head_file
from lmsteer.model.fingerprints import head_sample
from lmsteer.model.head_file import read_head, read_head_sample, read_skeleton
from lmsteer.steer.sites import all_sites


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_head_of_a_checkpoint_is_read_from_its_file(make_lm, tmp_path, family):
    lm = make_lm(family)
    lm.model.save_pretrained(tmp_path)
    head = read_head(str(tmp_path))
    assert torch.equal(head.weight, lm.head.weight)
    assert head.module == "lm_head"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_skeleton_has_the_modules_and_no_values(make_lm, tmp_path, family):
    lm = make_lm(family)
    lm.model.save_pretrained(tmp_path)
    skeleton = read_skeleton(str(tmp_path))
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    found, own = (
        [(site.name, site.path, site.inputs, site.outputs) for site in all_sites(model).values()]
        for model in (skeleton, lm.model)
    )
    assert found == own
    with pytest.raises(ModelError):
        read_skeleton(str(tmp_path / "nowhere"))


def test_sample_is_read_without_the_rest_of_the_head(llama, tmp_path, monkeypatch):
    llama.model.save_pretrained(tmp_path)
    opened = head_file.safe_open

    class Slices:
        """A file that refuses to read whole tensors."""

        def __init__(self, *args):
            self._file = opened(*args)

        def __enter__(self):
            self._open = self._file.__enter__()
            return self

        def __exit__(self, *args):
            self._file.__exit__(*args)

        def keys(self):
            return self._open.keys()

        def get_slice(self, name):
            return self._open.get_slice(name)

    monkeypatch.setattr(head_file, "safe_open", Slices)
    weight = llama.head.weight
    assert read_head_sample(str(tmp_path)) == head_sample(weight, len(weight))


def test_missing_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ModelError, match="cannot load the output embedding"):
        read_head_sample(str(tmp_path))
