#include "api/profile_bench.hpp"

#include <algorithm>
#include <chrono>
#include <new>

#include "engine/engine.hpp"

namespace troupe::api {
namespace {

using engine::clock;

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

struct arena_deleter {
  void operator()(std::byte* p) const { ::operator delete[](p, std::align_val_t{64}); }
};

struct timed_step {
  double seconds = 0;
  std::uint32_t prompt_rows = 0, decode_rows = 0;
};

// An engine whose steps are timed, filled with requests of which nothing is shared or guessed.
class stopwatch {
 public:
  static result<stopwatch> make(gpu::model_runner& runner, const model::model_config& model,
                                const profile_bench_options& o) {
    stopwatch s;
    s.vocab_ = model.vocab_size;
    const auto& layout = runner.layout();
    const std::uint32_t longest =
        std::min(model.max_position_embeddings, 2 * o.context + o.max_batch_tokens);
    engine::engine_options e;
    e.max_num_seqs = o.max_decodes;
    e.max_num_batched_tokens = std::max(o.max_batch_tokens, o.max_decodes + layout.block_tokens);
    e.max_prefill_chunk = o.max_batch_tokens / layout.block_tokens * layout.block_tokens;
    e.num_blocks = 4 * layout.blocks_for(longest) + o.max_decodes * layout.blocks_for(64);
    e.vocab_size = model.vocab_size;
    e.max_model_len = longest;
    e.prefix_caching = false;
    e.speculation.enabled = false;
    e.inter_token_target = std::chrono::hours(1);
    std::span<std::byte> arena;
    if (runner.kv_memory() == gpu::memory_kind::host) {
      const std::size_t bytes = e.num_blocks * layout.block_bytes();
      s.memory_.reset(
          static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{64}, std::nothrow)));
      if (!s.memory_) return fail(ec::out_of_memory, "not enough memory for the KV blocks");
      arena = {s.memory_.get(), bytes};
      std::fill(arena.begin(), arena.end(), std::byte{});
    } else {
      TROUPE_TRY(arena, runner.allocate_kv(e.num_blocks));
    }
    TROUPE_CHECK(runner.attach_kv(arena, e.num_blocks));
    TROUPE_TRY(s.engine_, engine::engine::make(runner, arena, e));
    s.longest_ = longest;
    s.rows_ = o.max_batch_tokens;
    return s;
  }

  std::uint32_t longest() const { return longest_; }
  std::uint32_t rows() const { return rows_; }  // of one pass at most

  result<void> add(std::uint32_t prompt, std::uint32_t output) {
    engine::generation_request r;
    r.id = request_id{++ids_};
    for (std::uint32_t i = 0; i < prompt; ++i) {
      seed_ = seed_ * 1664525u + 1013904223u;
      r.prompt.push_back((seed_ >> 8) % vocab_);
    }
    r.sampling.temperature = 0;
    r.sampling.ignore_eos = true;
    r.sampling.max_tokens = output;
    return engine_->add(std::move(r), clock::now());
  }
  // Every step until nothing is left.
  result<std::vector<timed_step>> run() {
    std::vector<timed_step> steps;
    while (engine_->has_work()) {
      const auto begin = clock::now();
      TROUPE_TRY(const auto report, engine_->step(begin));
      const double seconds = std::chrono::duration<double>(clock::now() - begin).count();
      if (report.worked) steps.push_back({seconds, report.prefill_rows, report.decode_rows});
    }
    return steps;
  }

 private:
  std::unique_ptr<std::byte, arena_deleter> memory_;
  std::unique_ptr<engine::engine> engine_;
  std::uint32_t vocab_ = 0, longest_ = 0, rows_ = 0, seed_ = 12345;
  std::uint64_t ids_ = 0;
};

result<void> measure_prompts(stopwatch& w, const profile_bench_options& o,
                             actors::device_profile& p) {
  for (std::uint32_t rows = 1; rows <= o.max_batch_tokens; rows *= rows < 16 ? 16 : 2) {
    std::vector<double> seconds;
    for (std::uint32_t r = 0; r < o.repetitions; ++r) {
      TROUPE_CHECK(w.add(rows, 1));
      TROUPE_TRY(const auto steps, w.run());
      seconds.push_back(steps.front().seconds);
    }
    p.prompt.push_back({static_cast<double>(rows), median(seconds)});
  }
  // A long prompt: what its later chunks take longer than its first one.
  std::vector<double> slopes;
  for (std::uint32_t r = 0; r < std::max(1u, o.repetitions / 2); ++r) {
    const std::uint32_t chunks = std::min(w.longest() - 1, 2 * o.context) / o.max_batch_tokens;
    if (chunks < 2) break;
    TROUPE_CHECK(w.add(chunks * o.max_batch_tokens, 1));
    TROUPE_TRY(const auto steps, w.run());
    double above = 0, below = 0;
    for (std::size_t i = 1; i < steps.size(); ++i) {
      const double x =
          static_cast<double>(steps[i].prompt_rows) * static_cast<double>(i) * o.max_batch_tokens;
      above += x * (steps[i].seconds - steps[0].seconds);
      below += x * x;
    }
    slopes.push_back(above / below);
  }
  if (!slopes.empty()) p.prompt_context_seconds = std::max(0.0, median(slopes));
  return {};
}

// The median step in which `count` sequences decode and nothing else, after prompts of so many tokens.
result<double> decode_step(stopwatch& w, std::uint32_t count, std::uint32_t prompt,
                           std::uint32_t steps_wanted) {
  // The first go on decoding while the last prompts are read.
  const std::uint32_t meanwhile = count * prompt / (w.rows() / 2) + 4;
  for (std::uint32_t i = 0; i < count; ++i) TROUPE_CHECK(w.add(prompt, steps_wanted + meanwhile));
  TROUPE_TRY(const auto steps, w.run());
  std::vector<double> seconds;
  for (const auto& s : steps)
    if (s.prompt_rows == 0 && s.decode_rows == count) seconds.push_back(s.seconds);
  if (seconds.empty()) return fail(ec::internal, "no step had all sequences decoding");
  return median(seconds);
}

result<void> measure_decodes(stopwatch& w, const profile_bench_options& o,
                             actors::device_profile& p) {
  const std::uint32_t steps = std::min(32u, 4 * o.repetitions);
  const std::uint32_t near = 16, far = std::min(o.context, w.longest() - steps - 64);
  TROUPE_TRY(const double at_near, decode_step(w, 4, near, steps));
  TROUPE_TRY(const double at_far, decode_step(w, 4, far, steps));
  p.decode_context_seconds = std::max(0.0, (at_far - at_near) / (4.0 * (far - near)));
  for (std::uint32_t n = 1; n <= o.max_decodes; n *= 2) {
    TROUPE_TRY(const double seconds, decode_step(w, n, near, steps));
    const double context = p.decode_context_seconds * n * (near + steps / 2.0);
    p.decode.push_back({static_cast<double>(n), std::max(0.1 * seconds, seconds - context)});
  }
  return {};
}

}  // namespace

result<actors::device_profile> bench_profile(gpu::model_runner& runner,
                                             const model::model_config& model,
                                             const profile_bench_options& options) {
  TROUPE_TRY(auto watch, stopwatch::make(runner, model, options));
  actors::device_profile p;
  p.device = runner.description();
  p.on_gpu = runner.kv_memory() != gpu::memory_kind::host;
  p.block_tokens = runner.layout().block_tokens;
  p.block_bytes = runner.layout().block_bytes();
  p.max_model_len = model.max_position_embeddings;
  TROUPE_CHECK(watch.add(64, 4));  // touches weights and memory for the first time
  TROUPE_CHECK(watch.run());
  TROUPE_CHECK(measure_prompts(watch, options, p));
  TROUPE_CHECK(measure_decodes(watch, options, p));
  return p;
}

}  // namespace troupe::api
