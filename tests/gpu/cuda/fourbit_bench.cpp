#include "tests/gpu/cuda/fourbit_bench.hpp"

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "gpu/cuda/gemm.hpp"
#include "tests/gpu/cuda/bench_tools.hpp"
#include "tests/gpu/cuda/llama_bench.hpp"
#include "tests/gpu/cuda/need.hpp"

namespace troupe::gpu::cuda {

void bench_fourbit_products() {
  need(prepare_gemm());
  const auto x = random_bf16(std::size_t{256} * 14336, 1);
  const auto gated = random_bf16(std::size_t{256} * 14336, 1);
  const auto partial = need(device_buffer<float>::make(std::size_t{256} * 128256, "bench"));
  std::printf("\n4-bit products: us by KiB of ring and splits\n");
  for (const auto& l : llama_layers) {
    const bool head = l.features > 100000, gates = l.features == 28672;
    const packed_format format = head ? packed_format::q6_k : packed_format::q4_k;
    const std::size_t bytes =
                          std::size_t{l.features} / 64 * (l.depth / 64) * packed_tile_bytes(format),
                      copies = (std::size_t{256} << 20) / bytes + 2;
    const auto memory = random_bf16(bytes * copies / 2, 0.02f);
    std::vector<weight_matrix> weights;
    for (std::size_t i = 0; i < copies; ++i) {
      weight_matrix w{};
      w.rows = l.features;
      w.columns = l.depth;
      w.packed.data = reinterpret_cast<const std::byte*>(memory.data()) + i * bytes;
      w.packed.format[0] = format;
      w.packed.first_tile[1] = w.packed.first_tile[2] = ~0u;
      weights.push_back(w);
    }
    const auto input = need(make_activation_matrix(x.data(), 256, l.depth));
    for (const std::uint32_t rows : {1u, 8u, 16u, 32u, 64u, 128u, 256u}) {
      std::string line;
      double best = 1e9;
      std::size_t next = 0;
      const narrow_output y{gates ? nullptr : partial.data(), gates ? gated.data() : nullptr};
      const single_output of_one{y.partial,
                                 gates ? reinterpret_cast<std::uint8_t*>(gated.data()) : nullptr};
      const auto measure = [&](std::uint32_t number, const auto& multiply) {
        const double us = time_us([&] { need(multiply(weights[next++ % copies])); }, 20, 5);
        char text[64];
        std::snprintf(text, sizeof text, " %u:%.1f", number, us);
        line += text;
        best = std::min(best, us);
      };
      for (const std::uint32_t ring : {40u, 56u, 75u, 112u}) {
        if ((rows > 1 && ring == 112) || (rows > 16 && ring > 40))
          continue;  // of many rows it is fixed
        tuning_of_packed().ring_bytes = std::min(ring, 74u) * 1024;
        tuning_of_single().ring_shared_bytes = ring * 1024;
        line += " | " + std::to_string(ring);
        for (const std::uint32_t splits : {1u, 2u, 4u, 8u}) {
          if ((gates || head) && splits > 1) continue;
          measure(splits, [&](const weight_matrix& w) {
            return rows == 1
                       ? multiply_single(reinterpret_cast<const std::uint8_t*>(x.data()), w, of_one,
                                         {splits}, cudaStreamPerThread)
                       : multiply_narrow(input, rows, w, y, {splits, 1, true}, cudaStreamPerThread);
          });
        }
      }
      if (rows == 1 && l.features == 4096) {
        line += " | to the residual";
        for (const std::uint32_t shared : {118u, 150u, 226u}) {
          tuning_of_single().residual_shared_bytes = shared * 1024;
          measure(shared, [&](const weight_matrix& w) {
            return multiply_into_residual(
                {x.data()}, w,
                {partial.data(), partial.data() + 8192,
                 reinterpret_cast<std::uint8_t*>(gated.data()), partial.data() + 16384},
                132, cudaStreamPerThread);
          });
        }
      }
      std::printf("%-8s rows %3u best %6.1f us %5.1f %%%s\n", l.name, rows, best,
                  100 * static_cast<double>(bytes) / best * 1e6 / read_bandwidth, line.c_str());
      std::fflush(stdout);
    }
  }
  tuning_of_single() = {};
  tuning_of_packed() = {};
}

void bench_fourbit_steps() {
  const single_tuning with;
  std::vector<single_tuning> all{{.used = false}, with};
  const auto add = [&](std::uint32_t single_tuning::*what, std::uint32_t value) {
    all.push_back(with);
    all.back().*what = value;
  };
  for (const std::uint32_t stages : {2u, 3u}) add(&single_tuning::stages_ahead, stages);
  for (const std::uint32_t stages : {1u, 2u, 5u}) add(&single_tuning::stages_later, stages);
  for (const std::uint32_t units : {8u, 16u, 64u}) add(&single_tuning::units_ahead, units);
  for (const std::uint32_t shared : {118u, 190u, 226u})
    add(&single_tuning::residual_shared_bytes, shared * 1024);
  for (const single_tuning& tuning : all) {
    tuning_of_single() = tuning;
    std::printf("\n%s, %u and %u KiB a block, %u then %u stages and %u units on their way",
                tuning.used ? "kernels of one row" : "kernels of any rows",
                tuning.residual_shared_bytes >> 10, tuning.ring_shared_bytes >> 10,
                tuning.stages_ahead, tuning.stages_later, tuning.units_ahead);
    llama(false, 512, ":q4").decode(1, 1024);
    std::fflush(stdout);
  }
  tuning_of_single() = {};
}

}  // namespace troupe::gpu::cuda
