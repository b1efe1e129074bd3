"""The steering of one worker process, by the model runner that it has."""

from __future__ import annotations

from lmsteer.serving.vllm.after_head import AfterHead
from lmsteer.serving.vllm.before_head import BeforeHead


class WorkerState:
    """The one of both that this process's model runner drives; its logits processor sets it.

    Attributes:
        steering: what steers: before the head (first model runner), or after it (second model runner).
    """

    def __init__(self) -> None:
        self.steering: BeforeHead | AfterHead = BeforeHead()


STATE = WorkerState()
"""The state of this process."""
