// A model's files, mapped and checked for form, before anything is made of their content. What the
// readers of every format hand to open_model and inspect. Plain data, one owner.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "model/mapped_file.hpp"
#include "model/metadata.hpp"
#include "model/stored_tensor.hpp"

namespace troupe::model {

struct model_source {
  std::string format;  // for people: "GGUF v3"
  std::shared_ptr<metadata> meta;
  std::vector<stored_tensor> tensors;  // views of `files`
  std::vector<std::shared_ptr<const mapped_file>> files;
  std::uint64_t file_bytes = 0;
  // false: q and k rows are in Hugging Face's order whatever the architecture.
  bool interleaved_rope = true;
};

// A GGUF file (or the first of its shards), or a Hugging Face directory.
result<model_source> read_source(const std::filesystem::path& path);

}  // namespace troupe::model
