"""Metrics of a running cluster: promtool, the catalogue, and every query of the dashboards and rules."""

import subprocess

from troupe_process import PATIENCE, ROOT, Missed, Server, metric, wait_until


def test_names_catalogue_and_every_query(draft_model):
    with Server("--kv-store", 1, "--draft-model", draft_model, prefill=1, decode=1) as server:
        # The server is ready with its decode node; the others may come a little later.
        def all_answer():
            text = server.http.get("/metrics").text
            return all(f',role="{role}"' in text for role in ("prefill", "decode", "kv-store", "draft"))
        wait_until(all_answer, 60, "every node gives its metrics")
        done = subprocess.run([ROOT / "tests/checks/metrics", server.url], capture_output=True, text=True, timeout=PATIENCE * 100)
        assert done.returncode == 0, done.stdout + done.stderr


def test_blocks_of_all_states_are_the_pool(server):
    server.text("A prompt that takes some blocks. " * 30, max_tokens=4)
    for role in ("prefill", "decode"):
        def states():  # a node that is too busy to tell is left out
            text = server.http.get("/metrics").text
            found = {state: metric(text, "troupe_kv_blocks", role=role, state=state)
                     for state in ("free", "cached", "writing", "sealed", "pulling", "quarantined")}
            return None not in found.values() and (found, metric(text, "troupe_kv_blocks", role=role))
        found, pool = wait_until(states, 20, f"the {role} node tells of its blocks")
        assert pool == sum(found.values()) and pool > 0
        wait_until(lambda: server.metric("troupe_kv_blocks", role=role, state="quarantined") == 0, 20, "no pull is left over")


def test_a_long_prompt_is_pulled():
    """What a request does shows in the counters: read by prefill, pulled by decode, counted for the client.

    The server is new, because where a prompt is read depends on the speeds that were measured before: with none of them
    the prefill node is taken."""
    with Server() as server:
        count_one_request(server)


def count_one_request(server):
    def counters():
        text = server.http.get("/metrics").text
        found = {
            "read": metric(text, "troupe_engine_prompt_tokens_total", role="prefill"),
            "pulled": metric(text, "troupe_kv_transfer_bytes_total", role="decode"),
            "prompt": metric(text, "troupe_prompt_tokens_total"),
            "generated": metric(text, "troupe_generation_tokens_total"),
        }
        return None not in found.values() and {**found, "requests": metric(
            text, "troupe_requests_total", endpoint="completions", code="200") or 0}
    before = wait_until(counters, 20, "all nodes tell")
    usage = server.complete("Something nobody has asked before. " * 60, max_tokens=5)["usage"]

    def grown():
        after = wait_until(counters, 20, "all nodes tell")
        return {name: after[name] - before[name] for name in before}
    wait_until(lambda: grown()["prompt"] and grown()["generated"] and grown()["requests"], 20, "the request is counted")
    if server.metric("troupe_engine_prompt_tokens_total", role="decode") >= usage["prompt_tokens"]:
        raise Missed("the decode node read the prompt itself")
    wait_until(lambda: grown()["read"] > 0 and grown()["pulled"] > 0, 20, "prefill and decode have counted it")
    now = grown()
    assert now["prompt"] == usage["prompt_tokens"] and now["generated"] == usage["completion_tokens"] and now["requests"] == 1
