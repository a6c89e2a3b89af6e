// Writes GGUF files, version 3 (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): every metadata value as it was
// read, but for those that are changed, and tensors whose bytes are made while they are written.
//
// The file appears whole or not at all: it is written beside its place, synced, and renamed. Plain functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "model/metadata.hpp"
#include "model/stored_tensor.hpp"

namespace troupe::model {

struct metadata_changes {
  std::map<std::string, std::uint32_t> numbers;  // of type u32; new or instead
  std::map<std::string, std::string> texts;
  std::map<std::string, std::vector<std::uint32_t>> lists;  // arrays of u32
  std::set<std::string> left_out;
};

// A tensor to be written: its entry says what it is, `data` of the entry is not looked at.
struct gguf_tensor {
  stored_tensor entry;
  // Gives all bytes, in pieces of any size.
  using piece_sink = std::function<result<void>(std::span<const std::byte>)>;
  std::function<result<void>(const piece_sink&)> bytes;
};

// ec::io_error names the file and the system's reason.
result<std::uint64_t> write_gguf(const std::filesystem::path& path, const metadata& meta,
                                 const metadata_changes& changes,
                                 const std::vector<gguf_tensor>& tensors);

}  // namespace troupe::model
