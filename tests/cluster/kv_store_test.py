"""KV stores in processes of their own: what they save, and that losing, freezing or damaging one costs only speed."""

import pathlib
import resource
import signal
import time

import pytest
from troupe_process import PATIENCE, Missed, Repeated, Server, run, wait_until

PROMPT = "Every actor of the troupe knew the play by heart, and yet no evening was like another. " * 45
SLACK = 10 * 16  # tokens of blocks that may not have been stored, or not been whole
# Where the store's use is judged: nodes fetch what it has, also where computing would be faster for the moment.
PATIENT = ("--kv-store-patience-ms", 60_000)
# What a lookup comes to where the store is slower than computing, as it may be on a busy machine.
SLOW = ("computing_is_faster", "too_slow", "silent", "stalled", "store_lost", "engine_busy")


def stored(server, tier="memory"):
    return server.metric("troupe_store_blocks", tier=tier)


def wait_connected(server, decode=1, stores=1):
    """Each decode node looks prompts up in each store, and offers what it computes."""
    wait_until(lambda: server.metric("troupe_store_connections", role="decode") == decode * stores, 20, "decode knows the stores")


def wait_working(server, decode=1, stores=1):
    """And the stores have taken blocks and are empty again: what is kept from now on is what the test asks for."""
    wait_connected(server, decode, stores)

    def kept():
        server.text(f"Is the store there at {time.monotonic()}? " * 8, max_tokens=1)
        return all(server.metric("troupe_store_stored_blocks_total", node=f"kv-store-{n}") for n in range(stores))
    wait_until(kept, 20, "each store has taken blocks")

    def empty():  # and stays so: nothing is on its way any more
        assert server.http.post("/v1/cache/clear").status_code == 200
        return not any(stored(server) or time.sleep(0.05) for _ in range(10))
    wait_until(empty, 20, "they are empty again")


def wait_stored(server, blocks, tier="memory"):
    wait_until(lambda: stored(server, tier) >= blocks, 30, f"{blocks} blocks are kept ({tier})")


def usage(answer):
    return answer["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


def restart_role(server, role):
    """Kills a role's processes, so that their own caches are gone; the server starts them again."""
    before = server.incarnations(role)
    for pid in server.workers(role):
        server.kill(pid)
    server.wait_replaced(role, before)


def check_fetched(server, tokens, least):
    """So many tokens of a prompt came from the store, unless it was too slow to be of use."""
    if tokens >= least:
        return
    wait_until(lambda: server.metric("troupe_store_lookups_total") > 0, 10, "the lookup is counted")
    slow = [outcome for outcome in SLOW if server.metric("troupe_store_lookups_total", outcome=outcome)]
    if slow:
        raise Missed(f"{tokens} tokens instead of {least} were fetched: {', '.join(slow)}")
    raise AssertionError(f"{tokens} tokens instead of {least} were fetched")


@pytest.fixture
def disk(tmp_path):
    return tmp_path / "kv"


def test_a_node_that_starts_anew_fetches_what_others_computed():
    with Server("--kv-store", 1, *PATIENT, prefill=0, decode=1) as server:
        wait_working(server)
        first = server.complete(PROMPT, max_tokens=16)
        tokens, cached = usage(first)
        assert cached == 0
        wait_stored(server, tokens // 16)
        restart_role(server, "decode")
        wait_connected(server)
        again = server.complete(PROMPT, max_tokens=16)
        assert again["choices"][0]["text"] == first["choices"][0]["text"]
        check_fetched(server, usage(again)[1], tokens - SLACK)
        wait_until(lambda: server.metric("troupe_store_fetched_tokens_total") > 0, 10, "it is counted")


def test_killing_the_store_in_mid_run_changes_no_token():
    with Server("--kv-store", 1, prefill=0, decode=2) as server:
        wait_working(server, decode=2)
        prompts = [f"{n}. {PROMPT[:1800]}" for n in range(6)]
        expected = [server.text(prompt, max_tokens=12) for prompt in prompts]
        wait_stored(server, 6 * 20)
        got = []

        def kill_all(_):
            for pid in server.workers("kv-store"):
                server.kill(pid)
        with Repeated(kill_all, pause=0.4):
            for _ in range(3):
                got += [server.text(prompt, max_tokens=12) for prompt in prompts]
        assert got == expected * 3


def test_a_frozen_store_is_a_miss():
    with Server("--kv-store", 1, prefill=0, decode=2) as server:
        wait_working(server, decode=2)
        expected = server.text(PROMPT, max_tokens=8)
        pid = server.workers("kv-store")[0]
        server.kill(pid, signal.SIGSTOP)
        try:
            for n in range(3):
                began = time.monotonic()
                server.text(f"{n} frozen. {PROMPT}", max_tokens=8)
                assert time.monotonic() - began < PATIENCE * 30, "asking it takes a second at most"
            assert server.text(PROMPT, max_tokens=8) == expected
        finally:
            server.kill(pid, signal.SIGCONT)


def test_after_a_restart_of_everything_the_disk_is_warm(disk):
    with Server("--kv-store", 1, "--kv-store-disk", disk, prefill=1, decode=1) as server:
        wait_working(server)
        first = server.complete(PROMPT, max_tokens=16)
        tokens = usage(first)[0]
        wait_stored(server, tokens // 16, tier="disk")
    with Server("--kv-store", 1, "--kv-store-disk", disk, *PATIENT, prefill=1, decode=1) as server:
        wait_connected(server)
        again = server.complete(PROMPT, max_tokens=16)
        assert again["choices"][0]["text"] == first["choices"][0]["text"]
        wait_until(lambda: server.metric("troupe_store_lookups_total"), 10, "the lookup is counted")
        check_fetched(server, server.metric("troupe_store_hit_tokens_total", tier="disk"), tokens - SLACK)
        check_fetched(server, server.metric("troupe_store_fetched_tokens_total"), tokens - SLACK)


def test_a_damaged_file_costs_only_speed(disk):
    with Server("--kv-store", 1, "--kv-store-disk", disk, prefill=0, decode=1) as server:
        wait_working(server)
        first = server.complete(PROMPT, max_tokens=16)
        wait_stored(server, usage(first)[0] // 16, tier="disk")
    file = next(pathlib.Path(disk).glob("*.kv"))
    with open(file, "r+b") as damaged:
        for at in range(4096 + 5000, file.stat().st_size, 1_000_003):
            damaged.seek(at)
            damaged.write(b"damage" * 4)
    with Server("--kv-store", 1, "--kv-store-disk", disk, prefill=0, decode=1) as server:
        wait_connected(server)
        assert server.text(PROMPT, max_tokens=16) == first["choices"][0]["text"]
        wait_until(lambda: server.metric("troupe_store_disk_corrupt_blocks_total") > 0, 10, "the damage is seen")


def test_a_full_disk_costs_only_speed(disk):
    with Server("--kv-store", 1, "--kv-store-disk", disk, prefill=0, decode=1) as server:
        wait_working(server)
        pid = server.pid_of("kv-store")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        first = server.text(PROMPT, max_tokens=16)
        wait_until(lambda: server.metric("troupe_store_disk_write_failures_total") > 0, 10, "the disk refused")
        wait_stored(server, 40)
        assert server.text(PROMPT, max_tokens=16) == first
        assert server.workers("kv-store") == [pid], "the store lives on, in memory"


def test_another_salt_never_hits():
    with Server("--kv-store", 1, *PATIENT, prefill=0, decode=1) as server:
        wait_working(server)
        answer = server.complete(PROMPT, max_tokens=4, cache_salt="alice")
        wait_stored(server, usage(answer)[0] // 16)
        restart_role(server, "decode")
        wait_connected(server)
        assert usage(server.complete(PROMPT, max_tokens=4, cache_salt="bob"))[1] == 0
        check_fetched(server, usage(server.complete(PROMPT, max_tokens=4, cache_salt="alice"))[1], 1)


def test_cache_commands(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(f"{n}. {PROMPT[:900]}" for n in range(3)) + "\n")
    with Server("--kv-store", 1, prefill=0, decode=1) as server:
        wait_working(server)
        warm = run("cache", "warm", prompts, "--url", server.url, seconds=120)
        assert warm.returncode == 0 and warm.stdout.startswith("3 prompts"), warm.stdout + warm.stderr
        mistaken = run("cache", "warm", PROMPT, "--url", server.url)
        assert mistaken.returncode != 0 and "FILE is a text file, one prompt a line" in mistaken.stderr, mistaken.stderr
        assert len(mistaken.stderr) < 250, mistaken.stderr
        wait_stored(server, 30)
        status = run("cache", "status", "--url", server.url)
        assert "kv-store-0" in status.stdout and "memory" in status.stdout, status.stdout + status.stderr
        cleared = run("cache", "clear", "--url", server.url)
        assert cleared.returncode == 0 and int(cleared.stdout.split()[0]) >= 30, cleared.stdout + cleared.stderr
        wait_until(lambda: stored(server) < 30, 20, "the blocks are gone")


def test_two_stores_share_the_prompts():
    with Server("--kv-store", 2, prefill=0, decode=1) as server:
        wait_connected(server, stores=2)
        for n in range(12):
            server.text(f"{n} {PROMPT[:700]}", max_tokens=1)

        def both_have_some():
            return all(server.metric("troupe_store_stored_blocks_total", node=f"kv-store-{n}") for n in range(2))
        wait_until(both_have_some, 30, "both have taken some")


def test_a_killed_store_is_replaced_by_its_replicas():
    with Server("--kv-store", 2, "--kv-store-replicas", 2, prefill=0, decode=1) as server:
        wait_working(server, stores=2)
        prompts = [f"{n}. {PROMPT[:1500]}" for n in range(5)]
        first = [server.complete(prompt, max_tokens=8) for prompt in prompts]
        blocks = sum(usage(answer)[0] // 16 for answer in first)

        def both_have_all():
            return all(server.metric("troupe_store_blocks", tier="memory", node=f"kv-store-{n}") >= blocks for n in range(2))
        wait_until(both_have_all, 60, "both stores have every prompt")
        restart_role(server, "decode")
        wait_connected(server, stores=2)
        before = server.incarnations("kv-store")
        server.kill(server.pid_of("kv-store-0"))
        server.wait_replaced("kv-store", before)
        again = [server.complete(prompt, max_tokens=8) for prompt in prompts]
        assert [a["choices"][0]["text"] for a in again] == [a["choices"][0]["text"] for a in first]
        check_fetched(server, sum(usage(a)[1] > 0 for a in again), len(prompts))


def test_pinned_prompts(tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text(PROMPT[:900])
    with Server("--kv-store", 1, prefill=0, decode=1) as server:
        wait_working(server)
        pinned = run("cache", "pin", file, "--ttl-s", 3600, "--url", server.url, seconds=120)
        assert pinned.returncode == 0 and " blocks pinned, hash " in pinned.stdout, pinned.stdout + pinned.stderr
        wait_until(lambda: server.metric("troupe_store_pinned_blocks") >= 10, 10, "they are pinned")
        unpinned = run("cache", "unpin", "--hash", pinned.stdout.split()[-1], "--url", server.url)
        assert unpinned.returncode == 0 and int(unpinned.stdout.split()[0]) >= 10, unpinned.stdout + unpinned.stderr
        wait_until(lambda: server.metric("troupe_store_pinned_blocks") == 0, 10, "no more")
        assert run("cache", "pin", "--hash", "0" * 32, "--url", server.url).returncode != 0
        refused = run("cache", "unpin", "--hash", "zz", "--url", server.url)
        assert refused.returncode != 0 and "'zz' is not a hash of 32 hex digits" in refused.stderr, refused.stderr
        file.write_text(" ".join(PROMPT.split()[:18]))  # a little more than a block
        one = run("cache", "pin", file, "--url", server.url, seconds=120)
        assert one.stdout.startswith("1 block pinned"), one.stdout + one.stderr
        wait_until(lambda: " pinned 1," in run("cache", "status", "--url", server.url).stdout, 10, "status tells of the pin")


def test_a_store_that_is_drained_hands_its_prompts_on():
    with Server("--kv-store", 2, *PATIENT, prefill=0, decode=1) as server:
        wait_working(server, stores=2)
        prompts = [f"{n}. {PROMPT[:1200]}" for n in range(6)]
        before = [server.complete(prompt, max_tokens=4) for prompt in prompts]
        blocks = sum(usage(answer)[0] // 16 for answer in before)
        wait_stored(server, blocks)
        done = run("drain", "--url", server.url, "kv-store-0", "--timeout-s", 60, seconds=120)
        assert done.returncode == 0 and "kv-store-0: has left" in done.stdout, done.stderr
        wait_stored(server, blocks)  # by the store that stays
        restart_role(server, "decode")
        wait_connected(server)
        for prompt, first in zip(prompts, before):
            again = server.complete(prompt, max_tokens=4)
            assert again["choices"][0]["text"] == first["choices"][0]["text"]
            check_fetched(server, usage(again)[1], usage(first)[0] - 48)
