// A tensor's entry in a model file, before it is known whether this build reads its type. What the
// GGUF and safetensors readers produce, after they have checked that the bytes lie inside the file.
// Immutable: any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"
#include "model/tensor.hpp"

namespace troupe::model {

struct stored_tensor {
  std::string name;              // GGUF's name, for either format
  std::uint32_t raw_type = 0;    // ggml_type
  std::uint32_t dimensions = 0;  // 1..4
  std::array<std::uint64_t, 4> shape{1, 1, 1,
                                     1};  // shape[0] is contiguous; no product of them overflows
  std::span<const std::byte> data;
  scale_values scales{};  // of safetensors' F8_E4M3
};

// Every type that ggml stores, readable by this build or not: sizes are needed to check and report
// any file. nullptr for a number that ggml does not define (or has removed).
const tensor_type_info* find_stored_type(std::uint32_t raw);

// Bytes of such a tensor. corrupt_file when a dimension is 0, a row is not whole blocks or a
// product overflows; unsupported for an undefined type. The error's detail starts with the tensor's
// name, not the file's.
result<std::uint64_t> stored_bytes(const stored_tensor& entry);

// For error messages: in quotes, at most 80 bytes, what is not printable ASCII as \xNN.
std::string printable(std::string_view untrusted);

}  // namespace troupe::model
