// The model behind the doors, as the doors need it, and prompts made of it: text or messages to
// token ids. Immutable after make_served_model, so any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/request.hpp"
#include "api/tool_call_parser.hpp"
#include "api/tool_prompt.hpp"
#include "model/chat_template.hpp"
#include "model/infill.hpp"
#include "model/tokenizer.hpp"

namespace troupe::api {

struct served_model {
  std::vector<std::string> names;  // the first is the one shown in answers
  std::shared_ptr<const model::tokenizer> tokenizer;
  std::optional<model::infill_tokens> infill;                 // none: suffix is refused
  std::shared_ptr<const model::chat_template> chat_template;  // null: only /v1/completions works
  tool_manner tools;
  std::uint32_t max_model_len = 0;  // prompt and answer together
  std::string architecture;
  std::string digest;                   // hexadecimal
  std::int64_t created = 0;             // Unix time
  std::size_t longest_token_bytes = 0;  // 0: measured by measure_tokens

  bool is_named(std::string_view name) const;
};

// Fills longest_token_bytes. Takes some milliseconds.
void measure_tokens(served_model& m);

// At least one token, or an error. `field` is the parameter that errors name.
api_result<std::vector<token_id>> tokenize_prompt(const served_model& m,
                                                  const text_or_tokens& prompt,
                                                  bool add_special_tokens);
// What belongs between the prompt and the suffix, neither of which is empty.
api_result<std::vector<token_id>> tokenize_infill(const served_model& m, const std::string& prompt,
                                                  const std::string& suffix,
                                                  bool add_special_tokens);
api_result<std::vector<token_id>> tokenize_chat(const served_model& m, const chat_request& request);
// Makes the request's tools part of the answer's form. How the calls in the answer are read; nothing where it may not call.
api_result<std::optional<call_reading>> constrain_calls(const served_model& m,
                                                        chat_request& request,
                                                        const form_observer& observer);

// Answer length: what was asked, else `fallback`, else the rest of the context, which is `fits` tokens where the
// cluster cannot hold the model's; context_length_exceeded if it does not fit.
api_result<std::uint32_t> answer_length(const served_model& m, std::uint32_t fits,
                                        std::size_t prompt_tokens,
                                        std::optional<std::uint32_t> asked,
                                        std::optional<std::uint32_t> fallback,
                                        std::string_view field);

}  // namespace troupe::api
