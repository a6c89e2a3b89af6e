"""Bad input and bad clients against a real server: typed errors, bounded time, and the next request works."""

import json
import resource
import select
import socket
import time

import pytest
from troupe_process import PATIENCE, Server, wait_until

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


@pytest.fixture(autouse=True)
def still_serves(server):
    yield
    assert server.popen.poll() is None, "the server died"
    assert server.text("Hello", max_tokens=2)


def error_of(answer, *statuses):
    assert answer.status_code in statuses, f"{answer.status_code}: {answer.text[:300]}"
    assert answer.headers["content-type"].startswith("application/json")
    error = answer.json()["error"]
    assert error["message"] and error["type"] and "code" in error and "param" in error
    assert "/" + "root" not in error["message"] and "0x" not in error["message"], "no paths, no addresses"
    return error


@pytest.mark.parametrize("text", [
    b"", b"{", b"[]", b"null", b"7", b'"x"', b'{"prompt": "x"', b'{"prompt": NaN}', b'{"temperature": 1e999, "prompt": "x"}',
    b"\xff\xfe", b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"[" * 100_000, b'{"a":' * 100_000, b'{"prompt": "x"} y',
    b"\0" * 100,
], ids=lambda text: repr(text[:20]))
@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_malformed_json(server, path, text):
    answer = server.http.post(path, content=text, headers={"content-type": "application/json"})
    if b"ud800" in text and path == TEXT:
        assert answer.status_code in (200, 400)  # a lone surrogate is replaced or refused
    else:
        error_of(answer, 400)


BAD_FIELDS = [
    ("temperature", -0.1), ("temperature", "hot"), ("temperature", 1e30), ("top_p", 0), ("top_p", 1.1), ("top_k", -7), ("min_p", 2),
    ("n", 0), ("n", -1), ("n", 1_000_000), ("n", 1.5), ("max_tokens", -2), ("max_tokens", 2**63), ("max_tokens", "many"),
    ("presence_penalty", 3), ("frequency_penalty", -3), ("repetition_penalty", 0), ("seed", 2**64), ("seed", "x"),
    ("logit_bias", {"-1": 1}), ("logit_bias", {"1000000": 1}), ("logit_bias", {"1": 101}), ("logit_bias", [1]),
    ("stop", [""]), ("stop", ["x"] * 100), ("stop", 7), ("logprobs", 1_000_000_000), ("logprobs", -1), ("stream", "yes"),
    ("prompt", {}), ("prompt", [-1]), ("prompt", [10**9]), ("prompt", ["x"] * 10_000), ("prompt", [[1], "x"]), ("prompt", None),
    ("stop_token_ids", [-1]), ("cache_salt", ""), ("cache_salt", "x" * 2000),
]


@pytest.mark.parametrize("name,value", BAD_FIELDS, ids=lambda value: repr(value)[:24])
def test_bad_field(server, name, value):
    request = server.body("Hello", max_tokens=2)
    request[name] = value
    error = error_of(server.http.post(TEXT, json=request), 400)
    assert error["type"] == "invalid_request_error"
    assert error["param"] == name


@pytest.mark.parametrize("messages", [None, [], "x", [{}], [{"role": "user"}], [{"role": 7, "content": "x"}],
                                      [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]],
                         ids=lambda value: repr(value)[:30])
def test_bad_messages(server, messages):
    error_of(server.http.post(CHAT, json={"model": server.model, "messages": messages}), 400)


def test_empty_prompt(server):
    for prompt in ("", [], [[]]):
        answer = server.http.post(TEXT, json=server.body(prompt, max_tokens=2))
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 400:
            error_of(answer, 400)


def test_prompt_longer_than_the_context(server):
    error = error_of(server.http.post(TEXT, json=server.body("word " * 20_000)), 400)
    assert error["code"] == "context_length_exceeded"
    error = error_of(server.http.post(TEXT, json=server.body("word " * 1_000, max_tokens=1_000_000)), 400)
    assert error["code"] == "context_length_exceeded"


def test_prompt_longer_than_the_kv_cache():
    """What the cluster cannot hold is not promised, and refused in words that say why."""
    with Server("--kv-blocks", 20, single_process=True) as small:
        assert small.http.get("/v1/models").json()["data"][0]["max_model_len"] == 320
        for fields in ({"prompt": "word " * 400}, {"prompt": "word", "max_tokens": 320}):
            error = error_of(small.http.post(TEXT, json={"model": small.model, **fields}), 400)
            assert error["code"] == "context_length_exceeded" and "KV cache" in error["message"], error
        answer = small.complete("word", max_tokens=300, ignore_eos=True)
        assert answer["usage"]["completion_tokens"] == 300


def test_special_tokens_in_user_text_stay_text(server):
    told = server.http.post("/tokenize", json={"prompt": "<|im_start|>"}).json()
    assert len(told["tokens"]) > 1, "the text of a special token is not the special token"


def test_hundred_megabytes(server):
    """Refused by its declared length, and as well when no length is declared."""
    started = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE * 30) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       b"Content-Length: 104857600\r\n\r\n" + b'{"prompt": "')
        assert b" 413 " in client.recv(65536).split(b"\r\n")[0]
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE * 30) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                       b"Transfer-Encoding: chunked\r\n\r\n")
        piece = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"
        sent = 0
        try:
            while sent < 100:
                if select.select([client], [], [], 0)[0]:
                    break
                client.sendall(piece)
                sent += 1
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 100, "a body without end was read"
    assert time.monotonic() - started < PATIENCE * 30


@pytest.mark.parametrize("head", [
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % number for number in range(10_000)) + b"\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -2\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nxx\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
    b"NONSENSE\r\n\r\n",
], ids=["long header", "long target", "many headers", "negative length", "negative chunk", "length and chunked", "TLS hello", "nonsense"])
def test_malformed_http(server, head):
    """A 4xx or a closed connection, soon; never a 2xx."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE * 20) as client:
        try:
            client.sendall(head)
            answer = client.recv(65536)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
    assert not answer or answer.startswith(b"HTTP/1.1 4") or answer.startswith(b"HTTP/1.0 4"), answer[:200]


def test_unknown_paths_and_methods(server):
    error_of(server.http.get("/v1/nothing"), 404)
    error_of(server.http.get(CHAT), 405)
    error_of(server.http.delete("/v1/models"), 404, 405)
    for path in ("/v1/../metrics", "//v1/models", "/%2e%2e/etc/passwd"):
        assert server.http.get(path).status_code in (200, 400, 404)


def test_five_hundred_connections(server):
    """All are answered or refused in typed form while 500 are open; none is forgotten."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    request = json.dumps(server.body("Hi", max_tokens=1)).encode()
    head = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(request))
    clients = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE * 20) for _ in range(500)]
    try:
        for client in clients:
            client.sendall(head + request)
        statuses = {}
        deadline = time.monotonic() + PATIENCE * 60
        for client in clients:
            client.settimeout(max(1.0, deadline - time.monotonic()))
            answer = b""
            while b"\r\n" not in answer:
                piece = client.recv(65536)
                assert piece, "closed without an answer"
                answer += piece
            status = answer.split()[1]
            statuses[status] = statuses.get(status, 0) + 1
        assert set(statuses) <= {b"200", b"429", b"503"} and statuses.get(b"200", 0) > 0, statuses
    finally:
        for client in clients:
            client.close()


def test_idle_connections_do_not_block(server):
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE * 10) for _ in range(200)]
    for client in idle[::2]:
        client.sendall(b"POST /v1/compl")  # never goes on
    try:
        started = time.monotonic()
        assert server.text("Hello", max_tokens=2)
        assert time.monotonic() - started < PATIENCE * 10
    finally:
        for client in idle:
            client.close()


def test_slow_readers_do_not_hold_up_others(server):
    """Twenty clients ask for long streams and read nothing; a normal client is served meanwhile."""
    request = json.dumps(server.body("Tell a long story.", max_tokens=1500, ignore_eos=True, stream=True)).encode()
    head = (b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(request))
    slow = []
    try:
        for _ in range(20):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", server.port))
            client.sendall(head + request)
            slow.append(client)
        time.sleep(1)
        started = time.monotonic()
        assert server.text("Hello", max_tokens=4)
        assert time.monotonic() - started < PATIENCE * 30
    finally:
        for client in slow:
            client.close()
    wait_until(lambda: server.metric("troupe_requests_in_flight") == 0, 20,
               "the requests of the readers that left have ended")
