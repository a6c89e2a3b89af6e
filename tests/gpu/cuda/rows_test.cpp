#include "gpu/cuda/rows.hpp"

#include <cuda_fp8.h>

#include "tests/gpu/cuda/gpu_fixture.hpp"
#include "tests/gpu/cuda/tiled.hpp"

namespace troupe::gpu::cuda {
namespace {

class rows_test : public gpu_test {};

// Of a table that is the LM head too, where embeddings are tied.
TEST_F(rows_test, embed_reads_rows_of_tiles) {
  for (const std::uint32_t hidden : {576u, 584u, 4096u}) {
    const std::uint32_t vocab = 1003, rows = 70;
    const auto values = random_values<__nv_bfloat16>(vocab * hidden, random);
    const device_array<__nv_bfloat16> table(to_tiles(values, vocab, hidden));
    std::vector<std::uint32_t> tokens(rows);
    for (auto& t : tokens) t = random() % vocab;
    tokens[0] = vocab - 1;
    const device_array<std::uint32_t> tokens_device(tokens);
    device_array<float> residual(rows * hidden);
    device_array<unsigned long long> argmax(rows);
    residual.poison();
    argmax.poison();
    require(embed(
        {table.data(), {}, tokens_device.data(), residual.data(), argmax.data(), rows, hidden},
        false, stream));
    const auto got = residual.fetch();
    for (std::uint32_t r = 0; r < rows; ++r) {
      for (std::uint32_t i = 0; i < hidden; ++i) {
        ASSERT_EQ(got[r * hidden + i], to_float(values[tokens[r] * hidden + i])) << r << "," << i;
      }
    }
    EXPECT_EQ(argmax.fetch(), std::vector<unsigned long long>(rows));
  }
}

TEST_F(rows_test, norm_adds_partials_and_gathers) {
  for (const std::uint32_t hidden : {576u, 4096u, 8192u}) {
    const std::uint32_t rows = 5, splits = 3;
    const auto residual = random_values<float>(rows * hidden, random);
    const auto partial = random_values<float>(splits * rows * hidden, random);
    const auto weight = random_values<float>(hidden, random);
    const device_array<float> residual_device(residual), partial_device(partial),
        weight_device(weight);
    const device_array<std::uint32_t> gather(std::vector<std::uint32_t>{4, 0});
    device_array<__nv_bfloat16> gathered(2 * hidden), normed(rows * hidden);
    norm_arguments a{residual_device.data(),
                     {partial_device.data(), nullptr, splits},
                     rows,
                     weight_device.data(),
                     gathered.data(),
                     gather.data(),
                     2,
                     hidden,
                     1e-5f};
    require(add_and_normalize(a, false, stream));
    a.normed = normed.data();
    a.gather = nullptr;
    a.rows = rows;
    require(add_and_normalize(a, false, stream));
    const auto got = normed.fetch(), some = gathered.fetch();
    const auto sums = residual_device.fetch();
    relative_error error, sum_error;
    for (std::uint32_t r = 0; r < rows; ++r) {
      std::vector<double> x(hidden);
      double squares = 0;
      for (std::uint32_t i = 0; i < hidden; ++i) {
        x[i] = residual[r * hidden + i];
        for (std::uint32_t s = 0; s < splits; ++s) x[i] += partial[(s * rows + r) * hidden + i];
        squares += x[i] * x[i];
        sum_error.add(sums[r * hidden + i], x[i]);
      }
      const double scale = 1 / std::sqrt(squares / hidden + 1e-5);
      for (std::uint32_t i = 0; i < hidden; ++i) {
        error.add(to_float(got[r * hidden + i]), x[i] * scale * weight[i]);
        if (r == 4) error.add(to_float(some[i]), x[i] * scale * weight[i]);
        if (r == 0) error.add(to_float(some[hidden + i]), x[i] * scale * weight[i]);
      }
    }
    EXPECT_LT(sum_error.value(), 1e-6) << hidden;
    EXPECT_LT(error.value(), 3e-3) << hidden;
  }
}

// In E4M3, of 16 values in the order of words {2 t, 2 t + 1, 2 t + 8, 2 t + 9}; each row by its own scale.
TEST_F(rows_test, norm_quantizes_what_it_would_store) {
  for (const std::uint32_t hidden : {576u, 4096u, 5120u, 16384u}) {
    const std::uint32_t rows = 5;
    auto residual = random_values<float>(rows * hidden, random);
    std::fill_n(residual.begin() + 2 * hidden, hidden, 0.0f);
    const auto update = random_values<__nv_bfloat16>(rows * hidden, random, 1e-3f);
    const auto weight = random_values<float>(hidden, random);
    const device_array<float> first(residual), second(residual), weights(weight), scales(rows);
    const device_array<__nv_bfloat16> updates(update), normed(rows * hidden);
    const device_array<std::uint8_t> quantized(rows * hidden);
    norm_arguments a{first.data(),  {nullptr, updates.data(), 0},
                     rows,          weights.data(),
                     normed.data(), nullptr,
                     rows,          hidden,
                     1e-5f};
    require(add_and_normalize(a, false, stream));
    a.residual = second.data();
    a.normed = nullptr;
    a.quantized = quantized.data();
    a.scales = scales.data();
    require(add_and_normalize(a, false, stream));
    EXPECT_EQ(first.fetch(), second.fetch());
    const auto wanted = normed.fetch();
    const auto bytes = quantized.fetch();
    const auto scale = scales.fetch();
    for (std::uint32_t r = 0; r < rows; ++r) {
      float largest = 0;
      for (std::uint32_t i = 0; i < hidden; ++i) {
        const float value = to_float(wanted[r * hidden + i]);
        const std::uint32_t within = i % 16, place = within % 8 / 2 * 4 + within / 8 * 2 + i % 2;
        const auto byte = bytes[r * hidden + i / 16 * 16 + place];
        const float got = __half2float(__half(__nv_cvt_fp8_to_halfraw(byte, __NV_E4M3))) * scale[r];
        largest = std::max(largest, std::abs(value));
        ASSERT_NEAR(got, value, std::abs(value) / 14 + scale[r] * 0x1p-9f) << r << "," << i;
      }
      EXPECT_NEAR(scale[r], largest / 448, largest / 448 / 100) << r;
    }
  }
}

TEST_F(rows_test, rotary_writes_queries_and_kv_slots) {
  for (const auto& [interleaved, with_norm] :
       {std::pair{true, true}, {false, true}, {true, false}, {false, false}}) {
    for (const std::uint32_t head_dim : {64u, 128u}) {
      const std::uint32_t rows = 4, heads = 6, kv_heads = 2,
                          width = (heads + 2 * kv_heads) * head_dim, pairs = head_dim / 2;
      const std::uint32_t block_tokens = 16, blocks = 4;
      const std::size_t block_bytes = 4 * kv_heads * block_tokens * head_dim * 2 + 64,
                        layer_offset = block_bytes / 2 - 32;
      const auto qkv = random_values<float>(2 * rows * width, random);
      const auto bias = random_values<float>(width, random),
                 norm = random_values<float>(head_dim, random);
      std::vector<float> inv_freq(pairs);
      for (std::uint32_t i = 0; i < pairs; ++i)
        inv_freq[i] = std::pow(10000.0f, -2.0f * i / head_dim);
      const device_array<float> qkv_device(qkv), bias_device(bias), norm_device(norm),
          freq(inv_freq);
      device_array<float2> angles(5000 * pairs);
      require(fill_angles(freq.data(), 1.0f, 5000, pairs, angles.data(), stream));
      const std::vector<std::uint32_t> positions = {0, 17, 4999, 40}, slots = {0, 33, 18, no_slot};
      const device_array<std::uint32_t> positions_device(positions), slots_device(slots);
      device_array<__half> queries(rows * heads * head_dim);
      device_array<std::byte> arena(blocks * block_bytes);
      rotary_arguments a{};
      a.qkv = {qkv_device.data(), nullptr, 2};
      a.bias = bias_device.data();
      a.q_norm = with_norm ? norm_device.data() : nullptr;
      a.epsilon = 1e-6f;
      a.angles = angles.data();
      a.positions = positions_device.data();
      a.slots = slots_device.data();
      a.queries = queries.data();
      a.arena = arena.data();
      a.block_bytes = block_bytes;
      a.layer_offset = layer_offset;
      a.rows = rows;
      a.num_heads = heads;
      a.num_kv_heads = kv_heads;
      a.head_dim = a.dimensions = head_dim;
      a.block_tokens = block_tokens;
      a.interleaved = interleaved;
      require(rotate_and_store(a, false, stream));
      const auto q = queries.fetch();
      const auto kv = arena.fetch();
      relative_error error;
      for (std::uint32_t r = 0; r < rows; ++r) {
        for (std::uint32_t h = 0; h < heads + 2 * kv_heads; ++h) {
          std::vector<double> x(head_dim), y(head_dim);
          double squares = 0;
          for (std::uint32_t d = 0; d < head_dim; ++d) {
            const std::uint32_t at = h * head_dim + d;
            x[d] =
                qkv[r * width + at] + static_cast<double>(qkv[(rows + r) * width + at]) + bias[at];
            squares += x[d] * x[d];
          }
          if (h < heads && with_norm) {
            for (std::uint32_t d = 0; d < head_dim; ++d)
              x[d] *= norm[d] / std::sqrt(squares / head_dim + 1e-6);
          }
          y = x;
          for (std::uint32_t p = 0; p < pairs && h < heads + kv_heads; ++p) {
            const std::uint32_t i = interleaved ? 2 * p : p,
                                j = interleaved ? 2 * p + 1 : p + pairs;
            const double angle = static_cast<double>(positions[r]) * inv_freq[p];
            y[i] = x[i] * std::cos(angle) - x[j] * std::sin(angle);
            y[j] = x[j] * std::cos(angle) + x[i] * std::sin(angle);
          }
          if (h >= heads && slots[r] == no_slot) continue;
          for (std::uint32_t d = 0; d < head_dim; ++d) {
            __half got = h < heads ? q[(r * heads + h) * head_dim + d] : __half{};
            if (h >= heads) {
              const std::size_t at =
                  slots[r] / block_tokens * block_bytes + layer_offset +
                  (((h - heads) * block_tokens + slots[r] % block_tokens) * head_dim + d) * 2;
              got = *reinterpret_cast<const __half*>(kv.data() + at);
            }
            error.add(to_float(got), y[d]);
          }
        }
      }
      EXPECT_LT(error.value(), 5e-4) << head_dim << (interleaved ? " interleaved" : " halves");
    }
  }
}

TEST_F(rows_test, argmax_takes_the_first_of_equals) {
  const std::uint32_t rows = 3, vocab = 49152;
  auto logits = random_values<float>(rows * vocab, random);
  logits[100] = logits[5] = logits[40000] = 99;
  logits[vocab + 49151] = 50;
  for (std::uint32_t i = 0; i < vocab; ++i) logits[2 * vocab + i] = -1 - static_cast<float>(i);
  const device_array<float> logits_device(logits);
  const device_array<unsigned long long> keys(rows);
  require(find_argmax(logits_device.data(), rows, vocab, keys.data(), false, stream));
  const auto got = keys.fetch();
  EXPECT_EQ(argmax_index(got[0]), 5u);
  EXPECT_EQ(argmax_index(got[1]), 49151u);
  EXPECT_EQ(argmax_index(got[2]), 0u);
  for (const auto key : got) EXPECT_TRUE(argmax_is_finite(key));
}

TEST_F(rows_test, argmax_tells_of_logits_that_are_no_numbers) {
  const std::uint32_t vocab = 1000;
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
        std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    auto logits = random_values<float>(vocab, random);
    logits[random() % vocab] = bad;
    const device_array<float> logits_device(logits);
    const device_array<unsigned long long> key(1);
    require(find_argmax(logits_device.data(), 1, vocab, key.data(), false, stream));
    EXPECT_FALSE(argmax_is_finite(key.fetch()[0])) << bad;
  }
}

TEST_F(rows_test, keys_are_left_in_the_hosts_memory) {
  std::vector<unsigned long long> values(700);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = (1ull << 40) + i;
  const device_array<unsigned long long> from(values);
  const auto to =
      std::move(pinned_buffer<unsigned long long>::make(values.size(), "a test").value());
  for (const std::uint32_t count : {1u, 256u, 699u}) {
    std::fill_n(to.data(), values.size(), 0);
    require(leave_to_host(from.data(), to.data(), count, stream));
    ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(to.data()[i], i < count ? values[i] : 0) << i << " of " << count;
  }
}

TEST_F(rows_test, plans_are_taken_from_the_hosts_memory) {
  constexpr std::size_t most = (2u << 20) + 13;
  const auto from = std::move(pinned_buffer<std::uint8_t>::make(most, "a test").value());
  for (std::size_t i = 0; i < most; ++i) from.data()[i] = static_cast<std::uint8_t>(i % 251 + 1);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{4}, std::size_t{16},
                                  std::size_t{4095}, std::size_t{70000}, most}) {
    const device_array<std::uint8_t> to(std::vector<std::uint8_t>(most + 1));
    require(take_from_host(from.data(), to.data(), bytes, stream));
    ASSERT_EQ(cudaSuccess, cudaStreamSynchronize(stream));
    const auto got = to.fetch();
    for (std::size_t i = 0; i <= most; ++i)
      ASSERT_EQ(got[i], i < bytes ? from.data()[i] : 0) << i << " of " << bytes;
  }
}

}  // namespace
}  // namespace troupe::gpu::cuda
