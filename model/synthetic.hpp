// Models with the shapes of real ones, no file, and weights that a device makes itself from a seed: to measure, and to try
// a cluster, without a download. "synthetic:llama-3-8b" stands where a model's path would.
//
// The tokenizer is one token a byte, the rest of the vocabulary are names of themselves ("<|300|>"); no token ends an
// answer, there is no chat template. Any thread.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "model/model.hpp"

namespace troupe::model {

bool is_synthetic(const std::filesystem::path& path);
std::filesystem::path synthetic_path(std::string_view name);

// "llama-3-8b", "llama-3-70b-slice" (8 of 80 layers), "tiny"; ":q4" behind them makes weights quantized as in a Q4_K_M
// file instead of bf16, ":fp8" E4M3 with a scale a row. ec::not_found lists them.
result<model_config> synthetic_config(std::string_view name);
inline bool synthetic_is_packed(std::string_view name) {
  return name.ends_with(":q4");
}

inline bool synthetic_is_fp8(std::string_view name) {
  return name.ends_with(":fp8");
}

result<std::shared_ptr<const loaded_model>> open_synthetic(std::string_view name);

}  // namespace troupe::model
