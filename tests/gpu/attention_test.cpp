#include <cmath>

#include "tests/gpu/host_fixture.hpp"

namespace troupe::gpu::host {
namespace {

using testing::runnable_isas;

// Keys and values of one KV head, and queries that see different numbers of tokens.
struct problem {
  problem(std::uint32_t dim, std::uint32_t num_tokens, std::uint32_t num_queries)
      : head_dim(dim), tokens(num_tokens) {
    testing::test_random random{dim * 7 + num_tokens};
    const auto fill = [&](std::vector<float>& out, std::size_t n, float scale) {
      out.resize(n);
      for (auto& x : out) x = scale * random.uniform();
    };
    fill(k, std::size_t{tokens} * dim, 2);
    fill(v, std::size_t{tokens} * dim, 1);
    fill(q, std::size_t{num_queries} * dim, 1);
    k16.resize(k.size());
    v16.resize(v.size());
    kernels_portable().store_f16(k.data(), k16.data(), static_cast<std::uint32_t>(k.size()));
    kernels_portable().store_f16(v.data(), v16.data(), static_cast<std::uint32_t>(v.size()));
    for (std::uint32_t i = 0; i < num_queries; ++i)
      visible.push_back(tokens - std::min(tokens - 1, 3 * i));
  }
  std::uint32_t head_dim, tokens;
  std::vector<float> k, v, q;
  std::vector<std::uint16_t> k16, v16;
  std::vector<std::uint32_t> visible;
};

// One tile after another, as forward_pass does; outputs divided by their sums.
std::vector<float> attend(const kernel_table& kernels, const problem& p) {
  const std::size_t n = p.visible.size();
  std::vector<float> out(n * p.head_dim), keys(p.head_dim * attention_tile), values(keys.size());
  std::vector<attention_state> states(n);
  for (std::size_t i = 0; i < n; ++i) states[i] = {-HUGE_VALF, 0, out.data() + i * p.head_dim};
  for (std::uint32_t token = 0; token < p.tokens; token += attention_tile) {
    kv_tile tile;
    tile.num_tokens = std::min(attention_tile, p.tokens - token);
    for (std::uint32_t t = 0; t < tile.num_tokens; ++t) {
      tile.k[t] = p.k16.data() + std::size_t{token + t} * p.head_dim;
      tile.v[t] = p.v16.data() + std::size_t{token + t} * p.head_dim;
    }
    std::vector<const float*> queries;
    std::vector<std::uint32_t> visible;
    std::vector<attention_state> seen;
    std::vector<std::size_t> index;
    for (std::size_t i = 0; i < n; ++i) {
      if (p.visible[i] <= token) continue;
      queries.push_back(p.q.data() + i * p.head_dim);
      visible.push_back(std::min(tile.num_tokens, p.visible[i] - token));
      seen.push_back(states[i]);
      index.push_back(i);
    }
    const auto* next = reinterpret_cast<const std::byte*>(p.k16.data());
    const read_ahead::run run{next, next + 2 * p.k16.size()};
    read_ahead ahead{&run, &run + 1};
    kernels.attend({&tile, &ahead, p.head_dim, static_cast<std::uint32_t>(queries.size()),
                    queries.data(), visible.data(), seen.data(), keys.data(), values.data()});
    for (std::size_t i = 0; i < index.size(); ++i) states[index[i]] = seen[i];
  }
  for (std::size_t i = 0; i < n; ++i)
    for (std::uint32_t d = 0; d < p.head_dim; ++d) out[i * p.head_dim + d] /= states[i].sum;
  return out;
}

class attention
    : public ::testing::TestWithParam<std::tuple<std::uint32_t, std::uint32_t, std::uint32_t>> {};

TEST_P(attention, agrees_with_double_precision_and_has_the_same_bits) {
  const auto [dim, tokens, queries] = GetParam();
  const problem p(dim, tokens, queries);
  const auto expected = attend(kernels_portable(), p);
  for (std::size_t i = 0; i < queries; ++i) {
    std::vector<double> weight(p.visible[i]), exact(dim);
    double sum = 0;
    for (std::size_t t = 0; t < p.visible[i]; ++t) {
      double s = 0;
      for (std::size_t d = 0; d < dim; ++d)
        s += static_cast<double>(p.q[i * dim + d]) * p.k[t * dim + d];
      sum += weight[t] = std::exp(s);
    }
    for (std::size_t t = 0; t < p.visible[i]; ++t)
      for (std::size_t d = 0; d < dim; ++d) exact[d] += weight[t] / sum * p.v[t * dim + d];
    for (std::size_t d = 0; d < dim; ++d)
      ASSERT_NEAR(expected[i * dim + d], exact[d], 4e-3) << "query " << i;
  }
  for (const std::string& isa : runnable_isas())
    ASSERT_TRUE(testing::same_bits(attend(**choose_kernels(isa), p), expected)) << isa;
}

TEST_P(attention, a_query_does_not_depend_on_the_others) {
  const auto [dim, tokens, queries] = GetParam();
  const problem p(dim, tokens, queries);
  for (const std::string& isa : runnable_isas()) {
    const auto together = attend(**choose_kernels(isa), p);
    for (std::size_t i = 0; i < queries; i += 5) {
      problem alone = p;
      alone.q.assign(p.q.begin() + static_cast<std::ptrdiff_t>(i * dim),
                     p.q.begin() + static_cast<std::ptrdiff_t>((i + 1) * dim));
      alone.visible = {p.visible[i]};
      const auto out = attend(**choose_kernels(isa), alone);
      ASSERT_TRUE(testing::same_bits(out, std::span(together).subspan(i * dim, dim)))
          << isa << " query " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(shapes, attention,
                         ::testing::Combine(::testing::Values(16u, 64u, 80u, 96u, 112u, 128u, 256u),
                                            ::testing::Values(1u, 15u, 33u, 64u, 65u, 200u),
                                            ::testing::Values(1u, 2u, 3u, 4u, 5u, 7u, 8u, 13u,
                                                              29u)));

TEST(read_ahead, goes_through_its_runs_once) {
  const std::vector<std::byte> memory(640);
  const std::byte* p = memory.data();
  const read_ahead::run runs[] = {{p, p + 128}, {p + 256, p + 256}, {p + 320, p + 352}};
  read_ahead ahead{runs, runs + 3};
  ahead.fetch(1);
  EXPECT_EQ(ahead.now.begin, p + 64);
  ahead.fetch(1);
  EXPECT_EQ(ahead.now.begin, p + 128);
  EXPECT_EQ(ahead.next, runs + 1);
}

// A tile with as many bytes as what is read ahead fetches all of it, and nothing more.
TEST(read_ahead, keeps_step_with_a_tile) {
  for (const std::string& isa : runnable_isas()) {
    for (const std::uint32_t queries : {1u, 3u, 29u}) {
      const std::uint32_t dim = 64;
      const problem p(dim, attention_tile, queries);
      const std::vector<std::uint32_t> visible(queries, attention_tile);
      kv_tile tile;
      tile.num_tokens = attention_tile;
      for (std::uint32_t t = 0; t < attention_tile; ++t) {
        tile.k[t] = p.k16.data() + t * dim;
        tile.v[t] = p.v16.data() + t * dim;
      }
      std::vector<float> out(queries * dim), keys(attention_tile * dim), values(keys.size());
      std::vector<attention_state> states(queries);
      std::vector<const float*> q(queries);
      for (std::uint32_t k = 0; k < queries; ++k) {
        q[k] = p.q.data() + k * dim;
        states[k] = {-HUGE_VALF, 0, out.data() + k * dim};
      }
      const auto whole = [](const std::vector<std::uint16_t>& x) {
        const auto* begin = reinterpret_cast<const std::byte*>(x.data());
        return read_ahead::run{begin, begin + 2 * x.size()};
      };
      const read_ahead::run runs[] = {whole(p.k16), whole(p.v16), whole(p.k16)};
      read_ahead ahead{runs, runs + 3};
      (*choose_kernels(isa))
          ->attend({&tile, &ahead, dim, queries, q.data(), visible.data(), states.data(),
                    keys.data(), values.data()});
      EXPECT_EQ(ahead.now.begin, runs[1].end) << isa << ", " << queries << " queries";
      EXPECT_EQ(ahead.next, runs + 2) << isa << ", " << queries << " queries";
    }
  }
}

TEST(attention_merge, of_two_halves_is_the_whole) {
  std::vector<float> expected;
  for (const std::string& isa : runnable_isas()) {
    std::vector<float> a(32, 0.25f), b(32, -1.5f);
    attention_state total{2.0f, 3.0f, a.data()};
    const attention_state segment{4.0f, 0.5f, b.data()};
    (*choose_kernels(isa))->merge(total, segment, 32);
    EXPECT_EQ(total.highest, 4.0f);
    EXPECT_NEAR(total.sum, 3 * std::exp(-2.0) + 0.5, 1e-6);
    EXPECT_NEAR(a[7], 0.25 * std::exp(-2.0) - 1.5, 1e-6);
    if (expected.empty()) expected = a;
    EXPECT_TRUE(testing::same_bits(a, expected)) << isa;
  }
}

}  // namespace
}  // namespace troupe::gpu::host
