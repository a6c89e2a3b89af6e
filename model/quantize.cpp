#include "model/quantize.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace troupe::model {
namespace {

template <class T>
void store(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

// IEEE 754 binary16, to nearest, ties to even; what is too large becomes infinite.
std::uint16_t half_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // 65520 and more
  if (magnitude < 0x38800000u) {                        // subnormal: multiples of 2^-24
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return sign | static_cast<std::uint16_t>(std::nearbyint(scaled));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return sign | static_cast<std::uint16_t>((rounded - (112u << 23)) >> 13);
}

void f32_block(const float* in, std::byte* out) {
  store(out, *in);
}
void f16_block(const float* in, std::byte* out) {
  store(out, half_of(*in));
}
void bf16_block(const float* in, std::byte* out) {
  const auto bits = std::bit_cast<std::uint32_t>(*in);
  if ((bits & 0x7fffffffu) > 0x7f800000u)
    store(out, static_cast<std::uint16_t>((bits >> 16) | 64u));
  else
    store(out, static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16));
}

constexpr int block = 32;

float inverse(float d) {
  return d != 0 ? 1.0f / d : 0.0f;
}

// The value that is farthest from 0, with its sign.
float farthest(const float* in) {
  float best = 0, magnitude = 0;
  for (int i = 0; i < block; ++i)
    if (std::fabs(in[i]) > magnitude) {
      magnitude = std::fabs(in[i]);
      best = in[i];
    }
  return best;
}

// 0 .. most; what is no number becomes 0.
std::uint8_t quant(float scaled, int most) {
  if (!(scaled > 0)) return 0;
  return static_cast<std::uint8_t>(std::min(static_cast<float>(most), std::floor(scaled)));
}

struct scaled_block {
  float d, m;
  std::uint8_t q[block];
};

// The farthest value becomes the lowest quant, -half, so that its sign decides that of d.
scaled_block around_zero(const float* in, int half) {
  scaled_block b{farthest(in) / static_cast<float>(-half), 0, {}};
  const float id = inverse(b.d);
  for (int i = 0; i < block; ++i)
    b.q[i] = quant(in[i] * id + (static_cast<float>(half) + 0.5f), 2 * half - 1);
  return b;
}

scaled_block above_minimum(const float* in, int most) {
  const auto [least, largest] = std::minmax_element(in, in + block);
  scaled_block b{(*largest - *least) / static_cast<float>(most), *least, {}};
  const float id = inverse(b.d);
  for (int i = 0; i < block; ++i) b.q[i] = quant((in[i] - b.m) * id + 0.5f, most);
  return b;
}

void nibbles(const scaled_block& b, std::byte* out) {
  for (int i = 0; i < block / 2; ++i)
    out[i] = static_cast<std::byte>((b.q[i] & 15) | (b.q[i + block / 2] & 15) << 4);
}

std::uint32_t fifth_bits(const scaled_block& b) {
  std::uint32_t bits = 0;
  for (int i = 0; i < block; ++i) bits |= static_cast<std::uint32_t>(b.q[i] >> 4) << i;
  return bits;
}

void q4_0_block(const float* in, std::byte* out) {
  const auto b = around_zero(in, 8);
  store(out, half_of(b.d));
  nibbles(b, out + 2);
}

void q4_1_block(const float* in, std::byte* out) {
  const auto b = above_minimum(in, 15);
  store(out, half_of(b.d));
  store(out + 2, half_of(b.m));
  nibbles(b, out + 4);
}

void q5_0_block(const float* in, std::byte* out) {
  const auto b = around_zero(in, 16);
  store(out, half_of(b.d));
  store(out + 2, fifth_bits(b));
  nibbles(b, out + 6);
}

void q5_1_block(const float* in, std::byte* out) {
  const auto b = above_minimum(in, 31);
  store(out, half_of(b.d));
  store(out + 2, half_of(b.m));
  store(out + 4, fifth_bits(b));
  nibbles(b, out + 8);
}

void q8_0_block(const float* in, std::byte* out) {
  const float d = std::fabs(farthest(in)) / 127.0f;
  const float id = inverse(d);
  store(out, half_of(d));
  for (int i = 0; i < block; ++i) {
    const float scaled = std::round(in[i] * id);
    store(out + 2 + i, static_cast<std::int8_t>(
                           std::isnan(scaled) ? 0.0f : std::clamp(scaled, -127.0f, 127.0f)));
  }
}

using block_function = void (*)(const float*, std::byte*);

block_function quantizer(tensor_type type) {
  switch (type) {
    case tensor_type::f32:
      return f32_block;
    case tensor_type::f16:
      return f16_block;
    case tensor_type::bf16:
      return bf16_block;
    case tensor_type::q4_0:
      return q4_0_block;
    case tensor_type::q4_1:
      return q4_1_block;
    case tensor_type::q5_0:
      return q5_0_block;
    case tensor_type::q5_1:
      return q5_1_block;
    case tensor_type::q8_0:
      return q8_0_block;
    default:
      return nullptr;
  }
}

}  // namespace

std::optional<tensor_type> find_writable_type(std::string_view name) {
  for (const auto t : {tensor_type::f32, tensor_type::f16, tensor_type::bf16, tensor_type::q8_0,
                       tensor_type::q5_1, tensor_type::q5_0, tensor_type::q4_1, tensor_type::q4_0})
    if (info(t).name == name) return t;
  return std::nullopt;
}

void quantize_row(tensor_type type, std::span<const float> in, std::span<std::byte> out) {
  const auto& about = info(type);
  const auto write = quantizer(type);
  TROUPE_ASSERT(write != nullptr);
  TROUPE_ASSERT(in.size() % about.block_size == 0);
  TROUPE_ASSERT(out.size() == in.size() / about.block_size * about.block_bytes);
  std::byte* at = out.data();
  for (std::size_t i = 0; i < in.size(); i += about.block_size, at += about.block_bytes)
    write(in.data() + i, at);
}

}  // namespace troupe::model
