// Random quantized blocks: any bytes, but halves of sane size where a format has its scales.
#pragma once

#include <cuda_fp16.h>

#include <cstring>
#include <random>
#include <vector>

#include "model/tensor.hpp"

namespace troupe::gpu::cuda {

inline std::vector<std::byte> random_blocks(model::tensor_type type, std::size_t bytes,
                                            std::mt19937& random) {
  using model::tensor_type;
  std::vector<std::byte> data(bytes);
  for (auto& b : data) b = static_cast<std::byte>(random());
  std::vector<std::size_t> halves = {0};
  if (type == tensor_type::q4_1 || type == tensor_type::q5_1 || type == tensor_type::q4_k ||
      type == tensor_type::q5_k)
    halves = {0, 2};
  if (type == tensor_type::q6_k) halves = {208};
  for (std::size_t block = 0; block < bytes; block += model::info(type).block_bytes) {
    for (const std::size_t at : halves) {
      const __half scale = __float2half(static_cast<float>(random() % 1000) * 1e-3f + 0.01f);
      std::memcpy(data.data() + block + at, &scale, 2);
    }
  }
  return data;
}

}  // namespace troupe::gpu::cuda
