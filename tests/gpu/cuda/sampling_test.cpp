// Samples of the GPU against the host's sampler: the same token and the same logprobs, bit for bit, over shapes of logits and
// parameters that take each of the kernel's ways.
#include "gpu/cuda/sampling.hpp"

#include <algorithm>
#include <functional>

#include "engine/sampler.hpp"
#include "gpu/cuda/rows.hpp"
#include "gpu/cuda/sample_batch.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "tests/gpu/cuda/sample_equality.hpp"

namespace troupe::gpu::cuda {
namespace {

class sampling_test : public gpu_test {
 protected:
  float chance() { return static_cast<float>(random() >> 8) / (1 << 24); }

  std::vector<float> logits_of(int shape, std::uint32_t vocab) {
    static constexpr float widths[] = {3, 0.3f, 20, 1e-4f, 1e6f, 1};
    auto x = random_values<float>(vocab, random, widths[shape % 6]);
    if (shape == 6)  // ties everywhere, of zeros of both signs too
      for (float& v : x) v = std::round(v);
    if (shape == 7) std::fill(x.begin(), x.end(), -2.5f);
    if (shape == 8) x[random() % vocab] = 60;  // one that takes all
    if (shape == 9) x[random() % vocab] = std::numeric_limits<float>::quiet_NaN();
    return x;
  }
  static constexpr int num_shapes = 10;

  row_sampling random_row(std::uint32_t vocab, std::vector<logit_edit>& edits) {
    row_sampling r;
    r.way = random() % 6 == 0 ? sampling_way::greedy : sampling_way::draw;
    if (random() % 10 == 0) r.way = sampling_way::score;
    r.given = random() % vocab;
    r.logprobs = random() % 3 == 0;
    r.num_top = random() % (max_top + 1);
    r.scale = 1 / (0.05f + 1.9f * chance());
    if (random() % 3 == 0) r.min_p = chance() * (random() % 2 == 0 ? 1.0f : 1e-3f);
    if (random() % 2 == 0) r.top_p = std::max(1e-6f, random() % 2 == 0 ? chance() : 0.95f);
    if (random() % 2 == 0) r.top_k = 1 + random() % (random() % 3 == 0 ? vocab + 5 : 50);
    r.random = std::uint64_t{random()} << 32 | random();
    if (random() % 20 == 0) r.random = 0;
    if (random() % 20 == 0) r.random = ~std::uint64_t{0};
    if (random() % 3 == 0) {
      const bool most = random() % 2 == 0;
      for (std::uint32_t t = random() % 3; t < vocab; t += most ? 1 : 1 + random() % vocab) {
        logit_edit e{t, 2 * chance() - 1, 0.5f + chance(), chance()};
        if (random() % (most ? 2 : 5) == 0) e.bias = -std::numeric_limits<float>::infinity();
        edits.push_back(e);
      }
    }
    return r;
  }

  // Of some tokens, of nearly all, of one, of none; and one that ends before the vocabulary does.
  std::vector<std::uint64_t> random_mask(std::uint32_t vocab) {
    const std::uint32_t kind = random() % 5;
    std::vector<std::uint64_t> mask(mask_words(vocab), kind == 1 ? ~std::uint64_t{0} : 0);
    const auto flip = [&](token_id t) { mask[t / 64] ^= std::uint64_t{1} << t % 64; };
    if (kind == 0 || kind == 4)
      for (auto& w : mask) w = std::uint64_t{random()} << 32 | random();
    if (kind == 1 || kind == 2) flip(random() % vocab);
    if (kind == 4) mask.resize(mask.size() / 2 + 1);
    return mask;
  }

  void compare_random(std::uint32_t vocab, int rounds) {
    for (int round = 0; round < rounds && !HasFailure(); ++round) {
      std::vector<std::vector<float>> logits;
      std::vector<row_sampling> rows;
      std::vector<std::vector<logit_edit>> edits;
      std::vector<std::vector<std::uint64_t>> masks;
      for (int i = 0; i < 10; ++i) masks.push_back(random_mask(vocab));
      for (int i = 0; i < 4 * num_shapes; ++i) {
        logits.push_back(logits_of(i % num_shapes, vocab));
        edits.emplace_back();
        rows.push_back(random_row(vocab, edits.back()));
        if (random() % 2 == 0) rows.back().allowed = masks[random() % masks.size()];
      }
      compare(logits, rows, edits, vocab);
    }
  }

  void compare(const std::vector<std::vector<float>>& logits, std::vector<row_sampling> rows,
               const std::vector<std::vector<logit_edit>>& edits, std::uint32_t vocab) {
    std::vector<float> all;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      rows[i].edits = edits[i];
      all.insert(all.end(), logits[i].begin(), logits[i].end());
    }
    const device_array<float> on_device(all);
    const device_array<unsigned long long> argmax(rows.size());
    const auto num_rows = static_cast<std::uint32_t>(rows.size());
    // As on cards of other sizes: rows of one thread block, and of eight.
    auto batch = sample_batch::make(
        num_rows, vocab, random() % 2 == 0 ? 1u << random() % 10 : device.multiprocessors);
    require(batch);
    require(batch->upload(rows, stream));
    require(find_argmax(on_device.data(), num_rows, vocab, argmax.data(), false, stream));
    // In two pieces, as a pass with many rows has it.
    require(batch->enqueue(0, num_rows / 2, on_device.data(), stream));
    require(batch->enqueue(num_rows / 2, num_rows - num_rows / 2,
                           on_device.data() + std::size_t{num_rows / 2} * vocab, stream));
    const auto keys = argmax.fetch();
    const auto got = batch->read(keys.data());
    ASSERT_EQ(got.size(), rows.size());
    engine::sampler host(vocab);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      expect_equal(got[i], host.sample(logits[i], rows[i]), rows[i]);
      ASSERT_FALSE(HasFailure()) << "row " << i << ", vocabulary " << vocab << ", scale "
                                 << rows[i].scale << ", top_k " << rows[i].top_k << ", top_p "
                                 << rows[i].top_p << ", min_p " << rows[i].min_p << ", "
                                 << rows[i].edits.size() << " edits, mask of "
                                 << rows[i].allowed.size() << " words";
    }
  }
};

TEST_F(sampling_test, every_choice_and_logprob_is_the_hosts) {
  for (const std::uint32_t vocab : {1u, 31u, 1000u, 1025u}) compare_random(vocab, 3);
}

TEST_F(sampling_test, every_choice_of_large_vocabularies_is_the_hosts) {
  for (const std::uint32_t vocab : {49152u, 128256u}) compare_random(vocab, 3);
}

// Thousands of tokens share the logit at which top_k or top_p cuts.
TEST_F(sampling_test, thresholds_among_ties_keep_the_lower_tokens) {
  const std::uint32_t vocab = 128256;
  std::vector<float> x(vocab);
  for (auto& v : x) v = static_cast<float>(random() % 3);
  std::vector<std::vector<float>> logits;
  std::vector<row_sampling> rows;
  for (int i = 0; i < 24; ++i) {
    row_sampling r;
    r.way = sampling_way::draw;
    r.random = std::uint64_t{random()} << 32 | random();
    if (i % 2 == 0) r.top_k = 1 + random() % vocab;
    if (i % 3 != 0) r.top_p = std::max(1e-3f, chance());
    rows.push_back(r);
    logits.push_back(x);
  }
  compare(logits, rows, std::vector<std::vector<logit_edit>>(rows.size()), vocab);
}

// Then the runner gives logits. A mask counts once, whatever number of rows has it.
TEST_F(sampling_test, more_masks_than_there_is_room_for_are_told) {
  const std::uint32_t vocab = 2'000'000, most_rows = 500;  // 67 masks fit into 16 MiB
  auto batch = sample_batch::make(most_rows, vocab, device.multiprocessors);
  require(batch);
  std::vector<std::vector<std::uint64_t>> masks(100, std::vector<std::uint64_t>(1, 1));
  std::vector<row_sampling> rows(most_rows);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i].allowed = masks[i % 67];
  EXPECT_TRUE(batch->has_room(rows));
  rows[200].allowed = masks[67];
  EXPECT_FALSE(batch->has_room(rows));
  rows.resize(67);
  EXPECT_TRUE(batch->has_room(rows));
}

TEST_F(sampling_test, nothing_left_and_no_numbers_are_told) {
  const std::uint32_t vocab = 500;
  std::vector<logit_edit> none;
  for (token_id t = 0; t < vocab; ++t)
    none.push_back({t, -std::numeric_limits<float>::infinity(), 1, 0});
  const auto fine = random_values<float>(vocab, random);
  auto bad = fine;
  bad[499] = std::numeric_limits<float>::infinity();
  row_sampling greedy, draw;
  draw.way = sampling_way::draw;
  compare({fine, fine, bad, bad}, {greedy, draw, greedy, draw}, {none, none, {}, {}}, vocab);
}

}  // namespace
}  // namespace troupe::gpu::cuda
