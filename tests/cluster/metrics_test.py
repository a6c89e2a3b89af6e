"""Metrics of a running cluster: promtool, the catalogue, and every query of the dashboards and rules."""

import subprocess

from troupe_process import ROOT, Server, metric, wait_until


def test_names_catalogue_and_every_query(draft_model):
    with Server("--kv-store", 1, "--draft-model", draft_model, prefill=1, decode=1) as server:
        # The server is ready with its decode node; the others may come a little later.
        def all_answer():
            text = server.http.get("/metrics").text
            return all(f',role="{role}"' in text for role in ("prefill", "decode", "kv-store", "draft"))
        wait_until(all_answer, 60, "every node gives its metrics")
        done = subprocess.run([ROOT / "tests/checks/metrics", server.url], capture_output=True, text=True, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr


def test_blocks_of_all_states_are_the_pool(server):
    server.text("A prompt that takes some blocks. " * 30, max_tokens=4)
    text = server.http.get("/metrics").text
    for role in ("prefill", "decode"):
        states = {state: metric(text, "troupe_kv_blocks", role=role, state=state)
                  for state in ("free", "cached", "writing", "sealed", "pulling", "quarantined")}
        assert None not in states.values(), states
        pool = metric(text, "troupe_kv_blocks", role=role)
        assert pool == sum(states.values()) and pool > 0
        assert states["quarantined"] == 0


def test_a_long_prompt_is_pulled():
    """What a request does shows in the counters: read by prefill, pulled by decode, counted for the client.

    The server is new, because where a prompt is read depends on the speeds that were measured before: with none of them
    the prefill node is taken."""
    with Server() as server:
        wait_until(lambda: any(n["role"] == "prefill" and n["state"] == "ready" for n in server.nodes()), 30, "prefill is there")
        count_one_request(server)


def count_one_request(server):
    def counters():
        text = server.http.get("/metrics").text
        return {
            "read": metric(text, "troupe_engine_prompt_tokens_total", role="prefill"),
            "pulled": metric(text, "troupe_kv_transfer_bytes_total", role="decode"),
            "prompt": metric(text, "troupe_prompt_tokens_total"),
            "generated": metric(text, "troupe_generation_tokens_total"),
            "requests": metric(text, "troupe_requests_total", endpoint="completions", code="200"),
        }
    before = counters()
    usage = server.complete("Something nobody has asked before. " * 60, max_tokens=5)["usage"]
    after = counters()
    grown = {name: after[name] - before[name] for name in before}
    assert grown["prompt"] == usage["prompt_tokens"] and grown["generated"] == usage["completion_tokens"]
    assert grown["requests"] == 1 and grown["read"] > 0 and grown["pulled"] > 0, grown
