#include "gpu/cuda/dequantize.hpp"

#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "tests/gpu/cuda/random_blocks.hpp"
#include "tests/gpu/cuda/tiled.hpp"

namespace troupe::gpu::cuda {
namespace {

using model::tensor_type;

class dequantize_test : public gpu_test {};

TEST_F(dequantize_test, every_type_equals_the_reference_reader) {
  for (const tensor_type type : {tensor_type::f16, tensor_type::q4_0, tensor_type::q4_1,
                                 tensor_type::q5_0, tensor_type::q5_1, tensor_type::q8_0,
                                 tensor_type::q4_k, tensor_type::q5_k, tensor_type::q6_k}) {
    const auto& info = model::info(type);
    const std::uint32_t rows = 72, columns = 512;
    const auto data =
        random_blocks(type, rows * columns / info.block_size * info.block_bytes, random);
    const model::tensor t{"t", type, rows, columns, data};
    const device_array<std::byte> raw(data);
    for (const bool interleaved : {false, true}) {
      const device_array<__nv_bfloat16> to(count_bf16_values(2 * rows, columns));
      require(
          dequantize_to_bf16(type, raw.data(), rows, columns, to.data(), {8, interleaved}, stream));
      const auto got = from_tiles(to.fetch(), 2 * rows, columns);
      std::vector<float> row(columns);
      for (std::uint64_t r = 0; r < rows; ++r) {
        model::dequantize_row(t, r, row);
        const std::uint64_t target = interleaved ? r / 8 * 16 + r % 8 + 8 : r + 8;
        for (std::uint64_t c = 0; c < columns; ++c) {
          const float wanted = to_float(__float2bfloat16(row[c]));
          // A fused multiply-add may round the last bit of the float the other way.
          ASSERT_NEAR(to_float(got[target * columns + c]), wanted, std::abs(wanted) * 0.008f)
              << info.name << " " << r << "," << c;
        }
      }
    }
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda
