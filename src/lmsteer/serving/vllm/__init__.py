"""Steers in stock vLLM through its public plugin interfaces, with a strength for each request.

The environment variable ``LMSTEER_STEERS`` turns the plugin on. It lists folders of steers, separated as in ``PATH``.
A request names its steers in ``vllm_xargs={"steers": "sentiment=2.5,toxicity=1"}``::

    frontend   validation.py         parses the strengths, and refuses requests that cannot be steered
    worker     logits_processor.py   vLLM's custom logits processor: knows which row of the batch is which request
               layer.py              vLLM's pluggable LogitsProcessor layer, which calls the head
               before_head.py        first model runner: which hidden states are steered, and how
               after_head.py         second model runner: what steers change of the logits
               state.py              the one of both that this process has

Where such plugins are not allowed, and for steers at linear layers, ``lora.py`` serves models named ``sentiment@2.5``
as LoRAs.
"""
