"""Promise: whether a change shows is judged by what the model was told, with what the prompt left open."""

from __future__ import annotations

from types import SimpleNamespace

from cache.config import CacheConfig
from model.spec import PAFU_MINI
from model.stream.chunk_stats import ChunkStats, blank
from model.words.vocabularies import not_in_sight
from server.live.session_state import SessionState

CACHE = CacheConfig(policy="full", budget_latents=6, sink_latents=0, recent_latents=0, position_mode="relative")
PROMPT, TOLD = "a red house", "snow night, red house with blue roof"
ORDER = SimpleNamespace(session="s", prompt=PROMPT, cache=CACHE, jpeg=False, in_force=[], changes=[])


def test_a_session_knows_what_its_model_was_told() -> None:
    state = SessionState(ORDER, b"", "", PAFU_MINI)
    assert state.told == PROMPT, "before the first chunk"
    state.newest = SimpleNamespace(stats=blank(ChunkStats, prompt=PROMPT, told=TOLD))
    assert (state.prompt, state.told) == (PROMPT, TOLD)
    for later in ("a house with a blue roof at night", TOLD):
        assert "names nothing new" in not_in_sight(state.told, later, PAFU_MINI)[0]
