// A model whose output is of some tokens: their logits are the whole model's, the others are impossible.
#include <gtest/gtest.h>

#include "model/remake.hpp"
#include "tests/gpu/host_fixture.hpp"

namespace troupe::testing {
namespace {

gpu::runner_options options(const std::string& device, const std::string& isa) {
  gpu::runner_options o;
  o.device = device;
  o.isa = isa;
  o.num_threads = 2;
  return o;
}

TEST(trimmed_head, gives_the_logits_of_the_whole_model_and_no_others) {
  temporary_directory dir;
  write_tiny_gguf(dir / "whole.gguf", {});
  const auto whole = model::open_model(dir / "whole.gguf").value();
  const std::uint32_t vocab = whole->config.vocab_size;
  const auto prompt = some_tokens(40, vocab, 5);
  const auto blocks = consecutive_blocks(4);
  std::vector<std::vector<token_id>> kept = {{0}, {vocab - 1}, {0, 1, 2, 3, 4}, {}, {}};
  for (token_id t = 0; t < vocab; ++t) {
    if (t % 3 != 1) kept[3].push_back(t);
    kept[4].push_back(t);
  }
  for (const auto& isa : runnable_isas()) {
    host_device full(whole, options("cpu", isa));
    const auto expected = full.run(prompt, 0, blocks, 3);
    for (const auto& tokens : kept) {
      SCOPED_TRACE(isa + " " + std::to_string(tokens.size()));
      ASSERT_TRUE(model::prune_model(dir / "whole.gguf", dir / "some.gguf", {0, 1}, tokens));
      host_device some(model::open_model(dir / "some.gguf").value(), options("cpu", isa));
      const auto got = some.run(prompt, 0, blocks, 3);
      ASSERT_EQ(got.size(), expected.size());
      for (std::size_t i = 0; i < got.size(); ++i) {
        const auto t = static_cast<token_id>(i % vocab);
        if (std::binary_search(tokens.begin(), tokens.end(), t))
          ASSERT_EQ(got[i], expected[i]) << i;
        else
          ASSERT_EQ(got[i], -1e30f) << i;
      }
    }
  }
}

TEST(trimmed_head, is_for_the_host_device) {
  temporary_directory dir;
  write_tiny_gguf(dir / "whole.gguf", {});
  ASSERT_TRUE(model::prune_model(dir / "whole.gguf", dir / "some.gguf", {0}, {1, 2, 3}));
  const auto m = model::open_model(dir / "some.gguf").value();
  const auto made = gpu::make_runner(m, options("cuda", "auto"));
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ec::unsupported);
  EXPECT_TRUE(gpu::make_runner(m, options("auto", "auto")));
}

}  // namespace
}  // namespace troupe::testing
