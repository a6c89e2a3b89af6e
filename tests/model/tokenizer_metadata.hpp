// Small vocabularies as a GGUF would carry them, for tests.
#pragma once

#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/metadata.hpp"

namespace troupe::testing {

struct vocab_description {
  std::string model = "gpt2", pre = "gpt-2";
  std::vector<std::string> tokens = {};
  std::vector<std::int32_t> types = {};  // empty: all normal
  std::vector<float> scores = {};        // empty: none
  std::vector<std::string> merges = {};
  std::map<std::string, std::uint32_t> ids = {};  // "bos_token_id" and such
  std::map<std::string, bool> flags = {};
};

inline std::unique_ptr<model::metadata> make_metadata(const vocab_description& from) {
  auto meta = std::make_unique<model::metadata>("test");
  const auto views = [](const std::vector<std::string>& texts) {
    return std::vector<std::string_view>(texts.begin(), texts.end());
  };
  meta->set_string("tokenizer.ggml.model", from.model);
  if (!from.pre.empty()) meta->set_string("tokenizer.ggml.pre", from.pre);
  meta->set_strings("tokenizer.ggml.tokens", views(from.tokens));
  if (from.model == "gpt2") meta->set_strings("tokenizer.ggml.merges", views(from.merges));
  if (!from.types.empty())
    meta->set_numbers("tokenizer.ggml.token_type", model::value_type::i32,
                      std::as_bytes(std::span(from.types)));
  if (!from.scores.empty())
    meta->set_numbers("tokenizer.ggml.scores", model::value_type::f32,
                      std::as_bytes(std::span(from.scores)));
  for (const auto& [key, id] : from.ids) meta->set_u32("tokenizer.ggml." + key, id);
  for (const auto& [key, flag] : from.flags) meta->set_bool("tokenizer.ggml." + key, flag);
  return meta;
}

}  // namespace troupe::testing
