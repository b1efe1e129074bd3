"""The prefix cache: keys and values of prompts that were read, for later prompts that begin with the same tokens.

A system prompt, or the turns of a conversation so far, is read once::

    kept     s s s s s s a b c
    prompt   s s s s s s d e        starts after "s s s s s s", whose keys and values are those of the kept prompt
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from lmsteer.model.kv_cache import KVSlice, Start
from lmsteer.util.lists import common_length

# Shorter beginnings are read again: to look for them costs more than it saves.
_SHORTEST = 16


class PrefixCache:
    """The prompts that were used last, up to a number of tokens.

    Args:
        max_tokens: the size in tokens over all prompts; 0 keeps none.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._kept = OrderedDict[tuple[int, ...], KVSlice]()

    @property
    def tokens(self) -> int:
        """The number of tokens that are kept."""
        return sum(map(len, self._kept))

    def shortened(self, start: Start) -> Start:
        """The start after the longest beginning that is kept; the start itself if that is short."""
        if not start.is_plain or not self._kept:
            return start
        # The last token is read in any case: the first step of the decoder needs it.
        lengths = {ids: common_length(ids, start.ids[:-1]) for ids in self._kept}
        longest = max(lengths, key=lengths.__getitem__)
        if (count := lengths[longest]) < _SHORTEST:
            return start
        self._kept.move_to_end(longest)
        return replace(start, ids=start.ids[count:], kept=self._kept[longest].columns(0, count), position=count)

    def keep(self, start: Start, states: KVSlice) -> None:
        """Keep a prompt that was read: its keys and values without its last token.

        Those after other tokens than a prompt's own (a gist, say) or of an adapter are not kept, and no damaged ones. A
        prompt that is the beginning of this one is dropped, and so are those that were used least recently, until all
        fit.
        """
        ids = tuple(start.ids[:-1])
        if not start.is_plain or not _SHORTEST <= len(ids) <= self._max_tokens:
            return
        if not states.values[-1].isfinite().all():  # one step that went wrong must not go on in later requests
            return
        for other in [other for other in self._kept if common_length(other, ids) == len(other)]:
            del self._kept[other]
        if not any(common_length(ids, other) == len(ids) for other in self._kept):
            self._kept[ids] = states
        while self.tokens > self._max_tokens:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget all prompts."""
        self._kept.clear()
