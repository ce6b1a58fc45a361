"""Promise: metrics report waiting jobs and results; an unavailable store has no figures and breaks no scrape."""

from __future__ import annotations

import asyncio

import httpx

from server.jobs.errors import StoreUnavailable


async def test_a_job_is_counted_when_it_is_over_and_one_that_fails_as_failed(serve, tmp_path) -> None:
    server = await serve(data_dir=tmp_path)
    read = server.engine.observer.metrics.read
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as http:
        for prompt, state in (("a bar", "completed"), ("explode", "failed")):
            made = await http.post("/v1/videos", json={"prompt": prompt, "seconds": "3"})
            assert made.status_code == 200, made.text
            while (await http.get(f"/v1/videos/{made.json()['id']}")).json()["status"] != state:
                await asyncio.sleep(0.05)
            assert (await http.get("/metrics")).status_code == 200
            assert read("pafu_jobs_finished_total", state=state) == 1
        assert 'pafu_jobs{model_name="test-tiny",state="queued"} 0.0' in (await http.get("/metrics")).text


async def test_a_store_that_is_away_has_no_figures(serve, tmp_path, monkeypatch) -> None:
    server = await serve(data_dir=tmp_path)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as http:
        assert "pafu_job_queue_age_seconds{" in (await http.get("/metrics")).text

        async def away(query):
            raise StoreUnavailable("gone")

        monkeypatch.setattr(server.front.jobs._database, "run", away)
        reply = await http.get("/metrics")
        assert reply.status_code == 200 and "pafu_job_queue_age_seconds{" not in reply.text
