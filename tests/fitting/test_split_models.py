"""Models whose weights are split over processes: tensor parallelism and FSDP as transformers has them, here on CPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lmsteer.errors import DataError, ModelError, SteerError
from lmsteer.export.peft import export_lora
from lmsteer.fitting.fit import FitConfig, fit
from lmsteer.fitting.gather import gather
from lmsteer.fitting.inside.presets import sites_of_labels
from lmsteer.model.head import Head
from lmsteer.model.lm import LM
from lmsteer.model.loading import load
from lmsteer.serving.engine.engine import Engine
from lmsteer.steer.files import load_steer
from lmsteer.steer.mix import Mix
from lmsteer.steer.sites import match_sites
from lmsteer.steer.steer import LowRank, Steer
from lmsteer.util.compat import is_split, whole
from lmsteer.util.distributed import Processes
from tiny import random_steer, styled, tiny_lm

# What each process does: the same calls in the same order.
SCRIPT = """
import json, warnings
from pathlib import Path
warnings.simplefilter("error")
warnings.filterwarnings("ignore", message=".*barrier.*")
from transformers.distributed.configuration_utils import DistributedConfig
from lmsteer import FitConfig, GenerationConfig, LabelledText, fit, generate, load
from lmsteer.errors import LMSteerError, ModelError
from lmsteer.steer.sites import all_sites
import torch.distributed as dist

texts = [LabelledText(*row) for row in json.loads(Path("texts.json").read_text())]
for name, split, sites in (
    ("tensor", DistributedConfig(tp_plan="auto"), ["head", "layers.1"]),
    ("fsdp", DistributedConfig(fsdp_size=2), ["head"]),
):
    lm = load("tiny", distributed_config=split)
    config = FitConfig(sites=sites, save_statistics=f"{name}-statistics")
    done = fit(lm, texts, name="letters", out=name, config=config)
    (written,) = generate(lm, ["abc"], {"l": done.steer}, [{"l": 2.0}], GenerationConfig(max_new_tokens=4))
    found = {"split": lm.is_split, "fingerprint": lm.fingerprint, "sites": [*all_sites(lm.model)],
             "text": written.text, "folder": done.folder.name}
    Path(f"{name}-{dist.get_rank()}.json").write_text(json.dumps(found))
try:
    fit(lm, texts, name="letters", out="none", config=FitConfig(sites=["layers.1"]))
except ModelError as error:
    Path(f"refused-{dist.get_rank()}.txt").write_text(str(error))
Path("taken").mkdir(exist_ok=True)
Path("taken/other").write_text("not a steer")  # which the first process alone will see
try:
    fit(lm, texts, name="letters", out="taken")
except LMSteerError as error:
    Path(f"failed-{dist.get_rank()}.txt").write_text(f"{type(error).__name__}: {error}")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    lm = tiny_lm("llama")
    lm.model.save_pretrained(folder / "tiny")
    lm.tokenizer.save_pretrained(folder / "tiny")
    (folder / "texts.json").write_text(json.dumps([(text.text, text.label) for text in styled(240)]))
    (folder / "script.py").write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "script.py"]
    environment = {**os.environ, "LMSTEER_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(launch, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def maps(steer: Steer) -> list[LowRank]:
    return [*steer.inner.values(), LowRank(steer.factors["A"], steer.factors["B"])]


@pytest.mark.parametrize(("name", "sites"), [("tensor", ["head", "layers.1"]), ("fsdp", ["head"])])
def test_all_processes_fit_what_one_fits(folder, name, sites, tmp_path):
    first, second = (json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1))
    lm = load(folder / "tiny")
    assert first == second
    assert first["split"]
    assert not lm.is_split
    assert first["fingerprint"] == lm.fingerprint
    assert first["folder"] == name
    alone = fit(lm, styled(240), name="letters", out=tmp_path / "one", config=FitConfig(sites=sites))
    together = load_steer(folder / name)
    assert together.card.data == alone.steer.card.data
    assert sorted(together.factors) == sorted(alone.steer.factors)
    for (a, b), (own_a, own_b) in zip(maps(together), maps(alone.steer), strict=True):
        # Logits differ in the seventh digit, so that a few tokens of the model's own text are others (.03 here).
        product = own_a @ own_b.T
        assert (a @ b.T - product).norm() < 0.1 * product.norm()
    assert (folder / f"{name}-statistics" / "statistics.json").exists()


def test_only_the_first_process_leaves_something(folder):
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "cache",
        "fsdp",
        "fsdp-statistics",
        "taken",
        "tensor",
        "tensor-statistics",
        "tiny",
    ]


def test_what_fails_in_the_first_process_fails_in_all(folder):
    first, second = ((folder / f"failed-{rank}.txt").read_text() for rank in (0, 1))
    assert "taken" in first
    assert first.split(": ", 1)[1] in second


def test_gradients_under_fsdp_are_refused_in_words(folder):
    for rank in (0, 1):
        assert "tiny is split by FSDP, under which gradients" in (folder / f"refused-{rank}.txt").read_text()


@pytest.mark.parametrize("name", ["tensor", "fsdp"])
def test_split_linear_layers_are_no_sites(folder, name):
    assert json.loads((folder / f"{name}-0.json").read_text())["sites"] == ["layers.0", "layers.1"]


class Part(torch.nn.Parameter):
    """A weight that says that it is a part."""

    def full_tensor(self) -> torch.Tensor:
        """Itself, twice."""
        return torch.cat([self, self])


@pytest.fixture
def split_lm():
    lm = tiny_lm("llama")
    for layer in lm.model.model.layers.modules():
        if isinstance(layer, torch.nn.Linear):
            layer.weight = Part(layer.weight.data, requires_grad=False)
    return LM(lm.model, lm.tokenizer, "split")


def test_a_part_is_joined_once_and_a_whole_left_as_it_is():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    assert not is_split(weight)
    assert whole(weight).data_ptr() == weight.data_ptr()
    with torch.inference_mode():
        joined = whole(Part(torch.ones(2, 3)))
    assert joined.shape == (4, 3)
    assert not joined.requires_grad
    assert not joined.is_inference()


def test_the_head_is_whole_even_where_its_module_is_not(split_lm):
    head = Head(split_lm.head.module)
    head.module.weight = Part(head.module.weight.data, requires_grad=False)
    assert head.weight is head.weight
    assert len(head.weight) == 2 * len(head.module.weight)


def test_a_site_that_is_split_is_refused_in_words(split_lm):
    with pytest.raises(SteerError, match=r"no site .* matches 'layers.0.mlp.gate_proj': there are head, layers.0"):
        match_sites(split_lm.model, ["layers.0.mlp.gate_proj"])


def test_work_of_one_process_is_refused_in_words(split_lm, tmp_path):
    steers = {"s": random_steer(split_lm)}
    for work in (
        lambda: gather(split_lm, [styled(40)], tmp_path / "statistics"),
        lambda: export_lora(split_lm, Mix(steers, {"s": 1.0}), tmp_path / "lora"),
        lambda: Engine(split_lm),
        lambda: sites_of_labels(split_lm, ["lora"]),
    ):
        with pytest.raises(ModelError, match="needs all weights of 'split' in one process"):
            work()
    assert not [*tmp_path.iterdir()]


def test_a_pipeline_of_processes_is_refused(folder):
    config = SimpleNamespace(pp_size=2)
    with pytest.raises(ModelError, match="cannot have its layers in several processes"):
        load(folder / "tiny", distributed_config=config)


@pytest.mark.parametrize("config", [FitConfig(resume=True), FitConfig(processes=Processes(0, 2))])
def test_split_models_are_fitted_from_the_start_by_all(split_lm, config, tmp_path):
    with pytest.raises(DataError, match="fitted by all of them together"):
        fit(split_lm, styled(240), name="letters", out=tmp_path / "steer", config=config)
