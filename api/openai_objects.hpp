// OpenAI's answer objects (https://platform.openai.com/docs/api-reference), built field by field.
// Plain functions.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "actors/service.hpp"
#include "api/choice_output.hpp"
#include "model/tokenizer.hpp"

namespace troupe::api {

using ojson = nlohmann::ordered_json;

// The same in every chunk of one answer.
struct answer_head {
  std::string id;  // "chatcmpl-..." or "cmpl-..."
  std::int64_t created = 0;
  std::string model;
  std::string fingerprint;
  bool chat = false;
};

struct answer_usage {
  std::uint64_t prompt_tokens = 0, completion_tokens = 0;
  std::optional<std::uint64_t> cached_tokens;  // known at the end
};

struct tool_call {
  std::string id, name;
  std::string arguments;  // JSON, as the model wrote it
};

// How tokens are shown in logprobs.
struct token_names {
  const model::tokenizer& tokenizer;
  bool as_ids = false;  // "token_id:42" instead of text
};

// 24 random hexadecimal digits.
std::string random_id();
// A client's own id of its request if it is harmless in headers and logs, else a new one.
std::string request_id_of(std::string_view own);

ojson usage_object(const answer_usage& u);
ojson trace_object(const actors::generation_end& end);

// chat: {"content":[{token,logprob,bytes,top_logprobs}]}
ojson chat_logprobs(const token_names& names, std::span<const logprob_entry> entries);
// completions: {"tokens","token_logprobs","top_logprobs","text_offset"}. The first
// `without_logprob` entries (the prompt's first token) get null.
ojson completion_logprobs(const token_names& names, std::span<const logprob_entry> entries,
                          std::size_t without_logprob, std::size_t base_offset);

// Chunks of a stream; finish_reason empty: null.
ojson chunk(const answer_head& head, ojson choice);
ojson chat_choice_chunk(std::uint32_t index, ojson delta, ojson logprobs,
                        std::string_view finish_reason);
ojson completion_choice(std::uint32_t index, std::string text, ojson logprobs,
                        std::string_view finish_reason);
ojson chat_choice(std::uint32_t index, std::string text, const std::vector<tool_call>& calls,
                  ojson logprobs, std::string_view finish_reason);
// Deltas of a stream: a call's beginning, and a piece of its arguments.
ojson call_begins(std::size_t index, const tool_call& call);
ojson call_goes_on(std::size_t index, std::string_view arguments);
// The whole object; an empty list of choices with usage is the last chunk of a stream.
ojson answer(const answer_head& head, bool streaming, ojson choices, const answer_usage& usage);

}  // namespace troupe::api
