// From floats to the blocks of a tensor type: the other way of dequantize_row. Block layouts, rounding and order of
// arithmetic are those of ggml's reference quantizers (ggml/src/ggml-quants.c, quantize_row_*_ref). Plain functions, any
// thread.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string_view>

#include "model/tensor.hpp"

namespace troupe::model {

// F32, F16, BF16, Q8_0, Q5_1, Q5_0, Q4_1, Q4_0: those that quantize_row writes; nullopt for others.
std::optional<tensor_type> find_writable_type(std::string_view name);

// REQUIRES: find_writable_type knows the type, in.size() is whole blocks, out has their bytes.
void quantize_row(tensor_type type, std::span<const float> in, std::span<std::byte> out);

}  // namespace troupe::model
