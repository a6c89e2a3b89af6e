// What the engine costs beside the model: one token from one row of logits, a step of many sequences on a device that
// takes no time, and the tokens of an answer of a given form.
//   build/release/tests/bench_engine
#include <benchmark/benchmark.h>

#include <random>

#include "engine/engine.hpp"
#include "engine/sampler.hpp"
#include "engine/sampling_plan.hpp"

namespace troupe::engine {
namespace {

std::vector<float> random_logits(std::size_t n, float width) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal(0, width);
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

void sample(benchmark::State& state, const sampling_params& p, float width = 3) {
  const auto n = static_cast<std::uint32_t>(state.range(0));
  sampler s(n);
  const auto logits = random_logits(n, width);
  token_counts counts;
  std::vector<token_id> prompt;
  for (token_id t = 0; t < 500; ++t) prompt.push_back(t * 7);
  counts.add_prompt(prompt);
  for (token_id t = 0; t < 100; ++t) counts.add_output(t * 11);
  sampling_plan plan;
  std::uint32_t position = 0;
  for (auto _ : state) {
    plan.clear();
    plan.add({p, position, position, {}, uses_penalties(p) ? &counts : nullptr});
    auto t = s.sample(logits, plan.rows()[0]);
    benchmark::DoNotOptimize(t);
    ++position;
  }
}

sampling_params params(float temperature) {
  sampling_params p;
  p.temperature = temperature;
  return p;
}

void greedy(benchmark::State& state) {
  sample(state, params(0));
}
void greedy_with_logprobs(benchmark::State& state) {
  auto p = params(0);
  p.logprobs = 5;
  sample(state, p);
}
void temperature(benchmark::State& state) {
  sample(state, params(0.8f));
}
void top_k_top_p(benchmark::State& state) {
  auto p = params(0.8f);
  p.top_k = 50;
  p.top_p = 0.95f;
  sample(state, p);
}
void top_p_peaked(benchmark::State& state) {
  auto p = params(0.8f);
  p.top_p = 0.95f;
  sample(state, p, 6);
}
void top_p_flat(benchmark::State& state) {
  auto p = params(1);
  p.top_p = 0.95f;
  sample(state, p, 0.5f);
}
void penalties(benchmark::State& state) {
  auto p = params(0);
  p.repetition_penalty = 1.1f;
  p.frequency_penalty = 0.2f;
  sample(state, p);
}
BENCHMARK(greedy)->Arg(49152)->Arg(128256)->Unit(benchmark::kMicrosecond);
BENCHMARK(greedy_with_logprobs)->Arg(49152)->Arg(128256)->Unit(benchmark::kMicrosecond);
BENCHMARK(temperature)->Arg(49152)->Arg(128256)->Unit(benchmark::kMicrosecond);
BENCHMARK(top_k_top_p)->Arg(49152)->Arg(128256)->Unit(benchmark::kMicrosecond);
BENCHMARK(top_p_peaked)->Arg(49152)->Arg(128256)->Unit(benchmark::kMicrosecond);
BENCHMARK(top_p_flat)->Arg(49152)->Arg(128256)->Unit(benchmark::kMicrosecond);
BENCHMARK(penalties)->Arg(49152)->Arg(128256)->Unit(benchmark::kMicrosecond);

// Logits that never change, of a vocabulary so small that sampling costs nothing.
class idle_runner final : public gpu::model_runner {
 public:
  explicit idle_runner(std::uint32_t vocab_size, std::uint32_t max_rows = 1024)
      : logits_(std::size_t{vocab_size} * max_rows) {
    for (std::size_t i = 0; i < logits_.size(); ++i)
      logits_[i] = static_cast<float>(i % vocab_size);
    vocab_size_ = vocab_size;
  }
  const gpu::kv_layout& layout() const override { return layout_; }
  gpu::memory_kind kv_memory() const override { return gpu::memory_kind::host; }
  result<std::span<std::byte>> allocate_kv(std::uint32_t) override {
    return fail(ec::unsupported, "");
  }
  result<void> attach_kv(std::span<std::byte>, std::uint32_t) override { return {}; }
  result<void> submit(const gpu::batch& b) override {
    wanted_ = b.num_logits();
    return {};
  }
  result<gpu::step_output> collect() override {
    return gpu::step_output{std::span(logits_).first(std::size_t{wanted_} * vocab_size_)};
  }
  std::size_t weight_bytes() const override { return 0; }
  std::string description() const override { return "idle"; }

 private:
  gpu::kv_layout layout_{1, 1, 2, 16, gpu::kv_dtype::f16};
  std::vector<float> logits_;
  std::uint32_t vocab_size_ = 0, wanted_ = 0;
};

void step_of_decodes(benchmark::State& state) {
  const auto sequences = static_cast<std::uint32_t>(state.range(0));
  idle_runner runner(32);
  engine_options o;
  o.num_blocks = 32 * 1024;
  o.vocab_size = 32;
  o.max_model_len = 1u << 20;
  o.max_num_seqs = sequences;
  o.max_num_batched_tokens = 1024;
  std::vector<std::byte> arena(o.num_blocks * runner.layout().block_bytes() + 64);
  const auto offset = 64 - reinterpret_cast<std::uintptr_t>(arena.data()) % 64;
  auto e = *engine::make(runner, std::span(arena).subspan(offset, arena.size() - 64), o);
  time_point now{};
  std::uint64_t next = 0;
  const auto refill = [&] {
    for (std::uint32_t i = 0; i < sequences; ++i) {
      generation_request r;
      r.id = request_id{++next};
      r.prompt.assign(32, static_cast<token_id>(next % 32));
      r.sampling.temperature = 0;
      r.sampling.max_tokens = 4000;
      (void)e->add(std::move(r), now);
    }
    while (e->stats().waiting_tokens > 0) (void)e->step(now);
  };
  refill();
  for (auto _ : state) {
    auto report = e->step(now);
    benchmark::DoNotOptimize(report);
    if (!e->has_work()) {
      state.PauseTiming();
      refill();
      state.ResumeTiming();
    }
  }
  state.counters["per_sequence"] =
      benchmark::Counter(static_cast<double>(state.iterations()) * sequences,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK(step_of_decodes)->Arg(1)->Arg(16)->Arg(64)->Unit(benchmark::kMicrosecond);

// Words of letters, which a counted repetition takes many of, and what JSON needs.
std::shared_ptr<const structured::vocabulary> some_words(std::uint32_t size) {
  std::mt19937 random(2);
  std::vector<std::string> texts = {"", "{", "}", "[", "]", ",", ":", "\"", "true", "false", "\":"};
  for (char c = '0'; c <= '9'; ++c) texts.emplace_back(1, c);
  while (texts.size() < size) {
    std::string word(1 + random() % 8, ' ');
    for (char& c : word) c = static_cast<char>('a' + random() % 26);
    texts.push_back(std::move(word));
  }
  std::shuffle(texts.begin() + 1, texts.end(), random);
  const token_id ends[] = {0};
  return std::make_shared<const structured::vocabulary>(
      size, [&](token_id t) { return texts[t]; }, ends);
}

// Whole answers of a form, of `length` tokens at most, each in an engine that has seen none before.
void answer_of_form(benchmark::State& state, const structured::answer_format& form,
                    std::uint32_t length) {
  constexpr std::uint32_t vocab_size = 49152;
  const auto words = some_words(vocab_size);
  idle_runner runner(vocab_size, 16);
  engine_options o;
  o.num_blocks = 16 * 1024;
  o.vocab_size = vocab_size;
  o.max_model_len = 1u << 18;
  o.vocabulary = [&] { return words; };
  std::vector<std::byte> arena(o.num_blocks * runner.layout().block_bytes() + 64);
  const auto offset = 64 - reinterpret_cast<std::uintptr_t>(arena.data()) % 64;
  std::uint64_t tokens = 0;
  std::chrono::duration<double> longest{};
  for (auto _ : state) {
    auto e = *engine::make(runner, std::span(arena).subspan(offset, arena.size() - 64), o);
    generation_request r;
    r.id = request_id{1};
    r.prompt = {1, 2, 3};
    r.sampling.ignore_eos = true;
    r.sampling.temperature = 0;
    r.sampling.max_tokens = length;
    r.sampling.format = form;
    if (const auto added = e->add(std::move(r), {}); !added)
      return state.SkipWithError(to_string(added.error()).c_str());
    while (e->has_work()) {
      const auto begin = clock::now();
      const auto report = e->step({});
      longest = std::max<std::chrono::duration<double>>(longest, clock::now() - begin);
      for (const auto& t : report->happened.tokens) tokens += t.tokens.size();
      for (const auto& f : report->happened.finished)
        if (f.reason == finish_reason::error) state.SkipWithError(to_string(f.failure).c_str());
    }
  }
  state.counters["tokens"] = static_cast<double>(tokens) / static_cast<double>(state.iterations());
  state.counters["per_token"] = benchmark::Counter(
      static_cast<double>(tokens), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  state.counters["longest_step"] = longest.count();
}
BENCHMARK_CAPTURE(answer_of_form, counted, {structured::format_kind::regex, "[a-z]{60000}"}, 8000)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(
    answer_of_form, json,
    {structured::format_kind::json_schema,
     R"({"type":"array","minItems":60,"maxItems":60,"items":{"type":"object","properties":
    {"name":{"type":"string","maxLength":30},"age":{"type":"integer","minimum":0,"maximum":150},
     "tags":{"type":"array","items":{"enum":["red","green","blue"]},"maxItems":4},
     "active":{"type":"boolean"}},"required":["name","age","tags","active"]}})"},
    4000)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace troupe::engine

BENCHMARK_MAIN();
