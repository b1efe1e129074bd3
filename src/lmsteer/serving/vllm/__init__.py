"""Steers in stock vLLM through its public plugin interfaces, with a strength for each request.

The environment variable ``LMSTEER_STEERS`` turns the plugin on. It lists folders of steers, separated as in ``PATH``.
A request names its steers in ``vllm_xargs={"steers": "sentiment=2.5,toxicity=1"}``::

    frontend   validation.py         parses the strengths, and refuses requests that cannot be steered
    worker     logits_processor.py   vLLM's custom logits processor: knows which row of the batch is which request
               state.py              the strengths of each row, and the change of hidden states and logits
               layer.py              vLLM's pluggable LogitsProcessor layer: steers the rows before the head

Where such plugins are not allowed, ``lora.py`` serves models named ``sentiment@2.5`` as LoRAs on the head.
"""
