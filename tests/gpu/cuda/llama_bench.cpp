#include "tests/gpu/cuda/llama_bench.hpp"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <numeric>
#include <random>
#include <span>

#include "gpu/cuda/synthetic.hpp"
#include "tests/gpu/cuda/bench_tools.hpp"
#include "tests/gpu/cuda/need.hpp"

namespace troupe::gpu::cuda {
namespace {

using clock = std::chrono::steady_clock;

constexpr double bf16_bytes =
    2.0 *
    (32 * (4096.0 * 6144 + 4096.0 * 4096 + 4096.0 * 28672 + 4096.0 * 14336) + 128256.0 * 4096);

}  // namespace

llama::llama(bool exact, std::uint32_t max_tokens, const std::string& weights)
    : weight_bytes_(bf16_bytes) {
  // What a file of 4-bit weights holds: 4.5 bits a value (Q4_K) and 6.5625 in the LM head (Q6_K).
  const double head = 128256.0 * 4096;
  if (weights == ":q4") weight_bytes_ = (bf16_bytes / 2 - head) * 4.5 / 8 + head * 6.5625 / 8;
  if (weights == ":fp8") weight_bytes_ = bf16_bytes / 2 - head + head * 2;
  const auto begin = clock::now();
  runner_options options;
  options.exact = exact;
  options.max_batch_tokens = max_tokens;
  runner_ = need(make_synthetic_runner("llama-3-8b" + weights, options));
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  num_blocks_ = static_cast<std::uint32_t>((free - (std::size_t{400} << 20)) /
                                           runner_->layout().block_bytes());
  if (max_tokens < 4096) num_blocks_ = std::min(num_blocks_, 40'000u);
  const auto arena = need(runner_->allocate_kv(num_blocks_));
  need(runner_->attach_kv(arena, num_blocks_));
  const std::chrono::duration<double> taken = clock::now() - begin;
  std::printf("\nstart to ready: %.2f s (%s, %u KV blocks of %zu bytes, %.1f GB beside them)\n",
              taken.count(), runner_->description().c_str(), num_blocks_,
              runner_->layout().block_bytes(), runner_->weight_bytes() / 1e9);
  std::vector<__half> some(std::size_t{16} << 20);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  for (auto& v : some) v = __float2half(normal(random));
  for (std::size_t at = 0; at < arena.size(); at += some.size() * 2) {
    const std::size_t bytes = std::min(some.size() * 2, arena.size() - at);
    if (at == 0)
      cudaMemcpy(arena.data(), some.data(), bytes, cudaMemcpyHostToDevice);
    else
      cudaMemcpy(arena.data() + at, arena.data(), bytes, cudaMemcpyDeviceToDevice);
  }
  ids_.resize(num_blocks_);
  std::iota(ids_.begin(), ids_.end(), 0);
  std::shuffle(ids_.begin(), ids_.end(), random);
}

void llama::decode(std::uint32_t sequences, std::uint32_t context, const row_sampling& how,
                   const char* what) {
  // The first steps after a pause are slower; why is not known, clocks are up.
  step(sequences, context, how, what, fresh_ ? 136 : 40, 32);
  fresh_ = false;
}

void llama::sustain(std::uint32_t sequences, std::uint32_t context) {
  constexpr std::uint32_t counted = 400;
  const auto begin = clock::now();
  const double joules = step(sequences, context, {}, "decode", 2 * counted, counted);
  const std::chrono::duration<double> taken = clock::now() - begin;
  if (joules > 0) {
    std::printf("%.2f J a step, %.0f W\n", joules / counted, 2 * joules / taken.count());
  }
}

double llama::step(std::uint32_t sequences, std::uint32_t context, const row_sampling& how,
                   const char* what, std::uint32_t steps, std::uint32_t counted) {
  constexpr std::uint32_t most_ahead = 40;
  while (sequences * runner_->layout().blocks_for(context + most_ahead) > num_blocks_)
    context -= 128;  // as fits the card
  const std::uint32_t blocks = runner_->layout().blocks_for(context + most_ahead);
  std::vector<token_id> tokens(sequences);
  for (std::uint32_t i = 0; i < sequences; ++i) tokens[i] = i * 331 % 128256;
  std::vector<double> times, of_gpu;
  std::vector<sequence_rows> rows(sequences);
  std::vector<row_sampling> sampling(sequences, how);
  std::mt19937_64 draws(1);
  static const energy_meter meter;
  double joules = 0;
  for (std::uint32_t step = 0; step < steps; ++step) {
    if (step == steps - counted) joules = meter.joules();
    const auto begin = clock::now();
    for (std::uint32_t i = 0; i < sequences; ++i) {
      // Tokens near the end are written again, so that long runs have steps alike.
      rows[i] = {std::span(tokens).subspan(i, 1), context + step % most_ahead,
                 std::span(ids_).subspan(std::size_t{i} * blocks, blocks), 1};
    }
    for (auto& r : sampling) r.random = draws();
    const auto out = need(runner_->forward({rows, sampling}));
    for (std::uint32_t i = 0; i < sequences; ++i) tokens[i] = out.samples[i].token;
    times.push_back(std::chrono::duration<double, std::milli>(clock::now() - begin).count());
    of_gpu.push_back(out.device_seconds * 1e3);
  }
  joules = meter.joules() - joules;
  for (auto* t : {&times, &of_gpu}) {
    t->erase(t->begin(), t->end() - counted);
    std::sort(t->begin(), t->end());
  }
  const double kv = static_cast<double>(sequences) * context * 131072,
               limit = (weight_bytes_ + kv) / read_bandwidth * 1e3;
  std::printf("%s %3u x %5u: %7.3f ms a step (p99 %7.3f, GPU %7.3f), limit %7.3f, ratio %.3f\n",
              what, sequences, context, times[times.size() / 2], times[times.size() * 99 / 100],
              of_gpu[of_gpu.size() / 2], limit, times[times.size() / 2] / limit);
  return joules;
}

void llama::prefill(std::uint32_t count) {
  std::vector<token_id> tokens(count);
  for (std::uint32_t i = 0; i < count; ++i) tokens[i] = (i * 7919 + 13) % 128256;
  const sequence_rows rows{tokens, 0, std::span(ids_).first(runner_->layout().blocks_for(count)),
                           1};
  std::vector<double> times;
  const row_sampling greedy;
  for (int i = 0; i < 6; ++i) {
    const auto begin = clock::now();
    need(runner_->forward({{&rows, 1}, {&greedy, 1}}));
    times.push_back(std::chrono::duration<double, std::milli>(clock::now() - begin).count());
  }
  times.erase(times.begin());
  std::sort(times.begin(), times.end());
  const double flops =
      2.0 * count * (bf16_bytes / 2 - 128256.0 * 4096) + 2.0 * count * count * 4096 * 32;
  std::printf("prefill %5u: %8.2f ms, %6.1f TFLOP/s in all, limit at 741 TFLOP/s %7.2f\n", count,
              times[times.size() / 2], flops / times[times.size() / 2] / 1e9, flops / 741e9);
}

}  // namespace troupe::gpu::cuda
