// A real model file, quantized, on the GPU beside the host device. The file is TROUPE_TEST_GPU_MODEL (a cut that can be carried
// to a GPU machine: deploy/gpu_bundle/cut_gguf) or the default model.
#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "gpu/device_registry.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"

namespace troupe::gpu::cuda {
namespace {

std::filesystem::path model_path() {
  if (const char* path = std::getenv("TROUPE_TEST_GPU_MODEL")) return path;
  if (const char* path = std::getenv("TROUPE_TEST_MODEL")) return path;
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : "/") /
         ".cache/troupe/models/SmolLM2-135M-Instruct.Q4_1.gguf";
}

class model_test : public gpu_test {
 protected:
  static constexpr std::uint32_t blocks = 64;
  std::unique_ptr<model_runner> on_gpu(const std::shared_ptr<const model::loaded_model>& m,
                                       bool exact) {
    runner_options options;
    options.device = "cuda";
    options.exact = exact;
    auto runner = make_cuda_runner(m, options);
    EXPECT_TRUE(runner.has_value()) << to_string(runner.error());
    EXPECT_TRUE((*runner)->attach_kv((*runner)->allocate_kv(blocks).value(), blocks).has_value());
    return std::move(*runner);
  }
};

// Greedy tokens may differ from the host's only where the host's own two best are closer than the difference of arithmetic.
TEST_F(model_test, logits_and_greedy_tokens_agree_with_the_host_device) {
  const auto opened = model::open_model(model_path());
  ASSERT_TRUE(opened.has_value()) << to_string(opened.error());
  const auto& m = *opened;
  auto host = make_host_runner(m, {});
  ASSERT_TRUE(host.has_value()) << to_string(host.error());
  std::vector<std::byte> memory(blocks * (*host)->layout().block_bytes() + 64);
  std::byte* aligned =
      memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64;
  require((*host)->attach_kv({aligned, memory.size() - 64}, blocks));

  const std::uint32_t count = 300, vocab = m->config.vocab_size;
  std::vector<token_id> prompt(count);
  std::mt19937 fixed(11);
  for (auto& t : prompt) t = 100 + fixed() % 20000;
  std::vector<block_id> table(blocks);
  for (std::uint32_t i = 0; i < blocks; ++i) table[i] = (i * 13) % blocks;
  const sequence_rows rows{prompt, 0, table, count};

  const auto wanted = (*host)->forward({{&rows, 1}});
  ASSERT_TRUE(wanted.has_value()) << to_string(wanted.error());
  for (const bool exact : {false, true}) {
    const auto gpu = on_gpu(m, exact);
    EXPECT_EQ(gpu->layout().head_dim, (*host)->layout().head_dim);
    std::vector<float> got;
    const auto out =
        gpu->forward({{&rows, 1}});  // more rows of logits than fit on the device at once
    ASSERT_TRUE(out.has_value()) << to_string(out.error());
    got.assign(out->logits.begin(), out->logits.end());
    // Few rows at a time go other ways: packed products, and graphs for single tokens.
    relative_error parts_error;
    std::uint32_t first = 0;
    for (const std::uint32_t rows_now : {45u, 10u, 100u, 1u, 1u, 1u, 1u, 30u, 1u}) {
      const sequence_rows part{std::span(prompt).subspan(first, rows_now), first, table, 1};
      const auto last = gpu->forward({{&part, 1}});
      ASSERT_TRUE(last.has_value()) << to_string(last.error());
      first += rows_now;
      for (std::uint32_t v = 0; v < vocab; ++v) {
        parts_error.add(last->logits[v], wanted->logits[std::size_t{first - 1} * vocab + v]);
      }
    }
    EXPECT_LT(parts_error.value(), 0.03);
    relative_error error;
    std::uint32_t differing = 0, decided = 0;
    for (std::uint32_t r = 0; r < count; ++r) {
      const float* a = got.data() + std::size_t{r} * vocab;
      const float* b = wanted->logits.data() + std::size_t{r} * vocab;
      float worst = 0;
      for (std::uint32_t v = 0; v < vocab; ++v) {
        error.add(a[v], b[v]);
        worst = std::max(worst, std::abs(a[v] - b[v]));
      }
      const auto best = std::max_element(b, b + vocab) - b,
                 mine = std::max_element(a, a + vocab) - a;
      if (best != mine) ++differing;
      if (best != mine && b[best] - b[mine] > 2 * worst) ++decided;
    }
    std::printf("%s: relative error of logits %.4f, in parts %.4f, %u of %u greedy tokens differ\n",
                exact ? "exact" : "fast", error.value(), parts_error.value(), differing, count);
    EXPECT_LT(error.value(), 0.03);
    EXPECT_EQ(decided, 0u);
    EXPECT_LT(differing, count / 10);
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda
