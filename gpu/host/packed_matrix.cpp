#include "gpu/host/packed_matrix.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "gpu/host/half.hpp"

namespace troupe::gpu::host {
namespace {

using model::tensor_type;

std::uint16_t read16(const std::uint8_t* p) {
  std::uint16_t x;
  std::memcpy(&x, p, 2);
  return x;
}
std::uint32_t read32(const std::uint8_t* p) {
  std::uint32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

// 32 consecutive weights of one output, out of the file's format.
struct group_values {
  std::uint8_t q[32] = {};
  std::uint16_t d = 0, m = 0;           // f16: scale, minimum
  std::uint8_t scale[2] = {}, min = 0;  // K formats: of the group (or of each half)
};

// Scale and minimum of group j of a Q4_K or Q5_K block: 6 bits each, packed in 12 bytes.
void k_scale(const std::uint8_t* s, int j, std::uint8_t& scale, std::uint8_t& min) {
  if (j < 4) {
    scale = s[j] & 63;
    min = s[j + 4] & 63;
  } else {
    scale = static_cast<std::uint8_t>((s[j + 4] & 15) | ((s[j - 4] >> 6) << 4));
    min = static_cast<std::uint8_t>((s[j + 4] >> 4) | ((s[j] >> 6) << 4));
  }
}

group_values read_simple(tensor_type type, const std::uint8_t* b) {
  group_values v;
  v.d = read16(b);
  b += 2;
  if (type == tensor_type::q8_0) {
    for (int k = 0; k < 32; ++k) v.q[k] = static_cast<std::uint8_t>(b[k] + 128);
    return v;
  }
  if (type == tensor_type::q4_1 || type == tensor_type::q5_1) {
    v.m = read16(b);
    b += 2;
  }
  std::uint32_t high = 0;
  if (type == tensor_type::q5_0 || type == tensor_type::q5_1) {
    high = read32(b);
    b += 4;
  }
  for (int k = 0; k < 16; ++k) {
    v.q[k] = static_cast<std::uint8_t>((b[k] & 15) | ((high >> k) & 1) << 4);
    v.q[k + 16] = static_cast<std::uint8_t>((b[k] >> 4) | ((high >> (k + 16)) & 1) << 4);
  }
  return v;
}

group_values read_q4_q5_k(tensor_type type, const std::uint8_t* b, int j) {
  group_values v;
  v.d = read16(b);
  v.m = read16(b + 2);
  k_scale(b + 4, j, v.scale[0], v.min);
  const bool five = type == tensor_type::q5_k;
  const std::uint8_t* high = b + 16;
  const std::uint8_t* low = b + (five ? 48 : 16) + 32 * (j / 2);
  for (int k = 0; k < 32; ++k) {
    v.q[k] = (j & 1) ? low[k] >> 4 : low[k] & 15;
    if (five) v.q[k] = static_cast<std::uint8_t>(v.q[k] | ((high[k] >> j) & 1) << 4);
  }
  return v;
}

group_values read_q6_k(const std::uint8_t* b, int j) {
  group_values v;
  const std::uint8_t* low = b + 64 * (j / 4) + 32 * (j & 1);
  const std::uint8_t* high = b + 128 + 32 * (j / 4);
  const std::uint8_t* scales = b + 192 + 2 * j;
  for (int k = 0; k < 32; ++k) {
    const int l = (j & 2) ? low[k] >> 4 : low[k] & 15;
    v.q[k] = static_cast<std::uint8_t>(l | ((high[k] >> (2 * (j & 3))) & 3) << 4);
  }
  v.scale[0] = scales[0];
  v.scale[1] = scales[1];
  v.d = read16(b + 208);
  return v;
}

group_values read_group(const model::tensor& t, std::uint64_t row, std::uint32_t g) {
  const auto& type = model::info(t.type);
  const auto* base = reinterpret_cast<const std::uint8_t*>(t.data.data()) + row * t.row_bytes();
  if (type.block_size == 32) return read_simple(t.type, base + std::size_t{g} * type.block_bytes);
  const std::uint8_t* block = base + std::size_t{g / 8} * type.block_bytes;
  return t.type == tensor_type::q6_k ? read_q6_k(block, static_cast<int>(g % 8))
                                     : read_q4_q5_k(t.type, block, static_cast<int>(g % 8));
}

void write_integers(int bits, const group_values (&v)[16], std::uint8_t* out) {
  if (bits == 8) {
    for (int j = 0; j < 8; ++j)
      for (int o = 0; o < 16; ++o) std::memcpy(out + 64 * j + 4 * o, v[o].q + 4 * j, 4);
    return;
  }
  for (int j = 0; j < 4; ++j)
    for (int o = 0; o < 16; ++o)
      for (int t = 0; t < 4; ++t)
        out[64 * j + 4 * o + t] = static_cast<std::uint8_t>((v[o].q[4 * j + t] & 15) |
                                                            (v[o].q[16 + 4 * j + t] & 15) << 4);
  std::uint8_t* high = out + 256;
  if (bits == 5) {
    for (int j = 0; j < 8; ++j) {
      std::uint64_t mask = 0;
      for (int k = 0; k < 64; ++k)
        mask |= std::uint64_t{(v[k / 4].q[4 * j + k % 4] >> 4) & 1u} << k;
      std::memcpy(high + 8 * j, &mask, 8);
    }
  }
  if (bits == 6) {
    for (int h = 0; h < 2; ++h)
      for (int k = 0; k < 64; ++k) {
        unsigned b = 0;
        for (int j = 0; j < 4; ++j)
          b |= static_cast<unsigned>(v[k / 4].q[16 * h + 4 * j + k % 4] >> 4) << (2 * j);
        high[64 * h + k] = static_cast<std::uint8_t>(b);
      }
  }
}

void write_scales(scale_layout s, const group_values (&v)[16], std::uint8_t* super,
                  std::uint8_t* own) {
  for (std::size_t o = 0; o < 16; ++o) {
    switch (s) {
      case scale_layout::none:
        break;
      case scale_layout::plain:
        std::memcpy(own + 2 * o, &v[o].d, 2);
        break;
      case scale_layout::with_min:
        std::memcpy(own + 2 * o, &v[o].d, 2);
        std::memcpy(own + 32 + 2 * o, &v[o].m, 2);
        break;
      case scale_layout::super:
        std::memcpy(super + 2 * o, &v[o].d, 2);
        std::memcpy(super + 32 + 2 * o, &v[o].m, 2);
        own[o] = v[o].scale[0];
        own[16 + o] = v[o].min;
        break;
      case scale_layout::super_16:
        std::memcpy(super + 2 * o, &v[o].d, 2);
        own[o] = v[o].scale[0];
        own[16 + o] = v[o].scale[1];
        break;
    }
  }
}

// Q4_0 and Q4_1 keep inputs k and k + 16 in one byte, as a tile does: whole words move.
void pack_nibbles(const model::tensor& t, const packed_matrix& m, std::uint32_t tile,
                  std::uint8_t* out) {
  const auto& type = model::info(t.type);
  const format_info f = info(m.format);
  const bool has_min = t.type == model::tensor_type::q4_1;
  const std::uint64_t first = std::uint64_t{tile} * tile_outputs;
  for (std::uint32_t o = 0; o < tile_outputs && first + o < m.outputs; ++o) {
    const auto* b =
        reinterpret_cast<const std::uint8_t*>(t.data.data()) + (first + o) * t.row_bytes();
    std::uint8_t* to = out;
    for (std::uint32_t g = 0; g < m.groups; ++g, b += type.block_bytes, to += group_bytes(f)) {
      const std::uint8_t* nibbles = b + (has_min ? 4 : 2);
      for (std::uint32_t j = 0; j < 4; ++j) std::memcpy(to + 64 * j + 4 * o, nibbles + 4 * j, 4);
      std::memcpy(to + 256 + 2 * o, b, 2);
      if (has_min) std::memcpy(to + 288 + 2 * o, b + 2, 2);
    }
  }
}

void pack_floats(const model::tensor& t, const packed_matrix& m, std::uint32_t tile,
                 std::uint8_t* out) {
  const std::size_t size = m.format == weight_format::f32 ? 4 : 2;
  for (std::uint32_t o = 0; o < tile_outputs && tile * tile_outputs + o < m.outputs; ++o) {
    const auto* row = reinterpret_cast<const std::uint8_t*>(t.data.data()) +
                      (std::uint64_t{tile} * tile_outputs + o) * t.row_bytes();
    for (std::uint32_t k = 0; k < m.inputs; ++k)
      std::memcpy(out + (k * tile_outputs + o) * size, row + k * size, size);
  }
}

// E4M3 in bf16, which has more than its bits: the product with the scale is rounded by 2^-9 of it at most.
void pack_f8(const model::tensor& t, const packed_matrix& m, std::uint32_t tile,
             std::uint8_t* out) {
  std::vector<float> row(m.inputs);
  for (std::uint32_t o = 0; o < tile_outputs && tile * tile_outputs + o < m.outputs; ++o) {
    model::dequantize_row(t, std::uint64_t{tile} * tile_outputs + o, row);
    for (std::uint32_t k = 0; k < m.inputs; ++k) {
      const auto bits = std::bit_cast<std::uint32_t>(row[k]);
      const auto half = static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
      std::memcpy(out + (k * tile_outputs + o) * sizeof half, &half, sizeof half);
    }
  }
}

void pack_integers(const model::tensor& t, const packed_matrix& m, std::uint32_t tile,
                   std::uint8_t* out) {
  const format_info f = info(m.format);
  for (std::uint32_t g = 0; g < m.groups; ++g) {
    group_values v[16];
    for (std::uint32_t o = 0; o < tile_outputs && tile * tile_outputs + o < m.outputs; ++o) {
      v[o] = read_group(t, std::uint64_t{tile} * tile_outputs + o, g);
    }
    std::uint8_t* to = out + group_offset(f, g);
    write_integers(f.bits, v, to);
    write_scales(f.scales, v, out + super_offset(f, g), to + integer_bytes(f.bits));
  }
}

weight_format format_of(tensor_type t) {
  switch (t) {
    case tensor_type::q4_0:
      return weight_format::u4;
    case tensor_type::q4_1:
      return weight_format::u4_min;
    case tensor_type::q5_0:
      return weight_format::u5;
    case tensor_type::q5_1:
      return weight_format::u5_min;
    case tensor_type::q8_0:
      return weight_format::u8;
    case tensor_type::q4_k:
      return weight_format::u4_k;
    case tensor_type::q5_k:
      return weight_format::u5_k;
    case tensor_type::q6_k:
      return weight_format::u6_k;
    case tensor_type::f16:
      return weight_format::f16;
    case tensor_type::bf16:
    case tensor_type::f8_e4m3:
      return weight_format::bf16;
    case tensor_type::f32:
      return weight_format::f32;
  }
  return weight_format::f32;
}

int integer_at(const std::uint8_t* p, int bits, std::uint32_t output, std::uint32_t k) {
  const std::uint32_t j = k / 4, at = 4 * output + k % 4;
  if (bits == 8) return p[64 * j + at];
  int q = j < 4 ? p[64 * j + at] & 15 : p[64 * (j - 4) + at] >> 4;
  if (bits == 5) q |= ((p[256 + 8 * j + at / 8] >> (at % 8)) & 1) << 4;
  if (bits == 6) q |= ((p[256 + 64 * (j / 4) + at] >> (2 * (j % 4))) & 3) << 4;
  return q;
}

// The arithmetic of ggml's reference: d * (q - offset) + m, with one rounding each.
void unpack_group(format_info f, const std::uint8_t* super, const std::uint8_t* group,
                  std::uint32_t o, std::span<float> out) {
  const std::uint8_t* own = group + integer_bytes(f.bits);
  const auto half_at = [o](const std::uint8_t* p) { return half_to_float(read16(p + 2 * o)); };
  float d[2] = {}, m = 0;
  switch (f.scales) {
    case scale_layout::none:
      break;
    case scale_layout::plain:
      d[0] = d[1] = half_at(own);
      break;
    case scale_layout::with_min:
      d[0] = d[1] = half_at(own);
      m = half_at(own + 32);
      break;
    case scale_layout::super:
      d[0] = d[1] = half_at(super) * static_cast<float>(own[o]);
      m = -(half_at(super + 32) * static_cast<float>(own[16 + o]));
      break;
    case scale_layout::super_16:
      for (std::uint32_t h = 0; h < 2; ++h) {
        d[h] = half_at(super) * static_cast<float>(static_cast<std::int8_t>(own[16 * h + o]));
      }
      break;
  }
  for (std::uint32_t k = 0; k < out.size(); ++k) {
    out[k] = d[k / 16] * static_cast<float>(integer_at(group, f.bits, o, k) - f.offset) + m;
  }
}

}  // namespace

result<packed_matrix> plan(const model::tensor& t) {
  constexpr std::uint64_t dimension_max = 1u << 24;
  if (t.rows == 0 || t.columns == 0 || t.rows > dimension_max || t.columns > dimension_max) {
    return fail(ec::unsupported,
                "tensor '" + t.name + "' has a dimension that the host device cannot hold");
  }
  if (t.data.size() < t.rows * t.row_bytes()) {
    return fail(ec::corrupt_file, "tensor '" + t.name + "' has fewer bytes than its shape needs");
  }
  packed_matrix m;
  m.format = format_of(t.type);
  m.outputs = static_cast<std::uint32_t>(t.rows);
  m.inputs = static_cast<std::uint32_t>(t.columns);
  m.groups = (m.inputs + 31) / 32;
  m.tiles = (m.outputs + tile_outputs - 1) / tile_outputs;
  const format_info f = info(m.format);
  const std::size_t bytes =
      f.bits ? (m.groups + 7) / 8 * super_bytes(f.scales) + m.groups * group_bytes(f)
             : std::size_t{m.groups} * 32 * tile_outputs * (m.format == weight_format::f32 ? 4 : 2);
  m.tile_bytes = (bytes + 63) / 64 * 64;
  return m;
}

void pack_tiles(const model::tensor& t, const packed_matrix& m, std::uint32_t first,
                std::uint32_t last, std::uint8_t* out) {
  for (std::uint32_t tile = first; tile < last; ++tile) {
    std::uint8_t* at = out + tile * m.tile_bytes;
    if ((tile + 1) * tile_outputs > m.outputs || m.inputs % 32 != 0)
      std::memset(at, 0, m.tile_bytes);
    if (m.format == weight_format::u4 || m.format == weight_format::u4_min) {
      pack_nibbles(t, m, tile, at);
    } else if (info(m.format).bits != 0) {
      pack_integers(t, m, tile, at);
    } else if (t.type == tensor_type::f8_e4m3) {
      pack_f8(t, m, tile, at);
    } else {
      pack_floats(t, m, tile, at);
    }
  }
}

void unpack_row(const packed_matrix& m, std::uint32_t output, std::span<float> out) {
  TROUPE_ASSERT(output < m.outputs && out.size() == m.inputs);
  const std::uint8_t* tile = m.tile(output / tile_outputs);
  const std::uint32_t o = output % tile_outputs;
  const format_info f = info(m.format);
  if (f.bits == 0) {
    for (std::uint32_t k = 0; k < m.inputs; ++k) {
      const std::size_t at = std::size_t{k} * tile_outputs + o;
      if (m.format == weight_format::f32) std::memcpy(&out[k], tile + 4 * at, 4);
      if (m.format == weight_format::f16) out[k] = half_to_float(read16(tile + 2 * at));
      if (m.format == weight_format::bf16) out[k] = bfloat_to_float(read16(tile + 2 * at));
    }
    return;
  }
  for (std::uint32_t g = 0; g < m.groups; ++g) {
    const std::uint8_t* group = tile + group_offset(f, g);
    const std::uint32_t first = g * 32, count = std::min(32u, m.inputs - first);
    unpack_group(f, tile + super_offset(f, g), group, o, out.subspan(first, count));
  }
}

}  // namespace troupe::gpu::host
