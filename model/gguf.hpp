// GGUF, versions 2 and 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), one file or
// shards named NAME-00001-of-0000N.gguf.
//
// The parser works on bytes alone, so that it can be fuzzed: it never aborts on any input, reads
// nothing outside the view, and allocates no more than a small multiple of the view's size. Plain
// functions: any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.hpp"
#include "model/metadata.hpp"
#include "model/source.hpp"
#include "model/stored_tensor.hpp"

namespace troupe::model {

// Far above any model that exists, far below what would hurt.
struct gguf_limits {
  std::uint64_t keys = 65'536;
  std::uint64_t tensors = 65'536;
  std::uint64_t key_bytes = 65'535;       // as the specification says
  std::uint64_t tensor_name_bytes = 256;  // the specification says 64
  std::uint64_t string_bytes = 64u << 20;
  std::uint64_t alignment = 65'536;
};

struct gguf_file {
  std::uint32_t version = 0;
  std::uint32_t alignment = 32;
  std::shared_ptr<metadata> meta;      // copies, not views
  std::vector<stored_tensor> tensors;  // views of `bytes`, disjoint
};
// `source` names the file in errors.
result<gguf_file> parse_gguf(std::span<const std::byte> bytes, const std::string& source,
                             const gguf_limits& limits = {});

// Maps the file and, when it is the first of several shards, the others.
result<model_source> read_gguf(const std::filesystem::path& path);

}  // namespace troupe::model
