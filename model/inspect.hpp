// What a model file says of itself, without loading it: for `troupe inspect` and start-up messages.
// Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "model/config.hpp"

namespace troupe::model {

struct type_share {
  std::string type;  // "Q4_1"
  std::uint64_t tensors = 0;
  std::uint64_t bytes = 0;
};

struct special_token {
  token_id id = 0;
  std::string text;  // empty when the file does not tell
};

struct model_description {
  std::string format;        // "GGUF v3", "Hugging Face safetensors"
  std::string architecture;  // "llama"
  std::string name;
  std::uint64_t parameters = 0;  // values in all tensors; a tied head counts once
  std::uint64_t file_bytes = 0;
  std::uint32_t files = 1;
  std::vector<type_share> types;  // most bytes first
  std::optional<model_config> config;
  std::uint64_t vocabulary = 0;  // tokens that the tokenizer defines
  std::optional<special_token> bos, eos;
  bool has_chat_template = false;
  std::uint64_t kv_bytes_per_token = 0;  // of all layers, at 16 bits a value; 0 without a config
  // Empty when open_model would succeed; else why not, for people.
  std::string obstacle;

  bool runnable() const { return obstacle.empty(); }
};

// Fails only when the file cannot be parsed at all; a model that this build cannot run is described
// with its obstacle.
result<model_description> inspect(const std::filesystem::path& path);

}  // namespace troupe::model
