// A runner of the host device with its own KV arena, and the instruction sets that this CPU can run.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "gpu/host/cpu.hpp"
#include "gpu/model_runner.hpp"
#include "tests/model/tiny_gguf.hpp"

namespace troupe::testing {

inline std::vector<std::string> runnable_isas() {
  std::vector<std::string> names;
  for (const char* name : {"portable", "avx2", "avxvnni", "vnni256", "avx512vnni"}) {
    if (gpu::host::choose_kernels(name)) names.emplace_back(name);
  }
  return names;
}

class host_device {
 public:
  host_device(std::shared_ptr<const model::loaded_model> m, gpu::runner_options options,
              std::uint32_t num_blocks = 64)
      : model(std::move(m)) {
    options.device = "cpu";
    auto made = gpu::make_runner(model, options);
    if (!made) {
      ADD_FAILURE() << to_string(made.error());
      std::abort();
    }
    runner = std::move(*made);
    const std::size_t bytes = num_blocks * runner->layout().block_bytes();
    arena_.reset(static_cast<std::byte*>(std::aligned_alloc(64, bytes)));
    // Blocks come unwritten from a pool: whatever they hold must not matter.
    std::fill_n(arena_.get(), bytes, std::byte{0xff});
    EXPECT_TRUE(runner->attach_kv({arena_.get(), bytes}, num_blocks));
  }

  // Logits of the last num_logits tokens after the tokens from `first_position` on.
  std::vector<float> run(std::span<const token_id> tokens, std::uint32_t first_position,
                         std::span<const block_id> blocks, std::uint32_t num_logits) {
    const gpu::sequence_rows rows{tokens, first_position, blocks, num_logits};
    return run(std::span(&rows, 1));
  }
  std::vector<float> run(std::span<const gpu::sequence_rows> sequences) {
    auto out = runner->forward({sequences});
    EXPECT_TRUE(out.has_value());
    return {out->logits.begin(), out->logits.end()};
  }
  std::size_t vocab() const { return model->config.vocab_size; }

  std::shared_ptr<const model::loaded_model> model;
  std::unique_ptr<gpu::model_runner> runner;

 private:
  struct free_memory {
    void operator()(std::byte* p) const { std::free(p); }
  };
  std::unique_ptr<std::byte, free_memory> arena_;
};

inline std::shared_ptr<const model::loaded_model> open_tiny(const tiny_model& wanted) {
  static int count = 0;
  const auto path =
      std::filesystem::temp_directory_path() /
      ("troupe-gpu-" + std::to_string(::getpid()) + "-" + std::to_string(count++) + ".gguf");
  write_tiny_gguf(path, wanted);
  auto m = model::open_model(path);
  std::filesystem::remove(path);  // the mapping keeps the file
  if (!m) {
    ADD_FAILURE() << to_string(m.error());
    std::abort();
  }
  return *m;
}

inline std::vector<token_id> some_tokens(std::size_t count, std::uint32_t vocab,
                                         std::uint64_t seed) {
  test_random random{seed};
  std::vector<token_id> t(count);
  for (auto& x : t) x = static_cast<token_id>(random.next() % vocab);
  return t;
}
inline std::vector<block_id> consecutive_blocks(std::uint32_t count, std::uint32_t first = 0) {
  std::vector<block_id> b(count);
  std::iota(b.begin(), b.end(), first);
  return b;
}

// The same bits, so that -0 is not 0.
inline ::testing::AssertionResult same_bits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " values";
  for (std::size_t k = 0; k < a.size(); ++k) {
    if (std::bit_cast<std::uint32_t>(a[k]) != std::bit_cast<std::uint32_t>(b[k])) {
      return ::testing::AssertionFailure() << "value " << k << ": " << a[k] << " and " << b[k];
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace troupe::testing
