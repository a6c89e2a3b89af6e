"""The same answer whatever the topology, streamed or not, alone or in company; and the official OpenAI client's view."""

import concurrent.futures

import openai
import pytest
from troupe_process import Server, wait_until

PROMPTS = {
    "english": "The history of the theatre begins with",
    "code": "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "chinese": "今天天气很好，我们",
    "arabic": "كان يا ما كان في قديم الزمان",
    "emoji": "🎭 + 🎬 = ",
    "digits": "1, 1, 2, 3, 5, 8, 13,",
    "long": "Once upon a time there was an actor who wanted to play every role. " * 60,
}
FIELDS = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 0.9, "top_p": 0.95, "seed": 1234},
    "penalized": {"temperature": 0.7, "top_k": 40, "seed": 7, "repetition_penalty": 1.2, "presence_penalty": 0.3},
}


@pytest.mark.parametrize("fields", FIELDS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_two_processes_equal_one_process(server, single, prompt, fields):
    request = {"max_tokens": 48, "logprobs": 3, **FIELDS[fields]}
    two = server.complete(PROMPTS[prompt], **request)["choices"][0]
    one = single.complete(PROMPTS[prompt], **request)["choices"][0]
    assert two["text"] == one["text"]
    assert two["logprobs"] == one["logprobs"]  # to the last bit that JSON shows
    assert two["finish_reason"] == one["finish_reason"]


def test_two_decodes_equal_one(server):
    with Server(prefill=2, decode=2) as wide:
        for prompt in PROMPTS.values():
            assert wide.text(prompt) == server.text(prompt)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_equals_not_streamed(server, prompt):
    stream = server.stream(PROMPTS[prompt], max_tokens=40)
    assert stream.done and stream.error is None
    assert stream.text == server.text(PROMPTS[prompt], max_tokens=40)
    assert len(stream.events) > 5, "tokens come one by one, not all at the end"


def test_company_in_the_batch_changes_nothing(server):
    alone = {name: server.text(prompt) for name, prompt in PROMPTS.items()}
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        futures = [(name, pool.submit(server.text, PROMPTS[name])) for _ in range(3) for name in PROMPTS]
        for name, future in futures:
            assert future.result(timeout=240) == alone[name], name


def test_a_cached_prefix_changes_nothing(server):
    prompt = "A cache that answers differently is no cache. " * 40
    first = server.complete(prompt, logprobs=1)["choices"][0]
    again = server.complete(prompt, logprobs=1)["choices"][0]
    assert first["text"] == again["text"] and first["logprobs"] == again["logprobs"]


def test_the_openai_client_talks_to_us(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", timeout=240, max_retries=0)
    model = client.models.list().data[0].id
    messages = [{"role": "user", "content": "Name three roles in a theatre."}]
    whole = client.chat.completions.create(model=model, messages=messages, max_tokens=40, temperature=0, seed=1)
    assert whole.choices[0].message.role == "assistant" and whole.choices[0].message.content
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens

    pieces, usage = [], None
    for chunk in client.chat.completions.create(model=model, messages=messages, max_tokens=40, temperature=0, seed=1,
                                                stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        pieces += [choice.delta.content or "" for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_the_openai_client_sees_typed_errors(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", timeout=240, max_retries=0)
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model=server.model, prompt="x", temperature=-1)
    assert bad.value.param == "temperature"


def test_a_canceled_stream_frees_everything(server):
    """The client leaves in the middle; soon nothing runs and the next request works."""
    with server.http.stream("POST", "/v1/completions", json={
            "model": server.model, "prompt": "Count: 1, 2, 3,", "max_tokens": 1500, "ignore_eos": True, "stream": True,
    }) as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number > 10:
                break
    wait_until(lambda: server.metric("troupe_requests_in_flight") == 0, 5, "no request in flight")
    assert server.text("Still there?")
