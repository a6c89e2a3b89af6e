// What choosing tokens costs on the GPU: the kernel alone, and the engine's decode steps of 64 sequences of Llama-3-8B's shape
// (synthetic weights), greedy and sampled, with the time in which the GPU waits for the host between them.
//   bench_gpu_sampling [kernel] [engine] [engine:SEQUENCES]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "engine/engine.hpp"
#include "gpu/cuda/device.hpp"
#include "gpu/cuda/rows.hpp"
#include "gpu/cuda/sample_batch.hpp"
#include "gpu/cuda/synthetic.hpp"
#include "tests/gpu/cuda/need.hpp"

namespace troupe::gpu::cuda {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::uint32_t vocab = 128256;

row_sampling drawn(float temperature, float top_p = 1, std::uint32_t top_k = 0) {
  row_sampling r;
  r.way = sampling_way::draw;
  r.scale = 1 / temperature;
  r.top_p = top_p;
  r.top_k = top_k;
  r.random = 0x123456789abcdef0ull;
  return r;
}

struct kernel_case {
  const char* name;
  row_sampling row;
  std::uint32_t edits = 0;
  std::span<const std::uint64_t> allowed = {};
};

void bench_kernel(std::uint32_t multiprocessors) {
  std::vector<kernel_case> cases = {
      {"temperature", drawn(0.8f)},     {"top_p 0.95", drawn(0.8f, 0.95f)},
      {"top_k 50", drawn(0.8f, 1, 50)}, {"top_k 50, top_p 0.95", drawn(0.8f, 0.95f, 50)},
      {"min_p 0.05", drawn(0.8f)},      {"greedy, 1000 penalties", {}, 1000},
      {"greedy, 20 logprobs", {}}};
  cases[4].row.min_p = 0.05f;
  cases[6].row.logprobs = true;
  cases[6].row.num_top = 20;
  // A string's inside allows nearly every token, the place behind a key a few.
  const std::vector<std::uint64_t> most(mask_words(vocab), ~std::uint64_t{1});
  cases.push_back({"greedy, most allowed", {}, 0, most});
  cases.push_back({"top_p 0.95, most allowed", drawn(0.8f, 0.95f), 0, most});
  std::vector<std::uint64_t> ten(mask_words(vocab), 0);
  ten[500] = 0x3ff;
  cases.push_back({"top_k 50, 10 allowed", drawn(0.8f, 1, 50), 0, ten});
  std::vector<logit_edit> edits;
  for (std::uint32_t i = 0; i < 1000; ++i) edits.push_back({i * 128, 0, 1.1f, 0.2f});
  for (const float width : {3.0f, 0.5f}) {
    for (const std::uint32_t rows : {1u, 64u, 256u}) {
      std::mt19937 random(1);
      std::normal_distribution<float> normal(0, width);
      std::vector<float> some(vocab);
      auto logits = need(device_buffer<float>::make(std::size_t{rows} * vocab, "a bench"));
      auto fresh = need(device_buffer<float>::make(std::size_t{rows} * vocab, "a bench"));
      for (std::uint32_t i = 0; i < rows; ++i) {
        for (float& x : some) x = normal(random);
        cudaMemcpy(fresh.data() + std::size_t{i} * vocab, some.data(), vocab * sizeof(float),
                   cudaMemcpyHostToDevice);
      }
      cudaStream_t stream = nullptr;
      cudaStreamCreate(&stream);
      cudaEvent_t begin = nullptr, end = nullptr;
      cudaEventCreate(&begin);
      cudaEventCreate(&end);
      for (kernel_case& c : cases) {
        c.row.edits = std::span(edits).first(c.edits);
        c.row.allowed = c.allowed;
        auto batch = need(sample_batch::make(rows, vocab, multiprocessors));
        const std::vector<row_sampling> wanted(rows, c.row);
        std::vector<float> times;
        for (int i = 0; i < 12; ++i) {
          need(batch.upload(wanted, stream));
          cudaMemcpyAsync(logits.data(), fresh.data(), fresh.bytes(), cudaMemcpyDeviceToDevice,
                          stream);
          cudaEventRecord(begin, stream);
          need(batch.enqueue(0, rows, logits.data(), stream));
          cudaEventRecord(end, stream);
          cudaEventSynchronize(end);
          float ms = 0;
          cudaEventElapsedTime(&ms, begin, end);
          times.push_back(ms * 1000);
        }
        std::sort(times.begin() + 2, times.end());
        std::printf("%-24s logits of width %.1f, %3u rows: %7.1f us\n", c.name, width, rows,
                    times[times.size() / 2 + 1]);
      }
    }
  }
}

// Passes on to a runner and adds up how long the device was at it.
class timed_runner final : public model_runner {
 public:
  explicit timed_runner(std::unique_ptr<model_runner> inner) : inner_(std::move(inner)) {}
  const kv_layout& layout() const override { return inner_->layout(); }
  memory_kind kv_memory() const override { return inner_->kv_memory(); }
  result<std::span<std::byte>> allocate_kv(std::uint32_t n) override {
    return inner_->allocate_kv(n);
  }
  std::shared_ptr<transport::device_memory> device_memory() override {
    return inner_->device_memory();
  }
  result<void> attach_kv(std::span<std::byte> arena, std::uint32_t n) override {
    return inner_->attach_kv(arena, n);
  }
  result<void> submit(const batch& b) override {
    if (!samples_on_device) return inner_->submit({b.sequences, {}});
    return inner_->submit(b);
  }
  result<step_output> collect() override {
    auto out = inner_->collect();
    if (out) device_seconds += out->device_seconds;
    return out;
  }
  std::size_t weight_bytes() const override { return inner_->weight_bytes(); }
  std::string description() const override { return inner_->description(); }

  bool samples_on_device = true;
  double device_seconds = 0;

 private:
  std::unique_ptr<model_runner> inner_;
};

struct engine_case {
  const char* name;
  engine::sampling_params params;
  bool on_device = true;
};

std::vector<engine_case> engine_cases() {
  const auto with = [](float temperature, float top_p, float repetition) {
    engine::sampling_params p;
    p.temperature = temperature;
    p.top_p = top_p;
    p.repetition_penalty = repetition;
    p.ignore_eos = true;
    return p;
  };
  auto logprobs = with(0, 1, 1);
  logprobs.logprobs = 5;
  auto formed = with(0.8f, 0.95f, 1);
  formed.format = {engine::structured::format_kind::json_schema,
                   R"({"type":"array","items":{"type":"string","minLength":9}})"};
  return {{"greedy", with(0, 1, 1)},
          {"temperature", with(0.8f, 1, 1)},
          {"top_p 0.95", with(0.8f, 0.95f, 1)},
          {"top_p 0.95, penalties", with(0.8f, 0.95f, 1.1f)},
          {"5 logprobs", logprobs},
          {"top_p 0.95, a form", formed},
          {"top_p 0.95, a form, by the host", formed, false},
          {"greedy, sampled by the host", with(0, 1, 1), false},
          {"top_p 0.95, sampled by the host", with(0.8f, 0.95f, 1), false}};
}

void bench_engine(std::uint32_t sequences, std::uint32_t context) {
  runner_options options;
  options.max_batch_tokens = 8192;
  timed_runner runner(need(make_synthetic_runner("llama-3-8b", options)));
  const std::uint32_t steps = 60;
  engine::engine_options o;
  o.num_blocks = sequences * runner.layout().blocks_for(context + steps + 80) + 16;
  const auto arena = need(runner.allocate_kv(o.num_blocks));
  need(runner.attach_kv(arena, o.num_blocks));
  o.vocab_size = vocab;
  o.vocabulary = [] {  // words of up to four letters, and JSON's signs
    return std::make_shared<const engine::structured::vocabulary>(
        vocab,
        [](token_id t) {
          std::string word;
          for (token_id rest = t; rest > 0; rest /= 27)
            word += static_cast<char>('a' + std::min(rest % 27, 25u));
          return t % 50 == 0 ? word + "\",\"" : t % 50 == 1 ? "[\"" + word : word;
        },
        std::span<const token_id>());
  };
  o.max_model_len = 4096;
  o.max_num_seqs = sequences;
  o.max_num_batched_tokens = 8192;
  o.max_prefill_chunk = 1024;
  o.prefix_caching = false;
  o.speculation.enabled = false;
  std::printf("\nengine, %u sequences of %u tokens, %s\n", sequences, context,
              runner.description().c_str());
  std::uint64_t id = 1;
  for (const engine_case& c : engine_cases()) {
    runner.samples_on_device = c.on_device;
    auto e = need(engine::engine::make(runner, arena, o));
    std::mt19937 random(3);
    for (std::uint32_t i = 0; i < sequences; ++i) {
      engine::generation_request r;
      r.id = request_id{id++};
      for (std::uint32_t t = 0; t < context; ++t) r.prompt.push_back(random() % vocab);
      r.sampling = c.params;
      r.sampling.seed = i;
      r.sampling.max_tokens = steps + 70;
      need(e->add(std::move(r), engine::clock::now()));
    }
    while (need(e->step(engine::clock::now())).prefill_rows > 0) {
    }
    for (int i = 0; i < 4; ++i) need(e->step(engine::clock::now()));
    runner.device_seconds = 0;
    const auto begin = clock::now();
    for (std::uint32_t i = 0; i < steps; ++i) need(e->step(engine::clock::now()));
    const double wall = std::chrono::duration<double>(clock::now() - begin).count();
    std::printf("%-34s %7.3f ms a step, the GPU idle for %6.3f ms of it, %5.2f %%\n", c.name,
                wall / steps * 1e3, (wall - runner.device_seconds) / steps * 1e3,
                (1 - runner.device_seconds / wall) * 100);
    std::fflush(stdout);
  }
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
  std::printf("card: %s\n", device.name.c_str());
  if (wants("kernel")) bench_kernel(device.multiprocessors);
  if (wants("engine")) bench_engine(64, 1024);
  std::uint32_t sequences = 0;
  for (int i = 1; i < argc; ++i)
    if (std::sscanf(argv[i], "engine:%u", &sequences) == 1) bench_engine(sequences, 1024);
  return 0;
}
