"""Checkpoints, read with transformers: whole, or not at all.

transformers fills a tensor that a checkpoint lacks, or has in another shape, with random numbers, and goes on. A model
like that is another one each time it is loaded. So every model of transformers that lmsteer reads is read here.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from lmsteer.errors import LMSteerError, ModelError
from lmsteer.util.compat import is_quantised, load_report
from lmsteer.util.devices import device_advice
from lmsteer.util.progress import notice
from lmsteer.util.records import parse_json

# Options of ``from_pretrained`` that say where files are, and hold for a model, its config and its tokenizer alike.
_WHERE = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
)
_LFS_POINTER = b"version https://git-lfs"
_FILES = ("*.json", "*.safetensors", "*.bin", "*.model")
_FILES_OF_TOKENIZER = ("*token*", "vocab*", "*.model", "*.tiktoken")
_ONE_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
# Parts of names of tensors that tell how a checkpoint came to lack others.
_OF_PEFT = ("lora_", ".base_layer.", "base_model.model.")
_OF_QUANTISED = ("qweight", "qzeros", "absmax", "quant_state", "weight_scale", "weight_packed", ".SCB")
# Ends of the names of classes that have another output than the logits of a next token.
_OTHER_TASKS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "RewardModel",
)
_NAMED = 5
# In transformers' report: a parameter that it could not make of the checkpoint's tensors, and torch's reason.
_CONVERTED = re.compile(r"^(\S+) *\|\W*(?:\[\d+m)?CONVERSION", re.MULTILINE)
_FAULT = re.compile(r"^\w*Error: (.*)$", re.MULTILINE)


def where(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options of ``from_pretrained`` that say where files are."""
    return {name: options[name] for name in _WHERE if name in options}


def read_model(loader: Any, location: str, what: str, **options: Any) -> PreTrainedModel:
    """Load a model with transformers, and refuse one that is not wholly on disk.

    Args:
        loader: the class whose ``from_pretrained`` loads it: ``AutoModelForCausalLM``.
        location: a folder, or a Hub id.
        what: what the model is called in messages: "the model 'gpt2'".
        options: the arguments of ``from_pretrained``.

    Raises:
        ModelError: files are missing or damaged; the checkpoint lacks tensors of the model, has them in another shape,
            or holds numbers that are not finite; or there is a LoRA in its place.
    """
    check_unambiguous(location, what, options)
    arguments = {"trust_remote_code": False, **options, "output_loading_info": True, "ignore_mismatched_sizes": True}
    arguments["adapter_kwargs"] = _of_files(options)  # otherwise it asks the Hub for an adapter whatever is said
    with explained(what, location), load_report() as report:
        try:
            model, info = loader.from_pretrained(location, **arguments)
        except RuntimeError as error:
            if parts := _CONVERTED.findall("".join(report)):
                raise ModelError(
                    f"{what} is not whole: the tensors of its checkpoint that make up {_named(parts)} do not fit "
                    f"together, so that one is missing or has another shape ({_FAULT.findall(''.join(report))[0]})."
                ) from error
            raise
    check_whole(model, info, what)
    check_finite(model, what)
    if unexpected := sorted(info["unexpected_keys"]):
        notice(
            f"{what}: {type(model).__name__} has no place for {_count(unexpected, 'tensor')} of its checkpoint "
            f"({_named(unexpected)}); what is left over is not used"
        )
    return model


def read_tokenizer(location: str, what: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer with transformers, and refuse one without a vocabulary: transformers makes one of nothing.

    Raises:
        ModelError: its files are missing or damaged.
    """
    none = ModelError(
        f"there is no tokenizer in {location}, or an empty one that makes no tokens of a text. Save the model's own "
        "there (tokenizer.save_pretrained)."
    )
    try:
        with explained(f"the tokenizer of {what}", location):
            arguments = {"trust_remote_code": False, **options}
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, **arguments)
    except ModelError as error:
        folder = Path(location)
        if folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _FILES_OF_TOKENIZER):
            raise none from error
        raise
    if not tokenizer("a b", add_special_tokens=False)["input_ids"]:
        raise none
    return tokenizer


def check_unambiguous(location: str, what: str, options: Mapping[str, Any]) -> None:
    """Refuse an adapter, which transformers would load with another model, and a folder that holds two checkpoints.

    Raises:
        ModelError: it is one.
    """
    with explained(what, location):
        adapter = find_adapter_config_file(location, **_of_files(options))
    if adapter is not None:
        raise ModelError(
            f"{what} has an adapter_config.json, so it is an adapter of PEFT or has one beside it: merge the adapter "
            "into its base (merge_and_unload, then save_pretrained) and name that folder; or move adapter_config.json "
            "away, to load the model without it."
        )
    folder = Path(location)
    if (folder / _ONE_FILE).is_file() and (folder / _INDEX).is_file():
        with explained(what, location):
            shards = set(_read_index(folder / _INDEX).values()) - {_ONE_FILE}
        if shards:
            raise ModelError(
                f"{folder} holds two checkpoints: {_ONE_FILE}, and {_count(shards, 'file')} that {_INDEX} names. Move "
                "one of them away."
            )


def check_whole(model: PreTrainedModel, info: Mapping[str, Any], what: str) -> None:
    """Refuse a model that transformers has filled up with random numbers.

    Args:
        model: the model, as it was loaded.
        info: transformers' ``output_loading_info``.
        what: what the model is called in messages.

    Raises:
        ModelError: its checkpoint lacks tensors, or has them in another shape.
    """
    missing, mismatched = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    kind = type(model).__name__
    if mismatched:
        name, stored, expected = mismatched[0]
        more = f"; {len(mismatched) - 1} more differ, too" if len(mismatched) > 1 else ""
        raise ModelError(
            f"the config of {what} does not describe its checkpoint: {name} has the shape {tuple(stored)}, and "
            f"{kind} needs {tuple(expected)}{more}. "
            + (_reason(model, missing, info) or "Take config.json and weights from the same place, or save both again.")
        )
    if missing:
        reason = (
            _reason(model, missing, info)
            or "It was not saved, merged or fetched to the end, or is of another kind of model."
        )
        raise ModelError(
            f"{what} is not whole: its checkpoint lacks {_count(missing, 'tensor')} of {kind} ({_named(missing)}). "
            f"{reason}"
        )


def check_task(model: PreTrainedModel, what: str) -> None:
    """Refuse a checkpoint of a classifier whose output embedding is tied, so that nothing is missing.

    Raises:
        ModelError: it is one.
    """
    if other := _other_task(model):
        raise ModelError(f"{what} is a {other}, which was trained to judge texts and not to continue them.")


def check_finite(model: nn.Module, what: str) -> None:
    """Refuse weights that are not finite numbers; those of 8 bits and less are not looked at.

    Raises:
        ModelError: a parameter holds NaN or an infinite number.
    """
    for name, parameter in model.named_parameters():
        weight = parameter.detach()
        if (
            is_quantised(weight)
            or weight.is_meta
            or not weight.is_floating_point()
            or weight.element_size() < 2
            or not weight.numel()
        ):
            continue
        if not all(bool(end.isfinite()) for end in torch.aminmax(weight)):
            raise ModelError(
                f"{what} is damaged: its weight {name} holds numbers that are not finite (NaN or infinite)."
            )


@contextmanager
def explained(what: str, location: str) -> Iterator[None]:
    """Report whatever goes wrong within a ``with`` block that reads files of a model, in words.

    transformers, safetensors and torch raise exceptions of any kind on files that are missing or damaged.

    Raises:
        ModelError: something went wrong.
    """
    try:
        yield
    except LMSteerError:
        raise
    except Exception as error:
        raise ModelError(f"cannot load {what}: {_in_words(error, location)}") from error


def _of_files(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in where(options).items() if name != "trust_remote_code"}


def _in_words(error: Exception, location: str) -> str:
    files = sorted(path for pattern in _FILES for path in Path(location).glob(pattern) if path.is_file())
    if fault := next((f"{path} {fault}" for path in files if (fault := _fault(path))), ""):
        return f"{fault}; fetch or save it again."
    if isinstance(error, pickle.UnpicklingError):
        return "its .bin file is damaged, or holds more than tensors, and lmsteer runs no code that is in a file."
    if advice := device_advice(error):
        return f"{str(error).strip()}. {advice}"
    return f"{error}" if isinstance(error, (OSError, ValueError, ImportError)) else f"{type(error).__name__}: {error}"


def _fault(path: Path) -> str:
    """What is wrong with a file of a model; empty if it can be opened."""
    try:
        with path.open("rb") as file:
            if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
                return "is a pointer of Git LFS and not the file itself ('git lfs pull' fetches that)"
        if path.suffix == ".json":
            parse_json(path.read_bytes())
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                pass
    except (SafetensorError, ValueError, OSError) as error:
        return f"is damaged, or not complete ({error})"
    return ""


def _read_index(path: Path) -> dict[str, str]:
    weight_map: dict[str, str] = parse_json(path.read_bytes())["weight_map"]
    return weight_map


def _reason(model: PreTrainedModel, missing: list[str], info: Mapping[str, Any]) -> str:
    """What may have happened to a checkpoint, from what else it holds; empty if nothing tells."""
    unexpected = sorted(info["unexpected_keys"])
    if any(part in name for name in unexpected for part in _OF_PEFT):
        return "It is the state of a model with a LoRA of PEFT: merge_and_unload, then save_pretrained."
    if any(part in name for name in unexpected for part in _OF_QUANTISED):
        return "Its weights are quantised, and its config has no quantization_config that says how."
    if other := _other_task(model):
        return f"It is the checkpoint of a {other}, which has another head; load the language model that it came from."
    for lacking in missing:
        if named := next((name for name in unexpected if name.endswith(lacking) or lacking.endswith(name)), None):
            return f"It has {named} in the place of {lacking}: the names were changed when it was saved."
    heads = (model.get_output_embeddings(), model.get_input_embeddings())
    embeddings = {f"{name}.weight" for name, module in model.named_modules() if module in heads}
    if missing and set(missing) <= embeddings:
        return (
            "If the output embedding is that of the input, set tie_word_embeddings to true in config.json; if not, "
            "the checkpoint is of another kind of model."
        )
    return f"Its checkpoint has other tensors instead ({_named(unexpected)})." if unexpected else ""


def _other_task(model: PreTrainedModel) -> str:
    """The class that a checkpoint was saved from, if it is one of another task than the model's; or empty."""
    own = type(model).__name__
    named = [str(name) for name in getattr(model.config, "architectures", None) or ()]
    others = [name for name in named if name.endswith(_OTHER_TASKS) and name != own]
    return others[0] if others and len(others) == len(named) else ""


def _count(things: Collection[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
