// A weight matrix in the order in which the kernels read it: 16 outputs side by side, groups of 32 inputs, at the
// precision and (but for padding) the size of the file.
//
// Plain structs only: the kernels include this under flags for their instruction set.
//
// A tile holds 16 outputs. Its groups lie one after the other, each with its scales behind its integers, so that a
// decode step reads memory in one direction.
//   integers of a group: byte [j][output][t], j < 4, t < 4 has input 4j+t in its low and 16+4j+t in its high nibble;
//     5 bits: then for each quad j < 8 a 64-bit mask, bit 4*output+t; 6 bits: then 2 x 64 bytes with two bits of quads
//     4h..4h+3 each; 8 bits: byte [j][output][t], j < 8.
//   scales: see scale_layout.
//   floating point: [input][output].
#pragma once

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::host {

inline constexpr std::uint32_t tile_outputs = 16;

enum class weight_format : std::uint8_t {
  u4_min,
  u4,
  u5_min,
  u5,
  u8,
  u4_k,
  u5_k,
  u6_k,
  f16,
  bf16,
  f32
};
inline constexpr std::size_t num_weight_formats = 11;

enum class scale_layout : std::uint8_t {
  none,
  plain,     // a group: f16 d[16]
  with_min,  // a group: f16 d[16], f16 m[16]
  super,     // before eight groups: f16 d[16], f16 dmin[16]; a group: u8 scale[16], u8 min[16]
  super_16,  // before eight groups: f16 d[16]; each half of a group: s8 scale[16]
};

// weight = d * (integer - offset) + m
struct format_info {
  int bits;  // of the integer; 0: floating point
  scale_layout scales;
  int offset;
};
constexpr format_info info(weight_format f) {
  switch (f) {
    case weight_format::u4_min:
      return {4, scale_layout::with_min, 0};
    case weight_format::u4:
      return {4, scale_layout::plain, 8};
    case weight_format::u5_min:
      return {5, scale_layout::with_min, 0};
    case weight_format::u5:
      return {5, scale_layout::plain, 16};
    case weight_format::u8:
      return {8, scale_layout::plain, 128};
    case weight_format::u4_k:
      return {4, scale_layout::super, 0};
    case weight_format::u5_k:
      return {5, scale_layout::super, 0};
    case weight_format::u6_k:
      return {6, scale_layout::super_16, 32};
    default:
      return {0, scale_layout::none, 0};
  }
}
constexpr std::size_t integer_bytes(int bits) {
  return bits == 4 ? 256 : bits == 5 ? 320 : bits == 6 ? 384 : 512;
}
// Of a group with its own scales.
constexpr std::size_t group_bytes(format_info f) {
  return integer_bytes(f.bits) + (f.scales == scale_layout::with_min ? 64 : 32);
}
// Scales of eight groups, before them.
constexpr std::size_t super_bytes(scale_layout s) {
  return s == scale_layout::super ? 64 : s == scale_layout::super_16 ? 32 : 0;
}
// Where group g begins in its tile, and the scales of its eight.
constexpr std::size_t super_offset(format_info f, std::size_t g) {
  return g / 8 * (super_bytes(f.scales) + 8 * group_bytes(f));
}
constexpr std::size_t group_offset(format_info f, std::size_t g) {
  return super_offset(f, g) + super_bytes(f.scales) + g % 8 * group_bytes(f);
}

struct packed_matrix {
  weight_format format = weight_format::f32;
  std::uint32_t outputs = 0, inputs = 0;
  std::uint32_t groups = 0;  // of 32 inputs, the last padded with zeros
  std::uint32_t tiles = 0;   // of 16 outputs, the last padded with zeros
  std::size_t tile_bytes = 0;
  const std::uint8_t* data = nullptr;  // [tiles][tile_bytes], 64-byte aligned; the arena's

  const std::uint8_t* tile(std::uint32_t t) const { return data + t * tile_bytes; }
  std::size_t bytes() const { return tiles * tile_bytes; }
  bool exists() const { return data != nullptr; }
};

}  // namespace troupe::gpu::host
