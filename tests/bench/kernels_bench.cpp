// The host device's kernels against this machine's limits, measured in the same run on one thread.
//
//   build/release/tests/bench_kernels
//
// Counters: GMAC/s of the matrix products and their share of what 8-bit dot products can do (two of them make one of
// ours, as activations have 16 bits); GB/s of weights in a decode step and their share of what one thread reads.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <ctime>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "gpu/host/aligned_memory.hpp"
#include "gpu/host/cpu.hpp"
#include "gpu/host/packed_matrix.hpp"

namespace {

using namespace troupe::gpu::host;
namespace model = troupe::model;

const kernel_table& kernels() {
  return **choose_kernels("auto");
}

// Of this thread's CPU, as the benchmark library measures the kernels: neighbours on the core do not count.
double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

double seconds_of(const auto& work) {
  double best = HUGE_VAL;
  for (int k = 0; k < 5; ++k) {
    const double start = cpu_seconds();
    work();
    best = std::min(best, cpu_seconds() - start);
  }
  return best;
}

// Bytes a second that one thread reads from memory.
double read_limit() {
  static const double limit = [] {
    constexpr std::size_t bytes = std::size_t{256} << 20;
    const aligned_memory memory = std::move(*aligned_memory::make(bytes));
    std::memset(memory.data(), 1, bytes);
    // A search that fails: the C library's fastest read.
    return bytes /
           seconds_of([&] { benchmark::DoNotOptimize(std::memchr(memory.data(), 2, bytes)); });
  }();
  return limit;
}

struct matrix {
  matrix(model::tensor_type type, std::uint64_t rows, std::uint64_t columns) {
    const auto& about = model::info(type);
    const std::vector<std::byte> bytes(rows * columns / about.block_size * about.block_bytes,
                                       std::byte{0x2a});
    const model::tensor t{"w", type, rows, columns, bytes};
    packed = *plan(t);
    memory = std::move(*aligned_memory::make(packed.bytes()));
    pack_tiles(t, packed, 0, packed.tiles, reinterpret_cast<std::uint8_t*>(memory.data()));
    packed.data = reinterpret_cast<std::uint8_t*>(memory.data());
  }
  packed_matrix packed;
  aligned_memory memory;
};

struct input {
  input(std::uint32_t rows, std::uint32_t columns)
      : quantized(std::size_t{rows} * columns * 2),
        sums(std::size_t{rows} * columns / 32),
        scales(rows) {
    a = {quantized.data(), sums.data(), scales.data(), nullptr, columns / 32, rows};
    std::vector<float> x(columns), scratch(columns);
    for (std::uint32_t r = 0; r < rows; ++r) {
      for (std::uint32_t k = 0; k < columns; ++k) x[k] = std::sin(static_cast<float>(k + 7 * r));
      kernels().quantize_row({x.data(), nullptr, 0, columns, &a, r, scratch.data()});
    }
  }
  std::vector<std::int8_t> quantized;
  std::vector<group_sums> sums;
  std::vector<float> scales;
  activations a;
};

#if defined(__x86_64__)
constexpr int vnni_repeats = 4'000'000;
__attribute__((target("avx512f,avx512vnni"), noinline)) void run_vnni() {
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(2);
  // Six chains hide the latency; named, so that they stay in registers.
  __m512i s0 = a, s1 = a, s2 = a, s3 = a, s4 = a, s5 = a;
  for (int k = 0; k < vnni_repeats; ++k) {
    s0 = _mm512_dpbusd_epi32(s0, a, b);
    s1 = _mm512_dpbusd_epi32(s1, a, b);
    s2 = _mm512_dpbusd_epi32(s2, a, b);
    s3 = _mm512_dpbusd_epi32(s3, a, b);
    s4 = _mm512_dpbusd_epi32(s4, a, b);
    s5 = _mm512_dpbusd_epi32(s5, a, b);
    asm volatile("" : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4), "+v"(s5));
  }
}
double vnni_products_per_second() {
  return vnni_repeats * 64.0 * 6 / seconds_of([] { run_vnni(); });
}
#endif

// Products a second of one thread's 8-bit dot products; 0 where this CPU has none of 512 bits.
double dot_limit() {
  static const double limit = [] {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512vnni")) return vnni_products_per_second();
#endif
    return 0.0;
  }();
  return limit;
}

void matmul(benchmark::State& state, model::tensor_type type) {
  const auto rows = static_cast<std::uint32_t>(state.range(0)),
             columns = static_cast<std::uint32_t>(state.range(1));
  // For few rows 64 MB of weights, so that they come from memory as in a decode step, or one that checks guesses.
  const bool decodes = rows <= rows_per_block;
  const std::uint64_t outputs = decodes ? (std::uint64_t{64} << 20) / columns * 2 / 16 * 16 : 512;
  const matrix m(type, outputs, columns);
  const input in(rows, columns);
  std::vector<float> out(std::size_t{rows} * m.packed.tiles * 16);
  for (auto _ : state) {
    for (std::uint32_t t = 0; t < m.packed.tiles; ++t) {
      kernels().matmul[static_cast<std::size_t>(m.packed.format)](
          {&m.packed, t, &in.a, 0, rows, out.data() + 16 * t, std::size_t{m.packed.tiles} * 16,
           false});
    }
    benchmark::ClobberMemory();
  }
  using counter = benchmark::Counter;
  const double products = static_cast<double>(rows) * static_cast<double>(outputs) * columns;
  state.counters["GMAC/s"] = counter(products / 1e9, counter::kIsIterationInvariantRate);
  state.counters["GB/s"] =
      counter(static_cast<double>(m.packed.bytes()) / 1e9, counter::kIsIterationInvariantRate);
  if (dot_limit() > 0) {
    state.counters["of_dots"] =
        counter(2 * products / dot_limit(), counter::kIsIterationInvariantRate);
  }
  state.counters["of_reads"] = counter(static_cast<double>(m.packed.bytes()) / read_limit(),
                                       counter::kIsIterationInvariantRate);
}

// Attention of `rows` rows of `group` heads over `tokens` tokens of one KV head after another, in blocks of 16 tokens as
// the device's arena has them. For one row 64 MB of them, so that they come from memory as in a decode step.
void attention(benchmark::State& state, const char* isa) {
  const auto chosen = choose_kernels(isa);
  if (!chosen) return state.SkipWithError("this CPU has no such instructions");
  const auto rows = static_cast<std::uint32_t>(state.range(0)),
             tokens = static_cast<std::uint32_t>(state.range(1)),
             group = static_cast<std::uint32_t>(state.range(2)),
             head_dim = static_cast<std::uint32_t>(state.range(3));
  const std::uint32_t queries = rows * group, block = 16 * head_dim;
  const std::size_t head_values = std::size_t{2} * tokens * head_dim;
  const std::size_t heads =
      rows == 1 ? std::max<std::size_t>(1, (std::size_t{32} << 20) / head_values) : 1;
  const aligned_memory memory = std::move(*aligned_memory::make(heads * head_values * 2 + 64));
  auto* cache_data = reinterpret_cast<std::uint16_t*>(memory.data());
  std::fill_n(cache_data, heads * head_values, 0x2e66);
  std::vector<float> q(std::size_t{queries} * head_dim, 0.1f), out(q.size()), keys(64 * head_dim),
      values(keys.size());
  std::vector<attention_state> states(queries);
  std::vector<const float*> pointers(queries);
  for (std::uint32_t k = 0; k < queries; ++k) pointers[k] = q.data() + k * head_dim;
  const std::vector<std::uint32_t> visible(queries, attention_tile);
  std::size_t h = 0;
  for (auto _ : state) {
    for (std::uint32_t k = 0; k < queries; ++k)
      states[k] = {-HUGE_VALF, 0, out.data() + k * head_dim};
    const std::uint16_t* head = cache_data + h * head_values;
    h = (h + 1) % heads;
    for (std::uint32_t first = 0; first < tokens; first += attention_tile) {
      kv_tile tile;
      tile.num_tokens = attention_tile;
      for (std::uint32_t t = 0; t < attention_tile; ++t) {  // [block][K|V][token]
        const std::uint32_t at = first + t;
        tile.k[t] = head + std::size_t{at / 16} * 2 * block + at % 16 * head_dim;
        tile.v[t] = tile.k[t] + block;
      }
      const auto* next = reinterpret_cast<const std::byte*>(tile.k[0] + 8 * block);
      const read_ahead::run run{next, next + 8 * block * sizeof(std::uint16_t)};
      read_ahead ahead{&run, &run + (first + attention_tile < tokens)};
      (*chosen)->attend({&tile, &ahead, head_dim, queries, pointers.data(), visible.data(),
                         states.data(), keys.data(), values.data()});
    }
    benchmark::ClobberMemory();
  }
  using counter = benchmark::Counter;
  state.counters["GMAC/s"] =
      counter(2e-9 * queries * tokens * head_dim, counter::kIsIterationInvariantRate);
  state.counters["GB/s"] =
      counter(2e-9 * static_cast<double>(head_values), counter::kIsIterationInvariantRate);
}

BENCHMARK_CAPTURE(matmul, q4_1, model::tensor_type::q4_1)
    ->ArgsProduct({{1, 2, 3, 4, 5, 6, 8, 16, 128}, {576, 1536}});
BENCHMARK_CAPTURE(matmul, q8_0, model::tensor_type::q8_0)->ArgsProduct({{1, 2, 4, 8, 128}, {576}});
BENCHMARK_CAPTURE(matmul, q4_k, model::tensor_type::q4_k)->ArgsProduct({{1, 128}, {768}});
BENCHMARK_CAPTURE(matmul, q6_k, model::tensor_type::q6_k)->ArgsProduct({{1, 128}, {768}});
const std::vector<std::vector<std::int64_t>> one_row{{1}, {512}, {1, 2, 3, 4, 7, 8}, {64, 128}};
const std::vector<std::vector<std::int64_t>> other_widths{{1}, {512}, {3, 4}, {80, 96}};
const std::vector<std::vector<std::int64_t>> many_rows{{32}, {512, 4096}, {3}, {64}};
BENCHMARK_CAPTURE(attention, avx512vnni, "avx512vnni")
    ->ArgsProduct(one_row)
    ->ArgsProduct(other_widths)
    ->ArgsProduct(many_rows);
BENCHMARK_CAPTURE(attention, avx2, "avx2")
    ->ArgsProduct(one_row)
    ->ArgsProduct(other_widths)
    ->ArgsProduct(many_rows);

}  // namespace

BENCHMARK_MAIN();
