"""Fields that other servers have and this one has not. Values of them that ask for nothing are accepted.

Many clients send such values with every request: an empty list of tools, or a penalty of 0. A value that would change
the answer is refused.
"""

from __future__ import annotations

from types import NoneType
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from lmsteer.serving.http.schema.body import NULL, Body, custom_error, shown

_KINDS = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}


class Neutral:
    """The values of a field that ask for nothing; they leave it unset.

    It annotates the type of the other values; a field of type None has none.

    Args:
        values: the values.
        any_of: JSON types whose values all ask for nothing, like ``"string"``.
        hint: a sentence for those who send another value.
    """

    def __init__(self, *values: Any, any_of: tuple[str, ...] = (), hint: str = "") -> None:
        self.values, self.any_of, self._hint = values, any_of, hint

    def accepts(self, value: Any) -> bool:
        """Whether a value asks for nothing. In JSON, true is not 1."""
        kind = _KINDS[type(value)]
        return kind in self.any_of or any(kind == _KINDS[type(each)] and value == each for each in self.values)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A schema that lets values pass that ask for nothing."""
        others = None if source in (None, NoneType) else handler(source)

        def validate(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if value is None or self.accepts(value):
                return None
            if others is None:
                raise self._refusal(value)
            return inner(value)

        return core_schema.no_info_wrap_validator_function(validate, others or core_schema.any_schema())

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The JSON schema of all values that are accepted."""
        others = handler(core)
        accepted = [others] if others else []
        accepted += [{"enum": [*self.values]}] if self.values else []
        accepted += [{"type": kind} for kind in self.any_of]
        unused = {} if others else {"description": "Not used; for clients that send it."}
        return {"anyOf": [*accepted, NULL], **unused}

    def _refusal(self, value: Any) -> Exception:
        neutral = [*map(shown, self.values), *(f"any {kind}" for kind in self.any_of)]
        instead = f", or send {' or '.join(neutral)}" if neutral else ""
        hint = f" {self._hint}" if self._hint else ""
        return custom_error(f"{shown(value)} is not supported: leave the field out{instead}.{hint}")


_NO_TOOLS = "This server calls no tools."
NO_GRAMMAR = "This server cannot force a format of the text."
Unset = Annotated[None, Neutral()]
Off = Annotated[None, Neutral(False)]
On = Annotated[None, Neutral(True)]
Zero = Annotated[None, Neutral(0)]
One = Annotated[None, Neutral(1)]
NoEntries = Annotated[None, Neutral([])]
NoFields = Annotated[None, Neutral({})]
NoCalls = Annotated[None, Neutral([], hint=_NO_TOOLS)]
NoGrammar = Annotated[None, Neutral("", {}, hint=NO_GRAMMAR)]
AnyBoolean = Annotated[None, Neutral(any_of=("boolean",))]
AnyNumber = Annotated[None, Neutral(any_of=("number",))]
AnyString = Annotated[None, Neutral(any_of=("string",))]
AnyList = Annotated[None, Neutral(any_of=("array",))]
AnyObject = Annotated[None, Neutral(any_of=("object",))]


class NeutralFields(Body):
    """The fields that requests for text may have without an effect."""

    # Tools.
    tools: NoCalls = None
    tool_choice: Annotated[None, Neutral("none", "auto", hint=_NO_TOOLS)] = None
    parallel_tool_calls: AnyBoolean = None
    functions: NoCalls = None
    function_call: Annotated[None, Neutral("none", "auto", hint=_NO_TOOLS)] = None
    tool_prompt: AnyString = None
    web_search_options: Unset = None
    enable_search: Off = None
    plugins: NoEntries = None
    documents: NoEntries = None
    data_sources: NoEntries = None
    # Who asks, and how the request is kept, paid and cached.
    user: AnyString = None
    metadata: AnyObject = None
    safety_identifier: AnyString = None
    user_security_context: AnyObject = None
    request_id: AnyString = None
    session_id: AnyString = None
    user_id: AnyString = None
    chat_id: AnyString = None
    conversation_id: AnyString = None
    trace_id: AnyString = None
    tags: AnyList = None
    store: Off = None
    service_tier: Annotated[None, Neutral("auto", "default")] = None
    priority: Zero = None
    moderation: Unset = None
    prompt_cache_key: AnyString = None
    prompt_cache_options: AnyObject = None
    prompt_cache_retention: AnyString = None
    cache_salt: AnyString = None
    cache_prompt: AnyBoolean = None
    id_slot: AnyNumber = None
    keep_alive: Annotated[None, Neutral(any_of=("string", "number"))] = None
    # Kinds of answers.
    modalities: Annotated[None, Neutral(["text"], hint="This model writes text only.")] = None
    audio: Annotated[None, Neutral(hint="This model writes text only.")] = None
    prediction: AnyObject = None  # a guess at the answer, for speed alone
    verbosity: Annotated[None, Neutral("medium")] = None
    response_format: Annotated[None, Neutral({"type": "text"}, hint=NO_GRAMMAR)] = None
    format: NoGrammar = None
    grammar: NoGrammar = None
    json_schema: Annotated[None, Neutral({}, hint=NO_GRAMMAR)] = None
    guided_json: Annotated[None, Neutral(hint=NO_GRAMMAR)] = None
    guided_regex: NoGrammar = None
    guided_choice: Annotated[None, Neutral([], hint=NO_GRAMMAR)] = None
    guided_grammar: NoGrammar = None
    guided_decoding_backend: AnyString = None
    guided_whitespace_pattern: AnyString = None
    structured_outputs: Annotated[None, Neutral({}, hint=NO_GRAMMAR)] = None
    # Reasoning.
    reasoning_effort: Annotated[None, Neutral("none")] = None
    reasoning: Annotated[None, Neutral({}, {"enabled": False}, {"effort": "none"})] = None
    reasoning_format: Annotated[None, Neutral("none")] = None
    include_reasoning: On = None
    thinking: Annotated[None, Neutral({"type": "disabled"})] = None
    think: Off = None
    separate_reasoning: AnyBoolean = None
    reasoning_in_content: AnyBoolean = None
    thinking_token_budget: Unset = None
    # Other ways to draw tokens.
    presence_penalty: Zero = None
    frequency_penalty: Zero = None
    repetition_penalty: One = None
    repeat_penalty: One = None
    repeat_last_n: AnyNumber = None
    encoder_repetition_penalty: One = None
    no_repeat_ngram_size: Zero = None
    logit_bias: Annotated[None, Neutral({}, [])] = None
    min_p: Zero = None
    typical_p: One = None
    typical: One = None
    tfs: One = None
    tfs_z: One = None
    top_a: Zero = None
    top_n_sigma: Annotated[None, Neutral(-1, 0)] = None
    epsilon_cutoff: Zero = None
    eta_cutoff: Zero = None
    guidance_scale: One = None
    dynamic_temperature: Off = None
    rep_pen: One = None
    rep_pen_range: AnyNumber = None
    repetition_penalty_range: AnyNumber = None
    mirostat: Zero = None
    mirostat_mode: Zero = None
    mirostat_tau: AnyNumber = None
    mirostat_eta: AnyNumber = None
    dynatemp_range: Zero = None
    dynatemp_exponent: AnyNumber = None
    smoothing_factor: Zero = None
    smoothing_curve: AnyNumber = None
    xtc_probability: Zero = None
    xtc_threshold: AnyNumber = None
    dry_multiplier: Zero = None
    dry_base: AnyNumber = None
    dry_allowed_length: AnyNumber = None
    dry_penalty_last_n: AnyNumber = None
    dry_sequence_breakers: AnyList = None
    penalty_alpha: Zero = None
    do_sample: Annotated[None, Neutral(True, hint="For the likeliest token, set temperature to 0.")] = None
    best_of: One = None
    use_beam_search: Off = None
    num_beams: One = None
    length_penalty: One = None
    early_stopping: Off = None
    safe_prompt: Off = None
    # Where a text begins and ends.
    suffix: Annotated[None, Neutral("", hint="This model continues a text; it does not fill gaps.")] = None
    ignore_eos: Off = None
    ban_eos_token: Off = None
    add_bos_token: On = None
    detokenize: On = None
    no_stop_trim: Off = None
    min_tokens: Zero = None
    stop_token_ids: NoEntries = None
    bad_words: NoEntries = None
    allowed_token_ids: Unset = None
    include_stop_str_in_output: Off = None
    skip_special_tokens: On = None
    spaces_between_special_tokens: AnyBoolean = None
    truncate_prompt_tokens: Unset = None
    n_keep: AnyNumber = None
    # The chat template.
    add_generation_prompt: On = None
    continue_final_message: Off = None
    chat_template: Unset = None
    chat_template_kwargs: NoFields = None
    mm_processor_kwargs: NoFields = None
    # More in the response.
    prompt_logprobs: Annotated[None, Neutral(hint="On /v1/completions, echo with logprobs gives them.")] = None
    n_probs: Zero = None
    post_sampling_probs: AnyBoolean = None
    return_hidden_states: Off = None
    return_meta_info: Off = None
    return_tokens: Off = None
    return_token_ids: Off = None
    return_progress: Off = None
    timings_per_token: Off = None
    # Other models, and what clients are told by mistake to send on.
    usage: Annotated[None, Neutral({"include": True}, {"include": False}, {})] = None  # it is always there
    lora: NoEntries = None
    models: NoEntries = None
    provider: NoFields = None
    transforms: NoEntries = None
    vllm_xargs: Annotated[None, Neutral({}, hint="Here, 'steers' is a field of the body.")] = None
    extra_body: Annotated[None, Neutral({}, hint="Its fields belong into the body itself.")] = None
    extra_headers: NoFields = None
