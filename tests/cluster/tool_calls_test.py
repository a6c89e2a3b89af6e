"""Calls of tools with the official OpenAI client: forced ones always parse and match their schema, streamed or not, on any
topology; a conversation goes on with what a tool gave."""

import json

import openai
import pytest
from troupe_process import Server

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city",
    "parameters": {"type": "object", "additionalProperties": False, "required": ["city", "unit", "days"], "properties": {
        "city": {"type": "string", "maxLength": 20},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9}}}}}
TICKETS = {"type": "function", "function": {
    "name": "buy_tickets", "description": "Buy tickets for a play",
    "parameters": {"type": "object", "additionalProperties": False, "required": ["count", "seats"], "properties": {
        "count": {"type": "integer", "minimum": 1, "maximum": 20},
        "seats": {"type": "array", "items": {"enum": ["stalls", "circle", "box"]}, "minItems": 1, "maxItems": 2}}}}}
ASK = [{"role": "user", "content": "How will the weather be in Bonn tomorrow?"}]
NAMED = {"type": "function", "function": {"name": "buy_tickets"}}


def client_of(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", timeout=240, max_retries=0)


def check(name, arguments):
    """Arguments of a call, as its schema wants them."""
    given = json.loads(arguments)
    if name == "get_weather":
        assert set(given) == {"city", "unit", "days"}
        assert isinstance(given["city"], str) and len(given["city"]) <= 20
        assert given["unit"] in ("celsius", "fahrenheit") and 1 <= given["days"] <= 9
    else:
        assert name == "buy_tickets" and set(given) == {"count", "seats"} and 1 <= given["count"] <= 20
        assert 1 <= len(given["seats"]) <= 2 and set(given["seats"]) <= {"stalls", "circle", "box"}
    return given


def streamed(client, **fields):
    """Name and arguments of each call of a stream, put together as clients do; the text; the end's reason."""
    calls, text, reason = [], "", None
    for chunk in client.chat.completions.create(stream=True, **fields):
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for piece in choice.delta.tool_calls or []:
            if piece.id:
                assert piece.index == len(calls) and piece.type == "function" and piece.function.arguments == ""
                calls.append([piece.function.name, ""])
            else:
                assert piece.function.name is None
                calls[piece.index][1] += piece.function.arguments
    return calls, text, reason


@pytest.mark.parametrize("choice, reason", [("required", "tool_calls"), (NAMED, "stop")], ids=["required", "named"])
def test_forced_calls_parse_and_match(server, single, choice, reason):
    for seed in (1, 2):
        fields = dict(model=server.model, messages=ASK, tools=[WEATHER, TICKETS], tool_choice=choice,
                      parallel_tool_calls=False, max_tokens=150, temperature=0.8, seed=seed)
        answer = client_of(server).chat.completions.create(**fields)
        message = answer.choices[0].message
        assert answer.choices[0].finish_reason == reason and message.content is None, answer
        (call,) = message.tool_calls
        assert call.id and call.type == "function"
        check(call.function.name, call.function.arguments)
        if choice is NAMED:
            assert call.function.name == "buy_tickets"
        expected = [[call.function.name, call.function.arguments]]
        assert streamed(client_of(server), **fields) == (expected, "", reason)
        assert streamed(client_of(single), **fields) == (expected, "", reason)


def test_calls_are_of_allowed_tools_and_the_prompt_is_as_ever(server, single):
    fields = dict(model=server.model, messages=ASK, tools=[WEATHER, TICKETS], parallel_tool_calls=False, max_tokens=150, temperature=0.8)
    free = client_of(server).chat.completions.create(seed=1, **fields)
    for tool in (WEATHER, TICKETS):
        name = tool["function"]["name"]
        allowed = {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": name}}]}}
        answer = client_of(server).chat.completions.create(seed=1, tool_choice=allowed, **fields)
        assert answer.choices[0].finish_reason == "tool_calls" and answer.usage.prompt_tokens == free.usage.prompt_tokens
        (call,) = answer.choices[0].message.tool_calls
        assert call.function.name == name and check(name, call.function.arguments)
        assert streamed(client_of(single), seed=1, tool_choice=allowed, **fields) == ([[name, call.function.arguments]], "", "tool_calls")


def test_an_answer_may_be_text_or_calls(server, single):
    fields = dict(model=server.model, messages=ASK, tools=[WEATHER], max_tokens=60, temperature=0.7, seed=3)
    answer = client_of(server).chat.completions.with_raw_response.create(**fields)
    assert answer.headers["X-Troupe-Warning"], "SmolLM2's template does not know tools"
    choice = answer.parse().choices[0]
    calls = [[call.function.name, call.function.arguments] for call in choice.message.tool_calls or []]
    for name, arguments in calls:
        assert name == "get_weather"
        if choice.finish_reason == "tool_calls":
            check(name, arguments)
    assert calls or choice.message.content
    for other in (server, single):
        assert streamed(client_of(other), **fields) == (calls, choice.message.content or "", choice.finish_reason)


def test_a_conversation_goes_on_with_what_a_tool_gave(server):
    client = client_of(server)
    first = client.chat.completions.create(model=server.model, messages=ASK, tools=[WEATHER], tool_choice="required",
                                           parallel_tool_calls=False, max_tokens=150, temperature=0)
    message = first.choices[0].message
    told = [*ASK, message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "21 degrees, sunny"}]
    second = client.chat.completions.create(model=server.model, messages=told, tools=[WEATHER], tool_choice="none",
                                            max_tokens=40, temperature=0)
    assert second.choices[0].message.content and not second.choices[0].message.tool_calls
    assert second.usage.prompt_tokens > 20


def test_bad_tools_are_refused_by_name(server):
    client = client_of(server)

    def param(**fields):
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model=server.model, messages=ASK, max_tokens=5, **fields)
        return refused.value.param

    def tool(**function):
        return [{"type": "function", "function": function}]

    assert param(tools=tool(name="no spaces")) == "tools"
    assert param(tools=tool(name="f", parameters={"type": "strange"})) == "tools"
    assert param(tools=tool(name="f", strict=True, parameters={"type": "object", "not": {}})) == "tools"
    assert param(tools=[{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]) == "tools"
    assert param(tools=[WEATHER], tool_choice=NAMED) == "tool_choice"
    assert param(tools=[WEATHER], response_format={"type": "json_schema"}) == "response_format"


def test_calls_or_an_answer_of_a_form(server, single):
    """tool_choice says which of both; with auto it is one or the other, never free text."""
    form = {"type": "json_schema", "json_schema": {"name": "sky", "schema": {
        "type": "object", "required": ["sky"], "properties": {"sky": {"enum": ["blue", "grey"]}}}}}
    fields = dict(model=server.model, messages=ASK, tools=[WEATHER], response_format=form, parallel_tool_calls=False,
                  max_tokens=150, temperature=0.8)
    for seed in range(3):
        calls, text, reason = streamed(client_of(server), seed=seed, **fields)
        assert bool(calls) != bool(text) and reason in ("tool_calls", "stop")
        if calls:
            check(*calls[0])
        else:
            assert json.loads(text)["sky"] in ("blue", "grey")
        assert streamed(client_of(single), seed=seed, **fields) == (calls, text, reason)
    calls, text, _ = streamed(client_of(server), tool_choice="required", **fields)
    assert text == "" and check(*calls[0])
    calls, text, _ = streamed(client_of(server), tool_choice="none", **fields)
    assert calls == [] and json.loads(text)["sky"] in ("blue", "grey")


@pytest.mark.parametrize("notation", ["deepseek_v3", "qwen3_coder"])
def test_calls_in_other_notations(notation):
    with Server("--tool-call-parser", notation, single_process=True) as running:
        fields = dict(model=running.model, messages=ASK, tools=[TICKETS], tool_choice="required",
                      parallel_tool_calls=False, max_tokens=150, temperature=0)
        answer = client_of(running).chat.completions.create(**fields).choices[0]
        (call,) = answer.message.tool_calls
        check(call.function.name, call.function.arguments)
        assert answer.finish_reason == "tool_calls" and answer.message.content is None
        calls, text, _ = streamed(client_of(running), **fields)
        assert (calls, text) == ([[call.function.name, call.function.arguments]], "")
