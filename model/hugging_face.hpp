// A Hugging Face model directory: config.json, model.safetensors or its shards with an index, and
// the tokenizer's and chat template's files. Gives the same metadata keys and tensor names as a
// GGUF would. No file outside the directory is opened by a name found in it (symbolic links that
// the owner has put there are followed). Any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.hpp"
#include "model/metadata.hpp"
#include "model/source.hpp"

namespace troupe::model {

struct architecture;

// config.json as GGUF's keys: general.* and those under the architecture's name.
result<const architecture*> read_hugging_face_config(const nlohmann::json& config, metadata& into);

// How many rows and columns of E4M3 weights share a scale, if config.json says that blocks of them do; else 0 and 0.
struct scale_block {
  std::uint64_t rows = 0, columns = 0;
};
result<scale_block> scale_block_of(const nlohmann::json& config, const std::string& source);

// Chat template, special token ids and the texts in `metadata_keys`, from whichever files are
// there.
result<void> read_hugging_face_tokenizer(const std::filesystem::path& directory,
                                         const nlohmann::json& config, metadata& into);

result<model_source> read_hugging_face(const std::filesystem::path& directory);

}  // namespace troupe::model
