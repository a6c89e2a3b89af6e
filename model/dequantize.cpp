// Reference dequantizers. Block layouts and the order of arithmetic are those of ggml's CPU
// reference (ggml/src/ggml-quants.c, dequantize_row_*): every operation rounds to float as there,
// none is fused.
#include <bit>
#include <cstring>

#include "model/tensor.hpp"

namespace troupe::model {

namespace {

// Blocks lie at any address: every read goes through memcpy.
template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

std::uint8_t u8(const std::byte* at) {
  return static_cast<std::uint8_t>(*at);
}

// IEEE 754 binary16; exact, subnormals and NaN payloads included.
float half(const std::byte* at) {
  const auto bits = load<std::uint16_t>(at);
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
  const std::uint32_t exponent = (bits >> 10) & 31u;
  const std::uint32_t fraction = bits & 0x3ffu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
}

void f32_block(const std::byte* in, float* out) {
  *out = load<float>(in);
}
void f16_block(const std::byte* in, float* out) {
  *out = half(in);
}
void bf16_block(const std::byte* in, float* out) {
  *out = std::bit_cast<float>(static_cast<std::uint32_t>(load<std::uint16_t>(in)) << 16);
}

// E4M3 without infinities ("FP8 Formats for Deep Learning", 2209.05433): exponent bias 7, all ones but the sign are NaN.
void f8_e4m3_block(const std::byte* in, float* out) {
  const std::uint32_t bits = u8(in), exponent = bits >> 3 & 15, fraction = bits & 7;
  float value = 0;
  if ((bits & 0x7f) == 0x7f)
    value = std::bit_cast<float>(0x7fc00000u);
  else if (exponent == 0)
    value = static_cast<float>(fraction) * 0x1p-9f;
  else
    value = std::bit_cast<float>((exponent + 120) << 23 | fraction << 20);
  *out = (bits & 0x80) != 0 ? -value : value;
}

// d[2], 16 bytes: low nibbles are values 0..15, high nibbles 16..31.
void q4_0_block(const std::byte* in, float* out) {
  const float d = half(in);
  for (int i = 0; i < 16; ++i) {
    const int q = u8(in + 2 + i);
    out[i] = static_cast<float>((q & 15) - 8) * d;
    out[i + 16] = static_cast<float>((q >> 4) - 8) * d;
  }
}

// d[2], m[2], 16 bytes of nibbles.
void q4_1_block(const std::byte* in, float* out) {
  const float d = half(in), m = half(in + 2);
  for (int i = 0; i < 16; ++i) {
    const int q = u8(in + 4 + i);
    out[i] = static_cast<float>(q & 15) * d + m;
    out[i + 16] = static_cast<float>(q >> 4) * d + m;
  }
}

// d[2], fifth bits[4], 16 bytes of nibbles.
void q5_0_block(const std::byte* in, float* out) {
  const float d = half(in);
  const auto high = load<std::uint32_t>(in + 2);
  for (int i = 0; i < 16; ++i) {
    const int q = u8(in + 6 + i);
    const int high0 = static_cast<int>((high >> i) & 1) << 4;
    const int high1 = static_cast<int>((high >> (i + 16)) & 1) << 4;
    out[i] = static_cast<float>(((q & 15) | high0) - 16) * d;
    out[i + 16] = static_cast<float>(((q >> 4) | high1) - 16) * d;
  }
}

// d[2], m[2], fifth bits[4], 16 bytes of nibbles.
void q5_1_block(const std::byte* in, float* out) {
  const float d = half(in), m = half(in + 2);
  const auto high = load<std::uint32_t>(in + 4);
  for (int i = 0; i < 16; ++i) {
    const int q = u8(in + 8 + i);
    const int high0 = static_cast<int>((high >> i) & 1) << 4;
    const int high1 = static_cast<int>((high >> (i + 16)) & 1) << 4;
    out[i] = static_cast<float>((q & 15) | high0) * d + m;
    out[i + 16] = static_cast<float>((q >> 4) | high1) * d + m;
  }
}

// d[2], 32 signed bytes.
void q8_0_block(const std::byte* in, float* out) {
  const float d = half(in);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(load<std::int8_t>(in + 2 + i)) * d;
}

// Scale and minimum of sub-block j of 8: six bits each, packed into 12 bytes.
struct scale_min {
  int scale, min;
};
scale_min k_scale(const std::byte* scales, int j) {
  if (j < 4) return {u8(scales + j) & 63, u8(scales + j + 4) & 63};
  const int low = u8(scales + j + 4);
  return {(low & 15) | ((u8(scales + j - 4) >> 6) << 4), (low >> 4) | ((u8(scales + j) >> 6) << 4)};
}

// d[2], dmin[2], scales[12], 128 bytes: each 32 hold sub-blocks 2j (low nibbles) and 2j+1 (high
// nibbles).
void q4_k_block(const std::byte* in, float* out) {
  const float d = half(in), dmin = half(in + 2);
  const std::byte* quants = in + 16;
  for (int j = 0; j < 8; ++j) {
    const auto [scale, min] = k_scale(in + 4, j);
    const float ds = d * static_cast<float>(scale), ms = dmin * static_cast<float>(min);
    const std::byte* q = quants + (j / 2) * 32;
    const int shift = (j & 1) * 4;
    for (int i = 0; i < 32; ++i)
      out[j * 32 + i] = ds * static_cast<float>((u8(q + i) >> shift) & 15) - ms;
  }
}

// d[2], dmin[2], scales[12], fifth bits[32] (bit j of byte i is value i of sub-block j), 128 bytes
// as Q4_K.
void q5_k_block(const std::byte* in, float* out) {
  const float d = half(in), dmin = half(in + 2);
  const std::byte* high = in + 16;
  const std::byte* quants = in + 48;
  for (int j = 0; j < 8; ++j) {
    const auto [scale, min] = k_scale(in + 4, j);
    const float ds = d * static_cast<float>(scale), ms = dmin * static_cast<float>(min);
    const std::byte* q = quants + (j / 2) * 32;
    const int shift = (j & 1) * 4;
    for (int i = 0; i < 32; ++i) {
      const int value = ((u8(q + i) >> shift) & 15) | (((u8(high + i) >> j) & 1) << 4);
      out[j * 32 + i] = ds * static_cast<float>(value) - ms;
    }
  }
}

// low nibbles[128], high pairs[64], signed scales[16] of 16 values each, d[2]. Halves of 128
// values; in each, value 32k + i takes nibble k / 2 of low byte 32 (k & 1) + i and bit pair k of
// high byte i.
void q6_k_block(const std::byte* in, float* out) {
  const float d = half(in + 208);
  for (int h = 0; h < 2; ++h) {
    const std::byte* low = in + h * 64;
    const std::byte* high = in + 128 + h * 32;
    const std::byte* scales = in + 192 + h * 8;
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < 32; ++i) {
        const int nibble = (u8(low + 32 * (k & 1) + i) >> ((k / 2) * 4)) & 15;
        const int q = (nibble | (((u8(high + i) >> (2 * k)) & 3) << 4)) - 32;
        const auto scale = static_cast<float>(load<std::int8_t>(scales + 2 * k + i / 16));
        out[h * 128 + k * 32 + i] = d * scale * static_cast<float>(q);
      }
  }
}

using block_function = void (*)(const std::byte*, float*);

block_function dequantizer(tensor_type type) {
  switch (type) {
    case tensor_type::f32:
      return f32_block;
    case tensor_type::f16:
      return f16_block;
    case tensor_type::bf16:
      return bf16_block;
    case tensor_type::f8_e4m3:
      return f8_e4m3_block;
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
    case tensor_type::q4_k:
      return q4_k_block;
    case tensor_type::q5_k:
      return q5_k_block;
    case tensor_type::q6_k:
      return q6_k_block;
  }
  return nullptr;
}

float scale_at(const scale_values& scales, std::uint64_t index) {
  TROUPE_ASSERT(index < scales.count);
  float scale = 0;
  dequantizer(scales.type)(scales.data.data() + index * info(scales.type).block_bytes, &scale);
  return scale;
}

}  // namespace

void dequantize_row(const tensor& t, std::uint64_t row, std::span<float> out) {
  TROUPE_ASSERT(row < t.rows);
  TROUPE_ASSERT(out.size() == t.columns);
  const auto& type = info(t.type);
  const auto block = dequantizer(t.type);
  TROUPE_ASSERT(block != nullptr);
  const std::byte* in = t.data.data() + row * t.row_bytes();
  TROUPE_ASSERT((row + 1) * t.row_bytes() <= t.data.size());
  for (std::uint64_t i = 0; i < t.columns; i += type.block_size, in += type.block_bytes)
    block(in, out.data() + i);
  if (t.type != tensor_type::f8_e4m3) return;
  if (!t.scales.by_blocks()) {
    const float scale = row_scale(t, row);
    for (float& value : out) value *= scale;
    return;
  }
  const std::uint64_t width = t.scales.block_columns, blocks = (t.columns + width - 1) / width;
  for (std::uint64_t b = 0; b < blocks; ++b) {
    const float scale = scale_at(t.scales, row / t.scales.block_rows * blocks + b);
    const std::uint64_t end = std::min(t.columns, (b + 1) * width);
    for (std::uint64_t i = b * width; i < end; ++i) out[i] *= scale;
  }
}

float row_scale(const tensor& t, std::uint64_t row) {
  TROUPE_ASSERT(!t.scales.by_blocks());
  return scale_at(t.scales, t.scales.count == 1 ? 0 : row);
}

}  // namespace troupe::model
