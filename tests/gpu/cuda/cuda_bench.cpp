// Figures of the CUDA device, beside the card's own limits: `bench_gpu_cuda [memory] [gemm] [parts] [attention] [decode] [prefill] [exact]
// [quantized] [fourbit] [onerow] [fp8] [[:fp8|:q4] decode:SEQUENCESxCONTEXT prefill:TOKENS]`, each a table or a line; without
// arguments all of them. Runs on synthetic Llama-3-8B shapes in bf16.
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/buffer.hpp"
#include "gpu/cuda/device.hpp"
#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/step_plan.hpp"
#include "gpu/cuda/synthesize.hpp"
#include "gpu/cuda/tensor_map.hpp"
#include "tests/gpu/cuda/bench_tools.hpp"
#include "tests/gpu/cuda/fourbit_bench.hpp"
#include "tests/gpu/cuda/llama_bench.hpp"
#include "tests/gpu/cuda/memory_pace.hpp"
#include "tests/gpu/cuda/need.hpp"
#include "tests/gpu/cuda/read_bandwidth.hpp"

namespace troupe::gpu::cuda {
namespace {

void bench_limits() {
  read_bandwidth = need(measure_read_bandwidth());
  std::printf("read bandwidth: %.2f TB/s\n", read_bandwidth / 1e12);
}

void bench_memory(std::uint32_t multiprocessors) {
  std::printf(
      "\nwhile so much is on its way to each multiprocessor: clocks of a load from L2, of 9 KB by "
      "128 threads, of a store, fence and atomic\n");
  for (const std::uint32_t pieces : {0u, 1u, 2u, 3u, 4u, 5u, 6u, 8u, 12u, 20u}) {
    const auto pace = need(measure_memory_pace(pieces, multiprocessors));
    std::printf("%6.1f KB %6.2f TB/s %6.0f %6.0f %6.0f\n", pieces * piece_bytes * 1e-3,
                pace.bytes_per_second * 1e-12, pace.load_clocks, pace.row_clocks,
                pace.fence_clocks);
  }
}

void bench_gemm() {
  need(prepare_gemm());
  constexpr std::uint32_t capacity = 8192, max_depth = 14336;
  const auto x = random_bf16(std::size_t{capacity} * max_depth, 1);
  const auto y = random_bf16(std::size_t{capacity} * 28672, 1);
  const auto partial = need(device_buffer<float>::make(std::size_t{256} * 128256, "bench"));
  std::printf("\nnarrow products: us, share of read bandwidth; best of groups x splits\n");
  for (const auto& l : llama_layers) {
    // Several copies of the weights, more than L2 holds.
    const std::size_t size = std::size_t{l.features} * l.depth,
                      copies = std::max<std::size_t>(2, (std::size_t{512} << 20) / (size * 2));
    const auto memory = random_bf16(size * copies, 0.02f);
    std::vector<weight_matrix> weights;
    for (std::size_t i = 0; i < copies; ++i)
      weights.push_back({memory.data() + i * size, l.features, l.depth, {}});
    const auto input = need(make_activation_matrix(x.data(), capacity, l.depth));
    for (const std::uint32_t rows : {1u, 8u, 16u, 32u, 64u, 128u, 256u}) {
      std::string line;
      double best = 1e9;
      for (const std::uint32_t groups : {1u, 2u}) {
        for (const std::uint32_t splits : {1u, 2u, 3u, 4u, 6u, 8u}) {
          if (std::size_t{splits} * rows * l.features > partial.size() ||
              (splits > 1 && l.features > 8192))
            continue;
          std::size_t next = 0;
          const double us = time_us(
              [&] {
                need(multiply_narrow(input, rows, weights[next++ % copies],
                                     {partial.data(), nullptr}, {splits, groups, true},
                                     cudaStreamPerThread));
              },
              10, 5);
          char text[64];
          std::snprintf(text, sizeof text, " %ux%u:%.1f", groups, splits, us);
          line += text;
          best = std::min(best, us);
        }
      }
      std::printf("%-8s rows %3u best %7.1f us %5.1f %% |%s\n", l.name, rows, best,
                  100 * size * 2 / best * 1e6 / read_bandwidth, line.c_str());
    }
    if (l.features > 100000) continue;
    for (const std::uint32_t rows : {512u, 2048u, 8192u}) {
      const bool gated = l.features == 28672;
      const auto output =
          need(make_activation_matrix(y.data(), capacity, gated ? l.features / 2 : l.features));
      const double us = time_us(
          [&] {
            need(multiply_wide(input, rows, weights[0], {&output, gated}, {{}, true, true},
                               cudaStreamPerThread));
          },
          5, 5);
      std::printf("%-8s rows %4u wide %8.1f us %6.1f TFLOP/s\n", l.name, rows, us,
                  2e-6 * rows * static_cast<double>(size) / us);
    }
  }
}

// Products of some rows: multiply_narrow beside multiply_wide by width x splits; us.
void bench_parts() {
  need(prepare_gemm());
  const auto x = random_bf16(std::size_t{256} * 14336, 1);
  const auto y = random_bf16(std::size_t{256} * 28672, 1);
  const auto partial = need(device_buffer<float>::make(std::size_t{256} * 128256, "bench"));
  std::printf(
      "\nproducts of some rows, us: narrow, as forward_pass runs it; wide, width x splits\n");
  for (const auto& l : llama_layers) {
    const std::size_t size = std::size_t{l.features} * l.depth,
                      copies = (std::size_t{256} << 20) / (size * 2) + 2;
    const auto memory = random_bf16(size * copies, 0.02f);
    std::vector<weight_matrix> weights;
    for (std::size_t i = 0; i < copies; ++i)
      weights.push_back({memory.data() + i * size, l.features, l.depth, {}});
    const auto input = need(make_activation_matrix(x.data(), 256, l.depth));
    const auto output = need(make_activation_matrix(y.data(), 256, l.features / 2));
    const bool gated = l.features == 28672;
    std::size_t next = 0;
    const auto wide = [&](std::uint32_t rows, const wide_output& to, wide_shape shape) {
      return time_us(
          [&] {
            need(multiply_wide(input, rows, weights[next++ % copies], to, {shape, true, true},
                               cudaStreamPerThread));
          },
          10, 5);
    };
    for (const std::uint32_t rows : {64u, 128u, 256u}) {
      const std::uint32_t splits = l.features <= 4096 ? 4 : l.features == 6144 ? 2 : 1;
      const double narrow = time_us(
          [&] {
            need(multiply_narrow(
                input, rows, weights[next++ % copies],
                gated ? narrow_output{nullptr, y.data()} : narrow_output{partial.data(), nullptr},
                {splits, rows <= 128 ? 1u : 2u, true}, cudaStreamPerThread));
          },
          10, 5);
      std::printf("%-8s rows %3u narrow %6.1f | wide", l.name, rows, narrow);
      if (gated) std::printf(" gated %.1f", wide(rows, {&output, true}, {}));
      for (const std::uint32_t width : {256u, 192u, 128u}) {
        for (const std::uint32_t s : {1u, 2u, 3u, 4u}) {
          if (s > 1 && l.features > 8192) continue;
          std::printf(" %ux%u:%.1f", width, s,
                      wide(rows, {nullptr, false, partial.data()}, {width, s}));
        }
      }
      const wide_shape chosen = shape_of_partial(rows, l.features, l.depth, 132);
      std::printf(" chosen %ux%u\n", chosen.width, chosen.splits);
      std::fflush(stdout);
    }
  }
}

// Products over 4-bit weights of random bits, by bytes of the ring and splits: us, and the best's share of the read bandwidth.
// One layer's attention over `sequences` of (first position, count).
void bench_one_attention(const char* what,
                         const std::vector<std::pair<std::uint32_t, std::uint32_t>>& sequences) {
  plan_options options;
  options.shape = {32, 8, 128};
  const kv_layout layout{1, 8, 128, 16, kv_dtype::f16};
  std::uint32_t blocks = 0, rows = 0;
  double pairs = 0, keys = 0;
  for (const auto& [first, count] : sequences) {
    blocks += layout.blocks_for(first + count);
    rows += count;
    keys += first + count;
    for (std::uint32_t i = 0; i < count; ++i) pairs += first + i + 1;
  }
  std::vector<block_id> ids(blocks);
  std::iota(ids.begin(), ids.end(), 0);
  std::shuffle(ids.begin(), ids.end(), std::mt19937(3));
  const std::size_t arena_values = blocks * layout.block_bytes() / 2;
  auto arena = need(device_buffer<__half>::make(arena_values, "bench"));
  std::vector<__half> some(std::size_t{8} << 20);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (auto& v : some) v = __float2half(normal(random));
  for (std::size_t at = 0; at < arena_values; at += some.size()) {
    cudaMemcpy(arena.data() + at, some.data(), std::min(some.size(), arena_values - at) * 2,
               cudaMemcpyHostToDevice);
  }
  std::vector<token_id> tokens(rows);
  std::vector<sequence_rows> batch_rows;
  std::size_t row = 0, block = 0;
  for (const auto& [first, count] : sequences) {
    const std::size_t n = layout.blocks_for(first + count);
    batch_rows.push_back(
        {std::span(tokens).subspan(row, count), first, std::span(ids).subspan(block, n), 1});
    row += count;
    block += n;
  }
  step_plan plan;
  plan.build({batch_rows}, options);
  const auto upload = [](const auto& v) {
    auto b = need(device_buffer<std::decay_t<decltype(v[0])>>::make(v.size(), "bench"));
    cudaMemcpy(b.data(), v.data(), b.bytes(), cudaMemcpyHostToDevice);
    return b;
  };
  const auto items = upload(plan.items);
  const auto tables = upload(plan.block_tables);
  const auto counters =
      need(device_buffer<std::uint32_t>::make(plan.counters * std::size_t{16} + 16, "bench"));
  const auto counts = upload(std::vector<std::uint32_t>{plan.rounds[0].items});
  auto queries = need(device_buffer<__half>::make(std::size_t{rows} * 4096, "bench"));
  for (std::size_t at = 0; at < queries.size(); at += some.size()) {
    cudaMemcpy(queries.data() + at, some.data(), std::min(some.size(), queries.size() - at) * 2,
               cudaMemcpyHostToDevice);
  }
  auto output = need(device_buffer<__nv_bfloat16>::make(queries.size(), "bench"));
  auto partial = need(
      device_buffer<float>::make(std::max(plan.partial_rows, 1u) * std::size_t{4096}, "bench"));
  auto softmax =
      need(device_buffer<float2>::make(std::max(plan.partial_rows, 1u) * std::size_t{32}, "bench"));
  const auto map = need(make_arena_map(arena.data(), half_type::f16, blocks, layout.block_bytes(),
                                       2 * 8 * 16, 128, 16));
  attention_arguments a{queries.data(), output.data(),   items.data(),
                        counts.data(),  tables.data(),   partial.data(),
                        softmax.data(), counters.data(), 0};
  const auto& round = plan.rounds[0];
  const double us = time_us(
      [&] {
        need(attend(options.shape, layout, map, round.tile, round.items, a, true,
                    cudaStreamPerThread));
      },
      5, 5);
  std::printf("%-24s %9.1f us, %6.1f TFLOP/s, KV %5.1f %% of read bandwidth, %zu items\n", what, us,
              4e-6 * pairs * 4096 / us, 100 * keys * 4096 / us * 1e6 / read_bandwidth,
              plan.items.size());
}

void bench_attention() {
  need(prepare_attention());
  std::printf("\nattention, one layer of 32 heads of 128 over 8 KV heads\n");
  bench_one_attention("prefill 512", {{0, 512}});
  bench_one_attention("prefill 8192", {{0, 8192}});
  bench_one_attention("prefill 16384", {{0, 16384}});
  bench_one_attention("decode 1 x 1k", {{1024, 1}});
  bench_one_attention("decode 8 x 1k",
                      std::vector<std::pair<std::uint32_t, std::uint32_t>>(8, {1024, 1}));
  bench_one_attention("decode 64 x 1k",
                      std::vector<std::pair<std::uint32_t, std::uint32_t>>(64, {1024, 1}));
  bench_one_attention("decode 256 x 1k",
                      std::vector<std::pair<std::uint32_t, std::uint32_t>>(256, {1024, 1}));
  bench_one_attention("decode 1 x 8k", {{8192, 1}});
  bench_one_attention("decode 64 x 8k",
                      std::vector<std::pair<std::uint32_t, std::uint32_t>>(64, {8192, 1}));
}

// E4M3 products of many rows, with and without the quantization of their activations; then whole steps.
void bench_fp8() {
  need(prepare_gemm());
  constexpr std::uint32_t capacity = 8192, max_depth = 14336;
  {
    const auto x = random_bf16(std::size_t{capacity} * max_depth, 1);
    const auto y = random_bf16(std::size_t{capacity} * 28672, 1);
    const auto bytes = need(device_buffer<std::uint8_t>::make(x.size(), "bench"));
    const auto scales = need(device_buffer<float>::make(capacity, "bench"));
    for (const auto& l : llama_layers) {
      if (l.features > 100000) continue;
      const std::size_t size = std::size_t{l.features} * l.depth;
      const auto plain = random_bf16(size, 0.02f);
      const auto tiles = need(device_buffer<std::byte>::make(size, "bench"));
      const auto feature_scales = need(device_buffer<float>::make(l.features, "bench"));
      need(quantize_to_f8(model::tensor_type::bf16,
                          reinterpret_cast<const std::byte*>(plain.data()), l.features, l.depth,
                          tiles.data(), feature_scales.data(), {}, cudaStreamPerThread));
      weight_matrix w{};
      w.rows = l.features;
      w.columns = l.depth;
      w.packed.data = tiles.data();
      w.packed.format[0] = packed_format::f8;
      w.packed.first_tile[1] = w.packed.first_tile[2] = ~0u;
      w.packed.row_scales = feature_scales.data();
      const bool gated = l.features == 28672;
      const auto input = need(make_activation_matrix(x.data(), capacity, l.depth));
      const auto output =
          need(make_activation_matrix(y.data(), capacity, gated ? l.features / 2 : l.features));
      const auto quantized =
          need(make_quantized_rows(bytes.data(), scales.data(), capacity, l.depth));
      for (const std::uint32_t rows : {128u, 256u, 512u, 2048u, 8192u}) {
        const auto product = [&] {
          need(multiply_fp8(quantized, rows, w, {output, gated}, cudaStreamPerThread));
        };
        const double quantizing = time_us(
            [&] { need(quantize_rows(input, rows, quantized, cudaStreamPerThread)); }, 5, 5);
        const double us = time_us(product, 5, 5);
        std::printf("%-8s rows %4u E4M3 %8.1f us %6.1f TFLOP/s, quantizing %6.1f us\n", l.name,
                    rows, us, 2e-6 * rows * static_cast<double>(size) / us, quantizing);
      }
    }
  }
  llama model(false, 16384, ":fp8");
  for (const std::uint32_t n : {1u, 8u, 32u, 64u, 128u, 256u}) model.decode(n, 1024);
  for (const std::uint32_t n : {512u, 2048u, 8192u}) model.prefill(n);
}

}  // namespace
}  // namespace troupe::gpu::cuda

int main(int argc, char** argv) {
  using namespace troupe::gpu::cuda;
  const auto wants = [&](const char* what) {
    return argc == 1 || std::any_of(argv + 1, argv + argc,
                                    [&](const char* a) { return std::strcmp(a, what) == 0; });
  };
  const auto device = need(open_device("cuda"));
  std::printf("card: %s, %u multiprocessors, %.1f GB\n", device.name.c_str(),
              device.multiprocessors, device.memory_bytes / 1e9);
  bench_limits();
  if (wants("memory")) bench_memory(device.multiprocessors);
  if (wants("gemm")) bench_gemm();
  if (wants("parts")) bench_parts();
  if (wants("attention")) bench_attention();
  if (wants("decode") || wants("prefill")) {
    llama model(false, 16384);
    if (wants("decode")) {
      for (const std::uint32_t n : {1u, 8u, 64u, 256u}) model.decode(n, 1024);
      model.decode(64, 8192);
    }
    if (wants("prefill")) {
      for (const std::uint32_t n : {512u, 2048u, 8192u, 16384u}) model.prefill(n);
    }
  }
  // Of these, `:fp8` and `:q4` choose the weights.
  const std::string weights = argc > 1 && argv[1][0] == ':' ? argv[1] : "";
  std::optional<llama> chosen;
  const std::span arguments(argv + 1, argv + argc);
  const bool any_prefills = std::ranges::any_of(
      arguments, [](const char* a) { return std::strncmp(a, "prefill:", 8) == 0; });
  for (const char* a : arguments) {
    std::uint32_t n = 0, length = 1024;
    const bool prefills = std::sscanf(a, "prefill:%u", &n) == 1,
               decodes = std::sscanf(a, "decode:%ux%u", &n, &length) >= 1,
               sustains = std::sscanf(a, "sustained:%ux%u", &n, &length) >= 1;
    if (!prefills && !decodes && !sustains) continue;
    if (!chosen) chosen.emplace(false, any_prefills ? 16384 : 2048, weights);
    if (prefills) chosen->prefill(n);
    if (decodes) chosen->decode(n, length);
    if (sustains) chosen->sustain(n, length);
  }
  if (wants("quantized")) {
    llama model(false, 8192, ":q4");
    for (const std::uint32_t n : {1u, 8u, 16u, 32u, 64u, 128u, 256u}) model.decode(n, 1024);
    for (const std::uint32_t n : {512u, 8192u}) model.prefill(n);
  }
  if (wants("fp8")) bench_fp8();
  if (wants("fourbit")) bench_fourbit_products();
  if (wants("onerow")) bench_fourbit_steps();
  if (wants("exact")) {
    llama model(true, 2048);
    for (const std::uint32_t n : {1u, 8u, 64u, 256u}) model.decode(n, 1024);
    model.prefill(512);
    model.prefill(2048);
  }
  return 0;
}
