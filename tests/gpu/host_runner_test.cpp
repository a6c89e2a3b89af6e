#include <algorithm>
#include <cmath>

#include "tests/gpu/host_fixture.hpp"
#include "tests/gpu/reference_model.hpp"

namespace troupe::gpu {
namespace {

using model::tensor_type;
using testing::consecutive_blocks;
using testing::host_device;
using testing::open_tiny;
using testing::same_bits;
using testing::some_tokens;
using testing::tiny_model;

constexpr tensor_type all_types[] = {tensor_type::f32,  tensor_type::f16,  tensor_type::bf16,
                                     tensor_type::q4_0, tensor_type::q4_1, tensor_type::q5_0,
                                     tensor_type::q5_1, tensor_type::q8_0, tensor_type::q4_k,
                                     tensor_type::q5_k, tensor_type::q6_k};

runner_options with(std::string isa = "auto", unsigned threads = 2) {
  runner_options o;
  o.isa = std::move(isa);
  o.num_threads = threads;
  return o;
}

void expect_reference(const std::shared_ptr<const model::loaded_model>& m, double tolerance) {
  host_device device(m, with());
  const auto tokens = some_tokens(40, m->config.vocab_size, 5);
  const auto ours = device.run(tokens, 0, consecutive_blocks(3), 40);
  const auto exact = testing::reference_model(*m).logits(tokens);
  double largest = 0, error = 0;
  for (std::size_t t = 0; t < tokens.size(); ++t)
    for (std::size_t v = 0; v < device.vocab(); ++v) {
      largest = std::max(largest, std::fabs(exact[t][v]));
      error = std::max(error, std::fabs(exact[t][v] - ours[t * device.vocab() + v]));
    }
  EXPECT_GT(largest, 0.5);
  EXPECT_LT(error, tolerance * largest) << error / largest;
}

class host_types : public ::testing::TestWithParam<tensor_type> {};

TEST_P(host_types, logits_agree_with_a_plain_model) {
  expect_reference(open_tiny({.type = GetParam(), .embedding_type = GetParam()}), 2e-3);
}

TEST_P(host_types, same_bits_on_every_instruction_set) {
  const auto m = open_tiny({.type = GetParam(), .embedding_type = GetParam()});
  const auto tokens = some_tokens(37, m->config.vocab_size, 1);
  host_device portable(m, with("portable"));
  const auto expected = portable.run(tokens, 0, consecutive_blocks(3), 37);
  for (const std::string& isa : testing::runnable_isas()) {
    host_device device(m, with(isa));
    ASSERT_TRUE(same_bits(device.run(tokens, 0, consecutive_blocks(3), 37), expected)) << isa;
  }
}

INSTANTIATE_TEST_SUITE_P(types, host_types, ::testing::ValuesIn(all_types),
                         [](const auto& p) { return std::string(model::info(p.param).name); });

TEST(host_architectures, biases_norms_pairs_and_outputs_agree_with_a_plain_model) {
  expect_reference(open_tiny({.architecture = "qwen2", .tied = false}), 2e-3);
  expect_reference(open_tiny({.architecture = "qwen3",
                              .num_attention_heads = 6,
                              .num_key_value_heads = 1,
                              .head_dim = 32}),
                   2e-3);
  expect_reference(open_tiny({.type = tensor_type::q8_0,
                              .num_attention_heads = 4,
                              .num_key_value_heads = 4,
                              .head_dim = 80,
                              .rope_freqs = true}),
                   2e-3);
  expect_reference(
      open_tiny({.type = tensor_type::q4_0, .embedding_type = tensor_type::f16, .tied = false}),
      2e-3);
}

// A model with a long context, so that segments are merged.
std::shared_ptr<const model::loaded_model> long_model() {
  return open_tiny(
      {.type = tensor_type::q4_1, .embedding_type = tensor_type::q8_0, .context = 4096});
}

class host_equality : public ::testing::Test {
 protected:
  static constexpr std::uint32_t length = 1100;  // three segments of 512
  std::shared_ptr<const model::loaded_model> m = long_model();
  std::vector<token_id> tokens = some_tokens(length, m->config.vocab_size, 77);
  std::vector<block_id> blocks = consecutive_blocks(length / 16 + 1);

  std::vector<float> whole(host_device& d) const { return d.run(tokens, 0, blocks, 20); }
  std::vector<float> expected() const {
    host_device d(m, with(), 80);
    return whole(d);
  }
};

TEST_F(host_equality, any_chunk_size) {
  const auto want = expected();
  for (const std::uint32_t chunk : {7u, 16u, 64u, 333u, 1099u}) {
    host_device d(m, with(), 80);
    std::vector<float> got;
    for (std::uint32_t at = 0; at < length; at += chunk) {
      const std::uint32_t n = std::min(chunk, length - at);
      const std::uint32_t first_wanted = std::max(at, length - 20);
      const std::uint32_t logits = at + n > first_wanted ? at + n - first_wanted : 0;
      const auto part = d.run(std::span(tokens).subspan(at, n), at, blocks, logits);
      got.insert(got.end(), part.begin(), part.end());
    }
    ASSERT_TRUE(same_bits(got, want)) << "chunks of " << chunk;
  }
}

// Heads of a segment are one task or several, as there are threads and rows.
TEST_F(host_equality, a_few_tokens_at_a_time) {
  const auto want = expected();
  for (const unsigned threads : {1u, 2u, 3u}) {
    for (const std::uint32_t chunk : {1u, 5u}) {
      host_device d(m, with("auto", threads), 80);
      d.run(std::span(tokens).first(length - 20), 0, blocks, 0);
      std::vector<float> got;
      for (std::uint32_t at = length - 20; at < length; at += chunk) {
        const auto part = d.run(std::span(tokens).subspan(at, chunk), at, blocks, chunk);
        got.insert(got.end(), part.begin(), part.end());
      }
      ASSERT_TRUE(same_bits(got, want)) << threads << " threads, " << chunk << " at a time";
    }
  }
}

TEST_F(host_equality, any_number_of_threads) {
  const auto want = expected();
  for (const unsigned threads : {1u, 2u, 3u, 8u}) {
    host_device d(m, with("auto", threads), 80);
    ASSERT_TRUE(same_bits(whole(d), want)) << threads << " threads";
  }
}

TEST_F(host_equality, any_block_table) {
  const auto want = expected();
  host_device d(m, with(), 200);
  testing::test_random random{3};
  std::vector<block_id> all = consecutive_blocks(200);
  for (std::size_t k = all.size() - 1; k > 0; --k) std::swap(all[k], all[random.next() % (k + 1)]);
  blocks.assign(all.begin(), all.begin() + length / 16 + 1);
  ASSERT_TRUE(same_bits(whole(d), want));
}

TEST_F(host_equality, any_block_size) {
  const auto want = expected();
  for (const std::uint32_t size : {1u, 24u, 64u}) {
    auto options = with();
    options.block_tokens = size;
    host_device d(m, options, length / size + 1);
    blocks = consecutive_blocks(length / size + 1);
    ASSERT_TRUE(same_bits(whole(d), want)) << "blocks of " << size;
  }
}

TEST_F(host_equality, any_company_in_the_batch) {
  const auto want = expected();
  host_device d(m, with(), 400);
  // The sequence in two parts, beside prompts that come and go and others that decode.
  std::vector<std::vector<token_id>> others;
  std::vector<std::vector<block_id>> other_blocks;
  for (std::uint32_t k = 0; k < 21; ++k) {
    others.push_back(some_tokens(1 + k * 5 % 40, m->config.vocab_size, k));
    other_blocks.push_back(consecutive_blocks(10, 80 + 10 * k));
  }
  const auto run_beside = [&](std::uint32_t at, std::uint32_t n, std::uint32_t logits,
                              std::size_t place) {
    std::vector<sequence_rows> batch;
    for (std::uint32_t k = 0; k < others.size(); ++k)
      batch.push_back({others[k], 0, other_blocks[k], k % 2});
    batch.insert(batch.begin() + static_cast<std::ptrdiff_t>(place),
                 {std::span(tokens).subspan(at, n), at, blocks, logits});
    const auto all = d.run(batch);
    std::size_t before = 0;
    for (std::size_t k = 0; k < place; ++k) before += batch[k].num_logits;
    const auto first = all.begin() + static_cast<std::ptrdiff_t>(before * d.vocab());
    return std::vector<float>(first, first + static_cast<std::ptrdiff_t>(logits * d.vocab()));
  };
  run_beside(0, 700, 0, 5);
  run_beside(700, 381, 0, 0);
  auto got = run_beside(1081, 18, 18, 21);
  const auto last = run_beside(1099, 1, 1, 11);
  got.insert(got.end(), last.begin(), last.end());
  ASSERT_TRUE(same_bits(got, std::span(want).subspan(d.vocab())));
}

TEST_F(host_equality, decodes_of_many_sequences_are_those_of_each) {
  host_device d(m, with(), 400);
  std::vector<std::vector<float>> alone;
  std::vector<sequence_rows> batch;
  std::vector<std::vector<block_id>> tables;
  tables.reserve(19);
  for (std::uint32_t k = 0; k < 19; ++k) {
    tables.push_back(consecutive_blocks(20, 20 * k));
    const std::uint32_t n = 1 + k * 16;
    d.run(std::span(tokens).subspan(k, n), 0, tables.back(), 0);
    batch.push_back({std::span(tokens).subspan(k + n, 1), n, tables.back(), 1});
    alone.push_back(d.run(std::span(&batch.back(), 1)));
  }
  const auto together = d.run(batch);
  for (std::size_t k = 0; k < alone.size(); ++k) {
    ASSERT_TRUE(same_bits(alone[k], std::span(together).subspan(k * d.vocab(), d.vocab())))
        << "sequence " << k;
  }
}

TEST(host_runner, says_what_it_is) {
  const auto m = open_tiny({});
  double last = 0;
  auto options = with("portable", 1);
  options.progress = [&](double done) {
    EXPECT_GE(done, last);
    last = done;
  };
  host_device d(m, options);
  EXPECT_EQ(last, 1.0);
  EXPECT_EQ(d.runner->description(), "host, portable, 1 thread");
  EXPECT_EQ(d.runner->kv_memory(), memory_kind::host);
  EXPECT_EQ(d.runner->layout().payload_bytes(), 2u * 2 * 2 * 16 * 16 * 2);
  EXPECT_FALSE(d.runner->allocate_kv(1).has_value());
  EXPECT_FALSE(d.runner->attach_kv({}, 1).has_value());
}

TEST(host_runner, refuses_unknown_devices_and_instruction_sets) {
  const auto m = open_tiny({});
  runner_options o;
  o.device = "abacus";
  EXPECT_EQ(make_runner(m, o).error().code, ec::invalid_argument);
  o.device = "cpu";
  o.isa = "mmx";
  EXPECT_EQ(make_runner(m, o).error().code, ec::invalid_argument);
}

TEST(host_runner, refuses_a_model_whose_tensors_do_not_fit) {
  const auto good = open_tiny({});
  auto bad = std::make_shared<model::loaded_model>(*good);
  bad->weights.layers[1].down_proj.rows = 32;
  runner_options o;
  o.device = "cpu";
  const auto r = make_runner(bad, o);
  ASSERT_FALSE(r.has_value());
  EXPECT_EQ(r.error().code, ec::corrupt_file);
  auto odd = std::make_shared<model::loaded_model>(*good);
  odd->config.num_key_value_heads = 3;
  EXPECT_FALSE(make_runner(odd, o).has_value());
}

}  // namespace
}  // namespace troupe::gpu
