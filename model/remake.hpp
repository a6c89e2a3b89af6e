// Models made of models: with weights of another type, or with some of the layers. From a GGUF file to a GGUF file; all that
// is not changed, is kept. Plain functions, any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "base/result.hpp"
#include "model/tensor.hpp"

namespace troupe::model {

struct remade {
  std::uint64_t bytes_before = 0, bytes_after = 0;
  std::uint32_t tensors_changed = 0, tensors_kept = 0;
};

struct requantize_options {
  std::optional<tensor_type> matrices;  // of the layers; none: as they are
  std::optional<tensor_type>
      embeddings;  // token_embd and output, which are large in small models; none: as they are
};
// Matrices whose rows are not whole blocks of the type are kept; so are vectors.
result<remade> quantize_model(const std::filesystem::path& in, const std::filesystem::path& out,
                              const requantize_options& options);

// The layers in ascending order become 0, 1, 2 ... of the new model. With output tokens (ascending) its output is of these
// only (trimmed_head.hpp).
result<remade> prune_model(const std::filesystem::path& in, const std::filesystem::path& out,
                           const std::vector<std::uint32_t>& layers,
                           const std::vector<std::uint32_t>& output_tokens = {});

// "0-9,28,29": ascending, without repetition, below num_layers.
result<std::vector<std::uint32_t>> parse_layers(std::string_view text, std::uint32_t num_layers);

}  // namespace troupe::model
