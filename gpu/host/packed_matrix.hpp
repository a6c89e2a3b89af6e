// Taking weights over from the model's file into packed_matrix (gpu/host/weight_format.hpp) and reading them back.
//
// A packed matrix is owned by the arena of host_weights: packed once at load, immutable afterwards, read by every
// worker. Formats of the file: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and ggml-common.h.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.hpp"
#include "gpu/host/weight_format.hpp"
#include "model/tensor.hpp"

namespace troupe::gpu::host {

// Shape and size of the packed form; data is still nullptr.
result<packed_matrix> plan(const model::tensor& t);
// Fills tiles [first, last) at out, the place of tile 0. Any thread, one per range.
void pack_tiles(const model::tensor& t, const packed_matrix& m, std::uint32_t first,
                std::uint32_t last, std::uint8_t* out);
// One output's weights, as model::dequantize_row gives them. out.size() == inputs.
void unpack_row(const packed_matrix& m, std::uint32_t output, std::span<float> out);

}  // namespace troupe::gpu::host
