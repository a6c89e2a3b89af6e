#include "api/openai_objects.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>

namespace troupe::api {
namespace {

bool valid_utf8(std::string_view bytes) {
  model::utf8_stream stream;
  std::string text = stream.push(bytes);
  return text == bytes && stream.flush().empty();
}

// OpenAI's way to show bytes that are no text of their own: \xf0\x9f.
std::string escaped(std::string_view bytes) {
  static const char* digits = "0123456789abcdef";
  std::string out;
  for (unsigned char c : bytes) {
    out += "\\x";
    out += digits[c >> 4];
    out += digits[c & 15];
  }
  return out;
}

std::string shown(const token_names& names, token_id id, const std::string& bytes, bool chat) {
  if (names.as_ids) return "token_id:" + std::to_string(id);
  if (valid_utf8(bytes)) return bytes;
  return (chat ? "" : "bytes:") + escaped(bytes);
}

// JSON has no infinity; OpenAI shows what cannot be as -9999.
double finite(float logprob) {
  return std::isfinite(logprob) ? logprob : -9999.0;
}

ojson chat_entry(const token_names& names, token_id id, float logprob) {
  const std::string bytes = names.tokenizer.token_bytes(id, true);
  ojson e;
  e["token"] = shown(names, id, bytes, true);
  e["logprob"] = finite(logprob);
  e["bytes"] = ojson::array();
  for (unsigned char c : bytes) e["bytes"].push_back(c);
  return e;
}

ojson finish_value(std::string_view reason) {
  return reason.empty() ? ojson() : ojson(std::string(reason));
}

ojson call_object(const tool_call& call) {
  return {{"id", call.id},
          {"type", "function"},
          {"function", {{"name", call.name}, {"arguments", call.arguments}}}};
}

const char* object_name(const answer_head& head, bool streaming) {
  if (!head.chat) return "text_completion";
  return streaming ? "chat.completion.chunk" : "chat.completion";
}

ojson start(const answer_head& head, bool streaming) {
  ojson o;
  o["id"] = head.id;
  o["object"] = object_name(head, streaming);
  o["created"] = head.created;
  o["model"] = head.model;
  o["system_fingerprint"] = head.fingerprint;
  return o;
}

bool usable_id(std::string_view id) {
  if (id.empty() || id.size() > 64) return false;
  for (char c : id)
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' ||
          c == '_' || c == '.'))
      return false;
  return true;
}

}  // namespace

std::string random_id() {
  // One generator a thread; ids only have to differ, they protect nothing.
  thread_local std::mt19937_64 generator{std::random_device{}()};
  static const char* digits = "0123456789abcdef";
  std::string id;
  for (int half = 0; half < 2; ++half) {
    std::uint64_t bits = generator();
    for (int i = 0; i < 12; ++i, bits >>= 4) id += digits[bits & 15];
  }
  return id;
}

std::string request_id_of(std::string_view own) {
  return usable_id(own) ? std::string(own) : "req-" + random_id();
}

ojson usage_object(const answer_usage& u) {
  ojson o;
  o["prompt_tokens"] = u.prompt_tokens;
  o["completion_tokens"] = u.completion_tokens;
  o["total_tokens"] = u.prompt_tokens + u.completion_tokens;
  if (u.cached_tokens) o["prompt_tokens_details"] = ojson{{"cached_tokens", *u.cached_tokens}};
  return o;
}

ojson trace_object(const actors::generation_end& end) {
  const auto& t = end.trace;
  const auto& u = end.usage;
  ojson o;
  o["decode_node"] = t.decode_node;
  o["prefill_node"] = t.prefill_node.empty() ? ojson() : ojson(t.prefill_node);
  o["route_reason"] = t.route_reason;
  o["transfer_path"] = t.transfer_path;
  o["blocks_pulled"] = t.blocks_pulled;
  o["migrations"] = t.migrations;
  o["cached_tokens"] = u.cached_tokens;
  o["transferred_tokens"] = u.transferred_tokens;
  o["preemptions"] = u.preemptions;
  o["queue_us"] = u.queue_us;
  o["prefill_us"] = u.prefill_us;
  o["transfer_us"] = u.transfer_us;
  o["transfer_bytes"] = u.transfer_bytes;
  return o;
}

ojson chat_logprobs(const token_names& names, std::span<const logprob_entry> entries) {
  ojson content = ojson::array();
  for (const auto& entry : entries) {
    ojson e = chat_entry(names, entry.output.token, entry.output.logprob);
    e["top_logprobs"] = ojson::array();
    for (const auto& alternative : entry.output.top)
      e["top_logprobs"].push_back(chat_entry(names, alternative.token, alternative.logprob));
    content.push_back(std::move(e));
  }
  return ojson{{"content", std::move(content)}};
}

ojson completion_logprobs(const token_names& names, std::span<const logprob_entry> entries,
                          std::size_t without_logprob, std::size_t base_offset) {
  ojson tokens = ojson::array(), logprobs = ojson::array(), top = ojson::array(),
        offsets = ojson::array();
  auto name = [&](token_id id) {
    return shown(names, id, names.tokenizer.token_bytes(id, true), false);
  };
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const auto& out = entries[i].output;
    tokens.push_back(name(out.token));
    offsets.push_back(base_offset + entries[i].text_offset);
    if (i < without_logprob) {
      logprobs.push_back(nullptr);
      top.push_back(nullptr);
      continue;
    }
    logprobs.push_back(finite(out.logprob));
    ojson alternatives = ojson::object();
    // The chosen token is always among them, as at OpenAI.
    for (const auto& alternative : out.top) {
      const std::string key = name(alternative.token);
      if (!alternatives.contains(key)) alternatives[key] = finite(alternative.logprob);
    }
    if (const std::string key = name(out.token); !alternatives.contains(key))
      alternatives[key] = finite(out.logprob);
    top.push_back(std::move(alternatives));
  }
  ojson o;
  o["tokens"] = std::move(tokens);
  o["token_logprobs"] = std::move(logprobs);
  o["top_logprobs"] = std::move(top);
  o["text_offset"] = std::move(offsets);
  return o;
}

ojson chunk(const answer_head& head, ojson choice) {
  ojson o = start(head, true);
  o["choices"] = ojson::array();
  o["choices"].push_back(std::move(choice));
  return o;
}

ojson chat_choice_chunk(std::uint32_t index, ojson delta, ojson logprobs,
                        std::string_view finish_reason) {
  ojson o;
  o["index"] = index;
  o["delta"] = std::move(delta);
  o["logprobs"] = std::move(logprobs);
  o["finish_reason"] = finish_value(finish_reason);
  return o;
}

ojson completion_choice(std::uint32_t index, std::string text, ojson logprobs,
                        std::string_view finish_reason) {
  ojson o;
  o["index"] = index;
  o["text"] = std::move(text);
  o["logprobs"] = std::move(logprobs);
  o["finish_reason"] = finish_value(finish_reason);
  return o;
}

ojson chat_choice(std::uint32_t index, std::string text, const std::vector<tool_call>& calls,
                  ojson logprobs, std::string_view finish_reason) {
  ojson message;
  message["role"] = "assistant";
  message["content"] = text.empty() && !calls.empty() ? ojson() : ojson(std::move(text));
  message["refusal"] = nullptr;
  if (!calls.empty()) message["tool_calls"] = ojson::array();
  for (const tool_call& call : calls) message["tool_calls"].push_back(call_object(call));
  ojson o;
  o["index"] = index;
  o["message"] = std::move(message);
  o["logprobs"] = std::move(logprobs);
  o["finish_reason"] = finish_value(finish_reason);
  return o;
}

ojson call_begins(std::size_t index, const tool_call& call) {
  ojson one{{"index", index}};
  one.update(call_object(call));
  return {{"tool_calls", ojson::array({std::move(one)})}};
}

ojson call_goes_on(std::size_t index, std::string_view arguments) {
  const ojson one{{"index", index}, {"function", {{"arguments", arguments}}}};
  return {{"tool_calls", ojson::array({one})}};
}

ojson answer(const answer_head& head, bool streaming, ojson choices, const answer_usage& usage) {
  ojson o = start(head, streaming);
  o["choices"] = std::move(choices);
  o["usage"] = usage_object(usage);
  return o;
}

}  // namespace troupe::api
