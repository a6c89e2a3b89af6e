"""The server as OpenAI's own Python client sees it: every answer is parsed by its models, every error by its classes.

    pytest tests/reference/openai_client_test.py        TROUPE_URL=http://host:port asks a running server,
                                                        else one is started (TROUPE_BINARY, TROUPE_TEST_MODEL)
"""

import concurrent.futures
import math
import os
import pathlib
import sys
import time

import httpx
import openai
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "cluster"))

MESSAGES = [{"role": "user", "content": "Name three roles in a theatre."}]
PROMPT = "The history of the theatre begins with"


@pytest.fixture(scope="module")
def url():
    if given := os.environ.get("TROUPE_URL"):
        yield given.rstrip("/")
        return
    from troupe_process import Server
    with Server(single_process=True) as server:
        yield server.url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=url + "/v1", api_key=os.environ.get("TROUPE_API_KEY", "none"), timeout=120, max_retries=0,
                       http_client=httpx.Client(trust_env=False)) as made:
        yield made


@pytest.fixture(scope="module")
def model(client):
    return client.models.list().data[0].id


@pytest.fixture
def chat(client, model):
    return lambda **fields: client.chat.completions.create(**{
        "model": model, "messages": MESSAGES, "max_tokens": 24, "temperature": 0, **fields})


@pytest.fixture
def complete(client, model):
    return lambda **fields: client.completions.create(**{
        "model": model, "prompt": PROMPT, "max_tokens": 16, "temperature": 0, **fields})


def joined(stream):
    """Texts and finish reasons by index, usage, and that ids do not change."""
    texts, reasons, usage, ids = {}, {}, None, set()
    for chunk in stream:
        ids.add((chunk.id, chunk.created, chunk.model))
        usage = chunk.usage or usage
        for choice in chunk.choices:
            piece = choice.delta.content if hasattr(choice, "delta") else choice.text
            texts[choice.index] = texts.get(choice.index, "") + (piece or "")
            if choice.finish_reason:
                assert choice.index not in reasons, "one finish reason a choice"
                reasons[choice.index] = choice.finish_reason
    assert len(ids) == 1
    return texts, reasons, usage


def test_models(client, model):
    one = client.models.retrieve(model)
    assert one.id == model and one.object == "model" and one.owned_by
    assert one.max_model_len > 0
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("none")
    assert caught.value.code == "model_not_found"


def test_chat(chat):
    answer = chat()
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content and choice.logprobs is None
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 24


def test_streamed_chat_is_the_same_text(chat):
    whole = chat()
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].choices[0].delta.content == ""
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage or \
        chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    texts, reasons, _ = joined(chunks)
    assert texts == {0: whole.choices[0].message.content}
    assert reasons == {0: whole.choices[0].finish_reason}


def test_usage_comes_with_every_chunk_if_asked(chat):
    chunks = list(chat(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}))
    counts = [chunk.usage.completion_tokens for chunk in chunks]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == counts[-2] > 1
    assert {chunk.usage.prompt_tokens for chunk in chunks} == {chunks[-1].usage.prompt_tokens}


def test_no_usage_chunk_unless_asked(chat):
    assert all(chunk.choices and chunk.usage is None for chunk in chat(stream=True))


def test_stream_helper_of_the_client(client, model):
    with client.chat.completions.stream(model=model, messages=MESSAGES, stop=" ", temperature=0) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content


def test_max_completion_tokens_wins(chat):
    answer = chat(max_tokens=20, max_completion_tokens=3)
    assert answer.usage.completion_tokens == 3 and answer.choices[0].finish_reason == "length"


def test_content_parts_and_system(chat):
    parts = chat(messages=[{"role": "system", "content": "Be brief."},
                           {"role": "user", "content": [{"type": "text", "text": "Say hello."}]}])
    text = chat(messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hello."}])
    assert parts.choices[0].message.content == text.choices[0].message.content
    assert parts.usage.prompt_tokens == text.usage.prompt_tokens


def test_seeds(chat):
    draw = lambda seed: chat(temperature=1.2, seed=seed).choices[0].message.content
    assert draw(11) == draw(11)
    assert len({draw(seed) for seed in range(6)}) > 1


def test_n_choices(chat):
    answer = chat(n=3, temperature=1.2, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    contents = [choice.message.content for choice in answer.choices]
    assert len(set(contents)) > 1, "each choice has its own random numbers"
    texts, reasons, usage = joined(chat(n=3, temperature=1.2, seed=5, stream=True, stream_options={"include_usage": True}))
    assert [texts[i] for i in range(3)] == contents
    assert usage.completion_tokens == answer.usage.completion_tokens
    assert len(reasons) == 3


def test_chat_logprobs(chat):
    for stream in (False, True):
        answer = chat(logprobs=True, top_logprobs=3, stream=stream)
        if stream:
            chunks = list(answer)
            content = [one for chunk in chunks for choice in chunk.choices if choice.logprobs for one in choice.logprobs.content]
            text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        else:
            content, text = answer.choices[0].logprobs.content, answer.choices[0].message.content
        assert b"".join(bytes(one.bytes) for one in content).decode() == text
        for one in content:
            assert one.logprob <= 0 and len(one.top_logprobs) == 3
            assert one.logprob == pytest.approx(max(top.logprob for top in one.top_logprobs)), "greedy takes the likeliest"
            assert sum(math.exp(top.logprob) for top in one.top_logprobs) <= 1.0001


def test_stop_strings(chat, complete):
    text = complete(max_tokens=24).choices[0].text
    stop = text[len(text) // 2:len(text) // 2 + 4]
    cut = complete(max_tokens=24, stop=stop)
    assert cut.choices[0].text == text[:text.index(stop)] and cut.choices[0].finish_reason == "stop"
    assert joined(complete(max_tokens=24, stop=[stop, "never said"], stream=True))[0] == {0: cut.choices[0].text}
    kept = complete(max_tokens=24, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].text == cut.choices[0].text + stop


def test_logit_bias(complete, url, client):
    ids = httpx.post(url + "/tokenize", json={"prompt": " a"}, headers={"Authorization": "Bearer " + client.api_key},
                     trust_env=False).json()["tokens"]
    forced = complete(max_tokens=4, logit_bias={str(ids[-1]): 100})
    assert forced.choices[0].text == " a" * 4


def test_completions(complete):
    answer = complete()
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].text and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 16
    texts, _, _ = joined(complete(stream=True))
    assert texts == {0: answer.choices[0].text}


def test_prompt_forms(complete, url, client):
    ids = [httpx.post(url + "/tokenize", json={"prompt": text}, headers={"Authorization": "Bearer " + client.api_key},
                      trust_env=False).json()["tokens"] for text in (PROMPT, "One, two,")]
    texts = complete(prompt=[PROMPT, "One, two,"])
    assert [choice.index for choice in texts.choices] == [0, 1]
    tokens = complete(prompt=ids)
    assert [choice.text for choice in tokens.choices] == [choice.text for choice in texts.choices]
    assert complete(prompt=ids[1]).choices[0].text == texts.choices[1].text
    assert texts.usage.prompt_tokens == sum(map(len, ids))


def test_echo_scores_a_prompt(complete):
    scored = complete(echo=True, logprobs=2, max_tokens=0)
    logprobs = scored.choices[0].logprobs
    assert scored.choices[0].text == PROMPT
    assert logprobs.token_logprobs[0] is None and all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert "".join(logprobs.tokens) == PROMPT
    assert logprobs.text_offset[0] == 0 and logprobs.text_offset == sorted(logprobs.text_offset)
    longer = complete(echo=True, logprobs=2, max_tokens=3)
    assert longer.choices[0].text.startswith(PROMPT)
    assert longer.choices[0].logprobs.token_logprobs[:len(logprobs.tokens)] == logprobs.token_logprobs
    shown = complete(logprobs=1, max_tokens=2, extra_body={"return_tokens_as_token_ids": True})
    assert all(token.startswith("token_id:") for token in shown.choices[0].logprobs.tokens)


def test_a_prompts_logprobs_equal_those_of_generation(complete):
    """What was written greedily is scored with the same numbers when it is read."""
    written = complete(max_tokens=8, logprobs=0)
    read = complete(prompt=PROMPT + written.choices[0].text, echo=True, logprobs=0, max_tokens=0)
    tail = read.choices[0].logprobs.token_logprobs[-8:]
    assert tail == pytest.approx(written.choices[0].logprobs.token_logprobs, abs=1e-3)


def test_ignored_fields(chat):
    assert chat(user="someone", metadata={"a": "b"}, store=False, service_tier="auto", extra_body={"unheard_of": 1}).choices


@pytest.mark.parametrize("fields,param", [
    ({"temperature": 3}, "temperature"), ({"top_p": 0}, "top_p"), ({"n": 0}, "n"), ({"max_tokens": -2}, "max_tokens"),
    ({"stop": [""]}, "stop"), ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"), ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"messages": []}, "messages"), ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools"),
    ({"response_format": {"type": "xml"}}, "response_format"), ({"presence_penalty": 5}, "presence_penalty"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_bad_fields_raise(chat, fields, param):
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            chat(stream=stream, **fields)
        assert caught.value.param == param
        assert caught.value.type == "invalid_request_error"
        assert caught.value.request_id


def test_too_long_is_a_bad_request(complete):
    with pytest.raises(openai.BadRequestError) as caught:
        complete(max_tokens=10_000_000)
    assert caught.value.code == "context_length_exceeded"


def test_other_models_and_endpoints_are_not_found(client, chat):
    with pytest.raises(openai.NotFoundError) as caught:
        chat(model="gpt-4")
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="x", input="x")
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="x", input="x")


def test_a_closed_stream_frees_its_request(chat, url, client):
    stream = chat(max_tokens=1000, stream=True, extra_body={"ignore_eos": True})
    for _, _chunk in zip(range(4), stream):
        pass
    stream.close()
    deadline = time.monotonic() + 10
    headers = {"Authorization": "Bearer " + client.api_key}
    while time.monotonic() < deadline:
        nodes = httpx.get(url + "/v1/cluster", headers=headers, trust_env=False).json()["nodes"]
        if all(node["running"] == 0 for node in nodes if node["state"] == "ready"):
            return
        time.sleep(0.1)
    pytest.fail("the request still runs")


def test_many_at_once(chat):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: chat(max_tokens=8).choices[0].message.content, range(32)))
    assert len(set(answers)) == 1


def test_async_client(url, model, client):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=url + "/v1", api_key=client.api_key, max_retries=0,
                                      http_client=httpx.AsyncClient(trust_env=False)) as made:
            stream = await made.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8, stream=True)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert asyncio.run(ask())
