#include "api/engine_bench.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <new>

namespace troupe::api {
namespace {

using clock = std::chrono::steady_clock;

struct arena_deleter {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

// The sequences of one test and their blocks.
struct field {
  std::vector<std::vector<block_id>> tables;
  std::vector<std::vector<token_id>> tokens;
};

// Any ids do: the work does not depend on them.
std::vector<token_id> some_tokens(std::uint32_t count, std::uint32_t vocab, std::uint32_t salt) {
  std::vector<token_id> out(count);
  std::uint32_t x = salt * 2654435761u + 12345u;
  for (auto& t : out) {
    x = x * 1664525u + 1013904223u;
    t = (x >> 8) % vocab;
  }
  return out;
}

// Reads the tokens [first, first + count) of every sequence; logits of the last one.
result<void> prefill(gpu::model_runner& runner, field& f, std::uint32_t first, std::uint32_t count,
                     std::uint32_t chunk) {
  for (std::size_t s = 0; s < f.tables.size(); ++s)
    for (std::uint32_t at = 0; at < count; at += chunk) {
      const std::uint32_t n = std::min(chunk, count - at);
      const gpu::sequence_rows rows{std::span(f.tokens[s]).subspan(first + at, n), first + at,
                                    f.tables[s], at + n == count ? 1u : 0u};
      TROUPE_CHECK(runner.forward({std::span(&rows, 1)}));
    }
  return {};
}

result<void> decode(gpu::model_runner& runner, field& f, std::uint32_t first, std::uint32_t steps) {
  std::vector<gpu::sequence_rows> rows(f.tables.size());
  for (std::uint32_t i = 0; i < steps; ++i) {
    for (std::size_t s = 0; s < rows.size(); ++s)
      rows[s] = {std::span(f.tokens[s]).subspan(first + i, 1), first + i, f.tables[s], 1};
    TROUPE_CHECK(runner.forward({rows}));
  }
  return {};
}

// Tokens that lie in the cache when the time starts. A sequence that writes cannot be empty.
std::uint32_t read_before(const engine_test& t) {
  return t.generate > 0 ? std::max(1u, t.depth) : t.depth;
}

std::uint32_t length_of(const engine_test& t) {
  return read_before(t) + t.prompt + t.generate;
}

result<double> once(gpu::model_runner& runner, field& f, const engine_test& t,
                    std::uint32_t chunk) {
  const std::uint32_t first = read_before(t);
  const auto start = clock::now();
  if (t.generate > 0) {
    TROUPE_CHECK(decode(runner, f, first, t.generate));
  } else {
    TROUPE_CHECK(prefill(runner, f, first, t.prompt, chunk));
  }
  const double seconds = std::chrono::duration<double>(clock::now() - start).count();
  return (t.prompt + t.generate) * t.parallel / seconds;
}

}  // namespace

std::string engine_test::name() const {
  std::string text = generate > 0 ? "tg" + std::to_string(generate) : "pp" + std::to_string(prompt);
  if (parallel > 1) text += " x" + std::to_string(parallel);
  return depth > 0 ? text + " @ d" + std::to_string(depth) : text;
}

result<std::vector<engine_speed>> bench_engine(gpu::model_runner& runner,
                                               const model::model_config& model,
                                               const std::vector<engine_test>& tests,
                                               std::uint32_t repetitions,
                                               std::uint32_t max_batch_tokens) {
  const auto& layout = runner.layout();
  std::uint32_t blocks = 0;
  for (const auto& t : tests)
    blocks = std::max(blocks, t.parallel * layout.blocks_for(length_of(t)));
  std::unique_ptr<std::byte, arena_deleter> memory;
  std::span<std::byte> arena;
  if (runner.kv_memory() == gpu::memory_kind::host) {
    const std::size_t bytes = blocks * layout.block_bytes();
    memory.reset(
        static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64}, std::nothrow)));
    if (!memory)
      return fail(ec::out_of_memory, "not enough memory for the KV blocks of these tests");
    arena = {memory.get(), bytes};
    std::fill(arena.begin(), arena.end(), std::byte{});
  } else {
    TROUPE_TRY(arena, runner.allocate_kv(blocks));
  }
  TROUPE_CHECK(runner.attach_kv(arena, blocks));

  std::vector<engine_speed> out;
  for (const auto& t : tests) {
    const std::uint32_t length = length_of(t);
    field f;
    for (std::uint32_t s = 0, next = 0; s < t.parallel; ++s) {
      f.tokens.push_back(some_tokens(length, model.vocab_size, s));
      f.tables.emplace_back(layout.blocks_for(length));
      for (auto& b : f.tables.back()) b = next++;
    }
    TROUPE_CHECK(prefill(runner, f, 0, read_before(t), max_batch_tokens));
    const engine_test warm{std::min(t.prompt, 16u), std::min(t.generate, 4u), t.parallel, t.depth};
    TROUPE_CHECK(once(runner, f, warm, max_batch_tokens));
    double sum = 0, squares = 0;
    for (std::uint32_t r = 0; r < repetitions; ++r) {
      TROUPE_TRY(const double speed, once(runner, f, t, max_batch_tokens));
      sum += speed;
      squares += speed * speed;
    }
    const double mean = sum / repetitions;
    const double variance =
        repetitions > 1 ? std::max(0.0, (squares - sum * mean) / (repetitions - 1)) : 0;
    out.push_back({t, mean, std::sqrt(variance)});
  }
  return out;
}

}  // namespace troupe::api
