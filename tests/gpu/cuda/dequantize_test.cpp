#include "gpu/cuda/dequantize.hpp"

#include <cstring>

#include "tests/gpu/cuda/gpu_fixture.hpp"

namespace troupe::gpu::cuda {
namespace {

using model::tensor_type;

class dequantize_test : public gpu_test {
 protected:
  // Random bytes with halves of sane size where the format has scales.
  std::vector<std::byte> random_blocks(tensor_type type, std::size_t bytes) {
    const auto& info = model::info(type);
    std::vector<std::byte> data(bytes);
    for (auto& b : data) b = static_cast<std::byte>(random());
    std::vector<std::size_t> halves = {0};
    if (type == tensor_type::q4_1 || type == tensor_type::q5_1 || type == tensor_type::q4_k || type == tensor_type::q5_k) halves = {0, 2};
    if (type == tensor_type::q6_k) halves = {208};
    for (std::size_t block = 0; block < bytes; block += info.block_bytes) {
      for (const std::size_t at : halves) {
        const __half scale = __float2half(static_cast<float>(random() % 1000) * 1e-3f + 0.01f);
        std::memcpy(data.data() + block + at, &scale, 2);
      }
    }
    return data;
  }
};

TEST_F(dequantize_test, every_type_equals_the_reference_reader) {
  for (const tensor_type type : {tensor_type::f16, tensor_type::q4_0, tensor_type::q4_1, tensor_type::q5_0, tensor_type::q5_1,
                                 tensor_type::q8_0, tensor_type::q4_k, tensor_type::q5_k, tensor_type::q6_k}) {
    const auto& info = model::info(type);
    const std::uint64_t rows = 24, columns = 512;
    const auto data = random_blocks(type, rows * columns / info.block_size * info.block_bytes);
    const model::tensor t{"t", type, rows, columns, data};
    const device_array<std::byte> raw(data);
    for (const bool interleaved : {false, true}) {
      device_array<__nv_bfloat16> to(2 * rows * columns);
      require(dequantize_to_bf16(type, raw.data(), rows, columns, to.data(), {8, interleaved}, stream));
      const auto got = to.fetch();
      std::vector<float> row(columns);
      for (std::uint64_t r = 0; r < rows; ++r) {
        model::dequantize_row(t, r, row);
        const std::uint64_t target = interleaved ? r / 8 * 16 + r % 8 + 8 : r + 8;
        for (std::uint64_t c = 0; c < columns; ++c) {
          const float wanted = to_float(__float2bfloat16(row[c]));
          // A fused multiply-add may round the last bit of the float the other way.
          ASSERT_NEAR(to_float(got[target * columns + c]), wanted, std::abs(wanted) * 0.008f) << info.name << " " << r << "," << c;
        }
      }
    }
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda
