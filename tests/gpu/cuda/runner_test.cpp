// The whole device: logits against a double reference, and the bits that `exact` promises.
#include <cstring>

#include "engine/sampler.hpp"
#include "gpu/cuda/synthetic.hpp"
#include "gpu/device_registry.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "tests/gpu/cuda/reference_model.hpp"
#include "tests/gpu/cuda/sample_equality.hpp"

namespace troupe::gpu::cuda {
namespace {

class runner_test : public gpu_test {
 protected:
  std::unique_ptr<model_runner> start(const std::shared_ptr<const model::loaded_model>& m,
                                      bool exact, std::uint32_t blocks = 600) {
    runner_options options;
    options.device = "cuda";
    options.exact = exact;
    options.max_batch_tokens = 2048;
    auto made = make_cuda_runner(m, options);
    EXPECT_TRUE(made.has_value()) << to_string(made.error());
    auto runner = std::move(*made);
    const auto arena = runner->allocate_kv(blocks);
    EXPECT_TRUE(arena.has_value());
    EXPECT_TRUE(runner->attach_kv(*arena, blocks).has_value());
    return runner;
  }
  std::vector<token_id> tokens(std::size_t count, std::uint32_t vocab) {
    std::vector<token_id> t(count);
    for (auto& x : t) x = random() % vocab;
    return t;
  }
  static std::vector<block_id> table(std::uint32_t first, std::size_t count) {
    std::vector<block_id> t(count);
    for (std::size_t i = 0; i < count; ++i) t[i] = first + static_cast<block_id>((i * 7) % count);
    return t;
  }
  static std::vector<float> run(model_runner& runner, std::span<const sequence_rows> rows) {
    const auto out = runner.forward({rows});
    EXPECT_TRUE(out.has_value()) << to_string(out.error());
    return {out->logits.begin(), out->logits.end()};
  }
};

TEST_F(runner_test, logits_equal_double_reference_for_each_architecture_feature) {
  const reference_options cases[] = {
      {.heads = 6, .kv_heads = 2, .tied = true},
      {.heads = 8, .kv_heads = 2, .head_dim = 128, .interleaved = false, .bias = true},
      {.heads = 4, .kv_heads = 1, .head_dim = 128, .interleaved = false, .qk_norm = true},
  };
  for (const auto& o : cases) {
    const auto m = make_random_model(o, random);
    const auto prompt = tokens(460, o.vocab);
    const auto wanted = reference_logits(*m, prompt);
    for (const bool exact : {false, true}) {
      const auto runner = start(m, exact);
      const auto blocks = table(3, 30);
      relative_error error;
      const auto compare = [&](std::uint32_t first, std::uint32_t count, std::uint32_t num_logits) {
        const sequence_rows rows{std::span(prompt).subspan(first, count), first, blocks,
                                 num_logits};
        const auto got = run(*runner, {&rows, 1});
        for (std::uint32_t i = 0; i < num_logits; ++i) {
          for (std::uint32_t v = 0; v < o.vocab; ++v) {
            error.add(got[i * o.vocab + v], wanted[(first + count - num_logits + i) * o.vocab + v]);
          }
        }
      };
      compare(0, 280, 3);    // the wide kernels
      compare(280, 40, 40);  // a short chunk, logits of every row
      for (std::uint32_t p = 320; p < 330; ++p) compare(p, 1, 1);  // graphs
      compare(330, 130, 130);  // the wide kernels' sums in parts
      EXPECT_LT(error.value(), 1.5e-2)
          << o.heads << " heads of " << o.head_dim << (exact ? ", exact" : "");
    }
  }
}

// Over K-quants a single row's norms are part of the products; under `exact` they are kernels of their own. The second shape fills
// rings of tiles several times.
TEST_F(runner_test, fused_norms_give_the_logits_of_exact) {
  constexpr std::uint32_t vocab = 128256;
  const auto prompt = tokens(230, vocab);
  const auto blocks = table(3, 30);
  for (const char* model : {"llama-3-8b:q4", "llama-3-70b-slice:q4"}) {
    std::vector<std::vector<float>> got[2];
    for (const bool exact : {false, true}) {
      runner_options options;
      options.device = "cuda";
      options.exact = exact;
      auto made = make_synthetic_runner(model, options);
      ASSERT_TRUE(made.has_value()) << to_string(made.error());
      const auto arena = (*made)->allocate_kv(60);
      ASSERT_TRUE(arena.has_value() && (*made)->attach_kv(*arena, 60).has_value());
      const auto take = [&](std::uint32_t first, std::uint32_t count, std::uint32_t logits) {
        const sequence_rows rows{std::span(prompt).subspan(first, count), first, blocks, logits};
        got[exact].push_back(run(**made, {&rows, 1}));
      };
      take(0, 200, 1);
      for (std::uint32_t p = 200; p < 205; ++p) take(p, 1, 1);
      take(205, 2, 2);  // guesses to be checked
      take(207, 3, 3);
      take(210, 4, 4);
      take(214, 4, 1);  // the end of a prompt
      // Sequences of their own.
      const auto others = table(33, 20);
      const sequence_rows two[] = {{std::span(prompt).subspan(218, 1), 218, blocks, 1},
                                   {std::span(prompt).first(1), 0, others, 1}};
      got[exact].push_back(run(**made, two));
    }
    for (std::size_t i = 0; i < got[0].size(); ++i) {
      ASSERT_EQ(got[0][i].size(), got[1][i].size());
      relative_error error;
      for (std::size_t v = 0; v < got[0][i].size(); ++v) error.add(got[0][i][v], got[1][i][v]);
      EXPECT_LT(error.value(), 2e-2) << model << ", step " << i;
    }
    EXPECT_NE(got[0][3], got[1][3]) << "the same kernels: nothing was compared";
  }
}

TEST_F(runner_test, exact_logits_have_the_same_bits_in_any_batch_chunk_and_split) {
  const reference_options o{.heads = 8, .kv_heads = 2, .head_dim = 128};
  const auto m = make_random_model(o, random);
  const auto runner = start(m, true);
  const auto prompt = tokens(1300, o.vocab), other = tokens(900, o.vocab);
  const auto whole_table = table(0, 82), part_table = table(100, 82), other_table = table(200, 60);
  const sequence_rows whole{prompt, 0, whole_table, 1};
  const auto wanted = run(*runner, {&whole, 1});
  const auto expect_same = [&](const std::vector<float>& got, const char* what) {
    ASSERT_GE(got.size(), o.vocab);
    EXPECT_EQ(0, std::memcmp(got.data(), wanted.data(), o.vocab * sizeof(float))) << what;
  };
  expect_same(run(*runner, {&whole, 1}), "again");
  std::uint32_t at = 0;
  std::vector<float> last;
  for (const std::uint32_t count : {1u, 15u, 200u, 7u, 300u, 64u, 500u, 200u}) {
    const sequence_rows part{std::span(prompt).subspan(at, count), at, part_table, 1};
    last = run(*runner, {&part, 1});
    at += count;
  }
  for (; at < 1300; ++at) {
    const sequence_rows part{std::span(prompt).subspan(at, 1), at, part_table, 1};
    last = run(*runner, {&part, 1});
  }
  expect_same(last, "chunks, then one by one");
  for (const std::uint32_t others : {1u, 5u, 40u, 150u, 255u}) {
    std::vector<sequence_rows> rows = {{std::span(prompt).subspan(1299, 1), 1299, part_table, 1}};
    for (std::uint32_t i = 0; i < others; ++i)
      rows.push_back(
          {std::span(other).subspan(i, 1), 0, std::span(other_table).subspan(i % 60, 1), 1});
    expect_same(run(*runner, rows), "among decode rows");
  }
  const std::vector<sequence_rows> mixed = {
      {std::span(prompt).subspan(1200, 100), 1200, part_table, 1}, {other, 0, other_table, 1}};
  expect_same(run(*runner, mixed), "beside a prefill");
}

// Rows of every kind in one pass: what the device makes of them is what the host makes of the logits.
TEST_F(runner_test, samples_are_the_hosts) {
  const reference_options o{};
  const auto m = make_random_model(o, random);
  const auto runner = start(m, true);
  const auto prompt = tokens(600, o.vocab);
  const auto blocks = table(0, 38);
  engine::sampler host(o.vocab);
  const std::vector<logit_edit> edits = {{7, 4.0f, 1.0f, 0}, {9, 0, 1.3f, 0.5f}};
  for (const std::uint32_t num_rows :
       {1u, 20u, 600u}) {  // more than the device's buffer of logits has
    const sequence_rows rows{prompt, 0, blocks, num_rows};
    const auto logits = run(*runner, {&rows, 1});
    std::vector<row_sampling> sampling(num_rows);
    for (std::uint32_t i = 0; i < num_rows; ++i) {
      auto& s = sampling[i];
      s.way = static_cast<sampling_way>(i % 3);
      s.given = i % o.vocab;
      s.logprobs = i % 4 == 1;
      s.num_top = i % 21;
      s.scale = 0.5f + static_cast<float>(i % 7);
      s.top_k = i % 5 == 0 ? 40 : 0;
      s.top_p = i % 2 == 0 ? 0.9f : 1.0f;
      s.random = std::uint64_t{random()} << 32 | random();
      if (i % 6 == 0) s.edits = edits;
    }
    const auto out = runner->forward({{&rows, 1}, sampling});
    ASSERT_TRUE(out.has_value()) << to_string(out.error());
    EXPECT_TRUE(out->logits.empty());
    ASSERT_EQ(out->samples.size(), num_rows);
    for (std::uint32_t i = 0; i < num_rows; ++i) {
      const auto row = std::span(logits).subspan(std::size_t{i} * o.vocab, o.vocab);
      expect_equal(out->samples[i], host.sample(row, sampling[i]), sampling[i]);
      if (HasFailure()) FAIL() << "row " << i << " of " << num_rows;
    }
  }
}

TEST_F(runner_test, refusals_name_the_way_out) {
  const auto m = make_random_model({}, random);
  const auto runner = start(m, false, 40);
  EXPECT_EQ(runner->allocate_kv(200'000'000).error().code, ec::out_of_memory);
  std::vector<std::byte> host(40 * runner->layout().block_bytes());
  EXPECT_EQ(runner->attach_kv(host, 40).error().code, ec::invalid_argument);
  const auto prompt = tokens(10, 500);
  const auto blocks = table(0, 300);
  const sequence_rows beyond{prompt, 4090, blocks, 1};
  EXPECT_EQ(runner->submit({{&beyond, 1}}).error().code, ec::context_exceeded);
  const sequence_rows fine{prompt, 0, blocks, 1};
  EXPECT_TRUE(runner->forward({{&fine, 1}}).has_value())
      << "a refused batch must leave the runner usable";
  EXPECT_EQ(open_device("cuda:99").error().code, ec::invalid_argument);
  EXPECT_EQ(open_device("cuda:x").error().code, ec::invalid_argument);
}

// Needs no GPU: what a machine without one answers.
TEST(cuda_device, absence_is_a_typed_error_with_a_way_out) {
  if (cuda_available()) GTEST_SKIP() << "this machine has a GPU";
  const auto opened = open_device("cuda");
  ASSERT_FALSE(opened.has_value());
  EXPECT_EQ(opened.error().code, ec::unsupported);
  EXPECT_NE(opened.error().detail.find("--device cpu"), std::string::npos) << opened.error().detail;
}

}  // namespace
}  // namespace troupe::gpu::cuda
