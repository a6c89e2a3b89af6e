#include "gpu/cuda/attention.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "gpu/cuda/step_plan.hpp"
#include "gpu/cuda/tensor_map.hpp"
#include "tests/gpu/cuda/gpu_fixture.hpp"

namespace troupe::gpu::cuda {
namespace {

struct sequence_case {
  std::uint32_t first_position, count;
};

class attention_test : public gpu_test {
 protected:
  void SetUp() override {
    gpu_test::SetUp();
    if (!IsSkipped()) require(prepare_attention());
  }

  // A batch over an arena of random KV in shuffled blocks; runs the plan and keeps what the reference needs.
  struct scene {
    attention_shape shape;
    kv_layout layout;
    std::vector<__half> arena, queries;
    std::vector<__nv_bfloat16> output;
    std::vector<std::vector<block_id>> tables;
    std::vector<std::pair<std::size_t, std::uint32_t>> rows;  // sequence, position
  };

  scene make_scene(const attention_shape& shape, const std::vector<sequence_case>& sequences) {
    scene s;
    s.shape = shape;
    s.layout = {2, shape.num_kv_heads, shape.head_dim, 16, kv_dtype::f16};
    std::uint32_t blocks = 0;
    for (const auto& q : sequences) blocks += s.layout.blocks_for(q.first_position + q.count);
    std::vector<block_id> free(blocks);
    std::iota(free.begin(), free.end(), 0);
    std::shuffle(free.begin(), free.end(), random);
    s.arena = random_values<__half>(blocks * s.layout.block_bytes() / 2, random);
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const std::uint32_t n = s.layout.blocks_for(sequences[i].first_position + sequences[i].count);
      s.tables.emplace_back(free.end() - n, free.end());
      free.resize(free.size() - n);
      for (std::uint32_t t = 0; t < sequences[i].count; ++t)
        s.rows.emplace_back(i, sequences[i].first_position + t);
    }
    s.queries = random_values<__half>(s.rows.size() * shape.num_heads * shape.head_dim, random);
    return s;
  }

  void run(scene& s, const std::vector<sequence_case>& sequences, const plan_options& options,
           bool with_padding) {
    std::vector<token_id> tokens(s.rows.size());
    std::vector<sequence_rows> rows;
    std::size_t at = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      rows.push_back({std::span(tokens).subspan(at, sequences[i].count),
                      sequences[i].first_position, s.tables[i], 1});
      at += sequences[i].count;
    }
    step_plan plan;
    plan.build({rows}, options);
    tile = plan.rounds.back().tile;
    partial_rows = plan.partial_rows;
    num_items = plan.items.size();
    const device_array<__half> arena(s.arena), queries(s.queries);
    const device_array<attention_item> items(plan.items);
    const device_array<std::uint32_t> tables(plan.block_tables);
    const device_array<std::uint32_t> counters(std::size_t{plan.counters + 1} * 2 *
                                               s.shape.num_kv_heads);
    device_array<__nv_bfloat16> output(s.queries.size());
    device_array<float> partial(std::max<std::size_t>(plan.partial_rows, 1) * s.shape.num_heads *
                                s.shape.head_dim);
    device_array<float2> softmax(std::max<std::size_t>(plan.partial_rows, 1) * s.shape.num_heads);
    output.poison();
    partial.poison();
    const auto map =
        make_arena_map(arena.data(), half_type::f16, s.arena.size() * 2 / s.layout.block_bytes(),
                       s.layout.block_bytes(), std::uint64_t{2} * 2 * s.shape.num_kv_heads * 16,
                       s.shape.head_dim, 16)
            .value();
    for (const auto& round : plan.rounds) {
      const device_array<std::uint32_t> count(std::vector<std::uint32_t>{round.items});
      attention_arguments a{};
      a.queries = queries.data();
      a.output = output.data();
      a.items = items.data() + round.first_item;
      a.num_items = count.data();
      a.block_tables = tables.data();
      a.partial_output = partial.data();
      a.partial_softmax = softmax.data();
      a.counters = counters.data();
      a.layer = 1;
      require(attend(s.shape, s.layout, map, round.tile, round.items + (with_padding ? 3 : 0), a,
                     false, stream));
      ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
    }
    s.output = output.fetch();
    for (const std::uint32_t c : counters.fetch())
      ASSERT_EQ(c, 0u) << "a counter was not cleared for the next layer";
  }

  attention_tile tile{};  // of the last run's last round
  std::size_t partial_rows = 0, num_items = 0;

  static std::vector<double> reference(const scene& s, std::size_t row, std::uint32_t head) {
    const auto [sequence, position] = s.rows[row];
    const std::uint32_t dim = s.shape.head_dim, kv_head = head / s.shape.group();
    const auto kv = [&](std::uint32_t p, std::uint32_t value, std::uint32_t d) {
      const std::size_t block = s.tables[sequence][p / 16] * s.layout.block_bytes() / 2;
      return to_float(
          s.arena[block +
                  ((std::size_t{1} * 2 + value) * s.shape.num_kv_heads + kv_head) * 16 * dim +
                  p % 16 * dim + d]);
    };
    std::vector<double> scores(position + 1), out(dim);
    for (std::uint32_t p = 0; p <= position; ++p) {
      for (std::uint32_t d = 0; d < dim; ++d) {
        scores[p] +=
            static_cast<double>(to_float(s.queries[(row * s.shape.num_heads + head) * dim + d])) *
            kv(p, 0, d);
      }
      scores[p] /= std::sqrt(static_cast<double>(dim));
    }
    const double highest = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (std::uint32_t p = 0; p <= position; ++p) {
      const double weight = std::exp(scores[p] - highest);
      sum += weight;
      for (std::uint32_t d = 0; d < dim; ++d) out[d] += weight * kv(p, 1, d);
    }
    for (auto& v : out) v /= sum;
    return out;
  }

  double error_of(const scene& s, std::size_t samples) {
    relative_error error;
    for (std::size_t i = 0; i < samples; ++i) {
      const std::size_t row = random() % s.rows.size();
      const std::uint32_t head = random() % s.shape.num_heads;
      const auto wanted = reference(s, row, head);
      for (std::uint32_t d = 0; d < s.shape.head_dim; ++d) {
        error.add(to_float(s.output[(row * s.shape.num_heads + head) * s.shape.head_dim + d]),
                  wanted[d]);
      }
    }
    return error.value();
  }
};

constexpr attention_shape shapes[] = {
    {6, 2, 64}, {8, 2, 128}, {4, 4, 64}, {16, 2, 128}, {7, 1, 64}};

TEST_F(attention_test, prefill_decode_and_chunks_equal_double_reference) {
  const std::vector<sequence_case> sequences = {{0, 300}, {0, 1},   {1, 1},    {1000, 1}, {127, 1},
                                                {128, 1}, {500, 9}, {65, 190}, {63, 2}};
  for (const attention_shape& shape : shapes) {
    for (const bool exact : {false, true}) {
      plan_options options;
      options.shape = shape;
      options.exact = exact;
      options.exact_split = 256;
      options.max_partial_rows = 512;
      scene s = make_scene(shape, sequences);
      run(s, sequences, options, !exact);
      for (const auto v : s.output)
        ASSERT_FALSE(std::isnan(to_float(v))) << "an output was not written";
      EXPECT_LT(error_of(s, 150), 4e-3)
          << shape.num_heads << " heads, " << shape.num_kv_heads << " kv heads of "
          << shape.head_dim << (exact ? ", exact" : "");
    }
  }
}

TEST_F(attention_test, long_contexts_are_split_and_merged) {
  const std::vector<sequence_case> sequences = {{5000, 1}, {3000, 1}, {4095, 4}};
  plan_options options;
  options.shape = {8, 2, 128};
  scene s = make_scene(options.shape, sequences);
  run(s, sequences, options, true);
  EXPECT_LT(error_of(s, 48), 4e-3);
}

TEST_F(attention_test, prompts_of_many_items_and_parts_equal_double_reference) {
  plan_options options;
  options.shape = {16, 2, 128};
  // More items than twice the multiprocessors, of several sequences; then few tokens behind a long context.
  for (const bool parts : {false, true}) {
    const std::vector<sequence_case> sequences =
        parts ? std::vector<sequence_case>{{3000, 100}}
              : std::vector<sequence_case>{{0, 3000}, {700, 1490}, {0, 100}};
    scene s = make_scene(options.shape, sequences);
    run(s, sequences, options, true);
    ASSERT_EQ(tile, attention_tile::wide);
    ASSERT_EQ(partial_rows > 0, parts);
    ASSERT_TRUE(parts || num_items > 2 * options.multiprocessors);
    for (const auto v : s.output)
      ASSERT_FALSE(std::isnan(to_float(v))) << "an output was not written";
    EXPECT_LT(error_of(s, 150), 4e-3) << (parts ? "in parts" : "whole");
  }
}

TEST_F(attention_test, few_rows_of_every_sequence_equal_double_reference) {
  for (const attention_shape& shape : shapes) {
    // 130 sequences of 300 are not split; the others are.
    for (const std::size_t more : {0, 130}) {
      std::vector<sequence_case> sequences = {{0, 1},   {1, 1},   {62, 2},   {63, 1},   {64, 1},
                                              {127, 1}, {128, 1}, {1000, 1}, {1023, 2}, {5000, 1}};
      if (2 * shape.group() > 8) {
        for (auto& s : sequences) s.count = 1;
      }
      sequences.insert(sequences.end(), more, {300, 1});
      plan_options options;
      options.shape = shape;
      scene s = make_scene(shape, sequences);
      run(s, sequences, options, true);
      ASSERT_EQ(tile, attention_tile::thin);
      for (const auto v : s.output)
        ASSERT_FALSE(std::isnan(to_float(v))) << "an output was not written";
      EXPECT_LT(error_of(s, 150), 4e-3)
          << shape.num_heads << " heads, " << shape.num_kv_heads << " kv heads of "
          << shape.head_dim << ", " << sequences.size() << " sequences";
    }
  }
}

TEST_F(attention_test, exact_rows_do_not_depend_on_chunk_or_batch) {
  for (const attention_shape& shape : {attention_shape{8, 2, 128}, attention_shape{9, 3, 64}}) {
    plan_options options;
    options.shape = shape;
    options.exact = true;
    options.exact_split = 256;
    const std::vector<sequence_case> whole = {{0, 700}};
    scene all = make_scene(shape, whole);
    run(all, whole, options, false);
    for (const auto& [first, count] :
         {std::pair{699u, 1u}, {600u, 100u}, {250u, 13u}, {0u, 3u}, {511u, 2u}}) {
      scene part = all;
      const std::vector<sequence_case> chunk = {{first, count}};
      const std::size_t width = std::size_t{shape.num_heads} * shape.head_dim;
      part.rows.assign(all.rows.begin() + first, all.rows.begin() + first + count);
      part.queries.assign(all.queries.begin() + first * width,
                          all.queries.begin() + (first + count) * width);
      run(part, chunk, options, true);
      EXPECT_EQ(
          0, std::memcmp(part.output.data(), all.output.data() + first * width, count * width * 2))
          << first << " + " << count;
    }
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda
