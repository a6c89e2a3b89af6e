// Calls of tools inside an answer: how each family of models writes them, and the grammar of answers that may or must hold
// some. Where they only may, everything is free until the model begins a call; from there on it is held to a tool's name and
// its parameters.
//
// Plain values and functions; any thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/structured/answer_format.hpp"

namespace troupe::engine::structured {

// By the names that vLLM gives their parsers (https://docs.vllm.ai/en/latest/features/tool_calling.html).
enum class call_syntax : std::uint8_t {
  hermes,        // <tool_call>{"name": ..., "arguments": {...}}</tool_call>, once a call
  llama3_json,   // {"name": ..., "parameters": {...}}, the whole answer or behind <|python_tag|>
  mistral,       // [TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]
  mistral_args,  // [TOOL_CALLS]name[ARGS]{...}, once a call (Mistral's since 2025)
  deepseek_v3,  // <tool_calls_begin><tool_call_begin>function<tool_sep>name, and {...} in a JSON code block, in marks of
                // full-width bars (DeepSeek's V3 and R1)
  deepseek_v31,  // <tool_call_begin>name<tool_sep>{...} instead, in the same marks
  qwen3_coder,  // <tool_call><function=name> and <parameter=key>value</parameter> (tagged_parameters.hpp)
};
inline constexpr std::string_view call_syntax_names[] = {
    "hermes",      "llama3_json",  "mistral",    "mistral_args",
    "deepseek_v3", "deepseek_v31", "qwen3_coder"};
std::optional<call_syntax> call_syntax_of(std::string_view name);

struct call_notation {
  std::string_view open;           // begins the calls, or one
  std::string_view close;          // ends one, or all; may be empty
  std::string_view arguments_key;  // what stands right before the arguments
  bool in_json;                    // the name is a member of an object
  bool bare;                       // `open` may be missing at the start of the answer
  std::string_view name_key = {};  // what stands right before the name; empty: it follows `open`
  std::string_view call_open = {},
                   call_close = {};  // of one call among those between open and close
  bool tagged = false;               // arguments stand one by one between tags
};
const call_notation& notation_of(call_syntax syntax);

struct callable {
  std::string name;        // [a-zA-Z0-9_-]{1,64}
  std::string parameters;  // a JSON schema; empty: it takes none
  bool strict = false;     // what cannot be kept of the schema is refused
};
bool is_callable_name(std::string_view name);

struct tool_call_form {
  call_syntax syntax = call_syntax::hermes;
  bool required = false;
  bool parallel = true;  // more than one call in an answer
  std::vector<callable> tools;
  // What the answer is if it is no calls; text: anything. Calls and such a form never mix, and only `open` begins a call.
  answer_format otherwise = {};
};
answer_format to_format(const tool_call_form& form);
// How a call without `open` begins, up to the end of the name; empty for notations that are not bare.
std::vector<std::string> bare_beginnings(const call_notation& notation, std::string_view name);

}  // namespace troupe::engine::structured
