"""Steers in stock vLLM, a strength for each request, through its public plugin points.

``LMSTEER_STEERS`` names the folders of steers (as ``PATH`` does its own) and turns this on. Then a request's
``vllm_xargs={"steers": "sentiment=2.5,toxicity=1"}`` sets its dial::

    frontend   admission.py   reads the notation, refuses what it cannot steer
    worker     router.py      which row of the batch is whose: vLLM's custom logits processor
               dial.py        strengths row by row, and what they do to hidden states
               layer.py       vLLM's pluggable LogitsProcessor layer: the rows before the head

Where plugins of that kind are not allowed, ``lora.py`` answers for models named ``sentiment@2.5``.
"""
