// One tile of a linear layer: 16 outputs of some rows. Templates over the instruction set's `simd` and the weights'
// format; see kernels.hpp for contracts.
//
// The order of arithmetic of an output, on every instruction set and whatever the rows beside it:
//   sum = 0; for each group g: sum = fma(float(exact integer dot of g), d_g, sum), then sum = fma(float(sum of the
//   activations of g), m_g, sum) where the format has minima; result = sum * scale of the row.
// With weights in floating point: sum = fma(weight_k, activation_k, sum) for each k.
#pragma once

#include "gpu/host/kernels.hpp"

namespace troupe::gpu::host {
namespace {

template <class S, weight_format format>
struct matmul_kernel {
  using f = typename S::f;
  using i = typename S::i;
  static constexpr format_info fi = info(format);
  static constexpr std::size_t prefetch_distance = 4096;

  static void run(const matmul_args& a) {
    std::uint32_t row = a.first_row, left = a.num_rows;
    for (; left >= rows_per_block; left -= rows_per_block, row += rows_per_block) rows<8>(a, row);
    if (left > 0) fewer_rows<rows_per_block - 1>(a, row, left);
  }

  template <int n>
  static void fewer_rows(const matmul_args& a, std::uint32_t row, std::uint32_t left) {
    if (left == n) return rows<n>(a, row);
    if constexpr (n > 1) fewer_rows<n - 1>(a, row, left);
  }

  template <int n>
  static void rows(const matmul_args& a, std::uint32_t row) {
    f sum[n];
    for (int r = 0; r < n; ++r) sum[r] = S::zero();
    if constexpr (fi.bits == 0) {
      float_rows<n>(a, row, sum);
    } else {
      integer_rows<n>(a, row, sum);
      for (int r = 0; r < n; ++r) sum[r] = S::mul(sum[r], S::set1(a.input->scales[row + r]));
    }
    float* out = a.out + (row - a.first_row) * a.out_stride;
    for (int r = 0; r < n; ++r) {
      float* at = out + r * a.out_stride;
      S::store(at, a.accumulate ? S::add(S::load(at), sum[r]) : sum[r]);
    }
  }

  template <int n>
  static void integer_rows(const matmul_args& a, std::uint32_t row, f (&sum)[n]) {
    const std::uint8_t* weights = a.matrix->data + a.tile * a.matrix->tile_bytes;
    const std::uint32_t groups = a.matrix->groups;
    // Rows before this block have all their groups before it.
    const std::size_t first = std::size_t{row} * groups;
    const std::int8_t* act = a.input->quantized + first * 64;
    const group_sums* sums = a.input->sums + first;
    const std::uint8_t* super = weights;
    for (std::uint32_t g = 0; g < groups;
         ++g, weights += group_bytes(fi), act += 64 * n, sums += n) {
      if constexpr (super_bytes(fi.scales) != 0) {
        if (g % 8 == 0) {
          super = weights;
          weights += super_bytes(fi.scales);
        }
      }
      // Weights come from memory, some kilobytes ahead of their use: a decode step reads them only once.
      for (std::size_t line = 0; line < group_bytes(fi); line += 64)
        S::prefetch(weights + prefetch_distance + line);
      const std::uint8_t* scales = weights + integer_bytes(fi.bits);
      const auto group = S::template unpack<fi.bits>(weights);
      i dot[n];
      if constexpr (fi.scales == scale_layout::super_16) {
        const f d = S::load_f16(reinterpret_cast<const std::uint16_t*>(super));
        S::template dot<0, 4>(group, act, dot);
        add_group<n, 0>(dot, sums, S::mul(d, S::load_s8(scales)), sum);
        S::template dot<4, 8>(group, act, dot);
        add_group<n, 1>(dot, sums, S::mul(d, S::load_s8(scales + 16)), sum);
      } else {
        S::template dot<0, 8>(group, act, dot);
        f d, m = S::zero();
        load_scales(super, scales, d, m);
        add_group<n, -1>(dot, sums, d, sum);
        if constexpr (fi.scales == scale_layout::with_min || fi.scales == scale_layout::super) {
          for (int r = 0; r < n; ++r) sum[r] = S::fma(S::set1(sums[r].whole_f), m, sum[r]);
        }
      }
    }
  }

  static void load_scales(const std::uint8_t* super, const std::uint8_t* scales, f& d, f& m) {
    if constexpr (fi.scales == scale_layout::super) {  // products of 11 and 6 bits: exact
      const auto* s = reinterpret_cast<const std::uint16_t*>(super);
      d = S::mul(S::load_f16(s), S::load_u8(scales));
      m = S::sub(S::zero(), S::mul(S::load_f16(s + 16), S::load_u8(scales + 16)));
    } else {
      const auto* s = reinterpret_cast<const std::uint16_t*>(scales);
      d = S::load_f16(s);
      if constexpr (fi.scales == scale_layout::with_min) m = S::load_f16(s + 16);
    }
  }

  // half -1: the whole group.
  template <int n, int half>
  static void add_group(const i (&dot)[n], const group_sums* sums, f d, f (&sum)[n]) {
    for (int r = 0; r < n; ++r) {
      i exact = dot[r];
      if constexpr (fi.offset != 0) {
        const std::int32_t activations_sum =
            half < 0 ? sums[r].whole : sums[r].half[half < 0 ? 0 : half];
        exact = S::sub_i(exact, S::set1_i(fi.offset * activations_sum));
      }
      sum[r] = S::fma(S::to_float(exact), d, sum[r]);
    }
  }

  template <int n>
  static void float_rows(const matmul_args& a, std::uint32_t row, f (&sum)[n]) {
    constexpr std::size_t bytes = tile_outputs * (format == weight_format::f32 ? 4 : 2);
    const std::uint8_t* weights = a.matrix->data + a.tile * a.matrix->tile_bytes;
    const std::uint32_t columns = a.matrix->groups * group_size;
    const float* act = a.input->values + std::size_t{row} * columns;
    for (std::uint32_t k = 0; k < columns; ++k, weights += bytes) {
      f w;
      if constexpr (format == weight_format::f32)
        w = S::load(reinterpret_cast<const float*>(weights));
      if constexpr (format == weight_format::f16)
        w = S::load_f16(reinterpret_cast<const std::uint16_t*>(weights));
      if constexpr (format == weight_format::bf16)
        w = S::load_bf16(reinterpret_cast<const std::uint16_t*>(weights));
      for (int r = 0; r < n; ++r)
        sum[r] = S::fma(w, S::set1(act[std::size_t(r) * columns + k]), sum[r]);
    }
  }
};

}  // namespace
}  // namespace troupe::gpu::host
