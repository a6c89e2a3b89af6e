// A tensor as it lies in a model file: type, shape and a view of its bytes, which the file's mapping owns.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/result.hpp"

namespace troupe::model {

// Values are GGUF's (ggml's `ggml_type`): https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
enum class tensor_type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  bf16 = 30,
  f8_e4m3 =
      1000,  // not ggml's but safetensors': a value is its byte times a scale that lies elsewhere
};

struct tensor_type_info {
  std::string_view name;      // "Q4_1"
  std::uint32_t block_size;   // values in a block
  std::uint32_t block_bytes;  // bytes of a block
};
// nullptr for a type this build does not read.
const tensor_type_info* find_tensor_type(std::uint32_t raw);
const tensor_type_info& info(tensor_type type);

// Of an f8_e4m3 tensor: of each row, or one of all, or of each block; f32, f16 or bf16.
struct scale_values {
  tensor_type type = tensor_type::f32;
  std::uint64_t count = 0;
  std::span<const std::byte> data;
  // Of blocks: so many rows and columns share a scale (the last ones fewer), and those of the same rows lie side by side.
  std::uint64_t block_rows = 0, block_columns = 0;
  bool by_blocks() const { return block_rows > 0; }
};

// Row-major matrix [rows][columns] (a vector has rows == 1). `columns` is the contiguous dimension, GGUF's ne[0]:
// a linear layer y = W x has W.rows outputs and W.columns inputs.
struct tensor {
  std::string name;
  tensor_type type = tensor_type::f32;
  std::uint64_t rows = 0, columns = 0;
  std::span<const std::byte> data;  // rows * columns / block_size * block_bytes bytes
  scale_values scales{};

  bool exists() const { return !data.empty(); }
  std::uint64_t row_bytes() const {
    return columns / info(type).block_size * info(type).block_bytes;
  }
};

// Reference dequantizer, in the order of arithmetic of ggml's CPU reference: out.size() == columns.
// REQUIRES: row < t.rows.
void dequantize_row(const tensor& t, std::uint64_t row, std::span<float> out);

// REQUIRES: f8_e4m3 without blocks, row < t.rows.
float row_scale(const tensor& t, std::uint64_t row);

}  // namespace troupe::model
