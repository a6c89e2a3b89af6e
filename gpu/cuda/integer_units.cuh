// Products of one row of activations with K-quants, by the tensor cores' 8-bit integers: a band's 16 features by 256 columns at a
// time, a warp's unit of work.
//
// A nibble or 6 bits are an operand as they are: one AND makes four values of a word, where bf16 values would take eight
// instructions, among them the scales. Those are multiplied with sums instead: of 32 values (Q4_K) or 16 (Q6_K), in integers,
// exactly. Of the activations' eight columns, which one row would fill one of, each sub-block of 32 has two of its own, with
// zeros beside it, so that four sub-blocks' sums come apart without an instruction: thread t of four has those of sub-blocks t
// and 4 + t, and their scales alone are its work.
//
// The row becomes integers of 16 bits, with a scale for each 32 values, whose largest is 127 * 256: at most 2^-16 of it is lost,
// where bf16 loses 2^-9 of each. The two columns of a sub-block are the upper byte and the lower one, signed, which the sum
// puts together again. No weight is rounded.
//
// Fragments are those of the PTX ISA, "mma.m16n8k16" and "mma.m16n8k32" of .u8 and .s8. Device code only, sm_90a.
#pragma once

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_units.cuh"

namespace troupe::gpu::cuda {

inline constexpr std::uint32_t group_columns = 256, group_bytes = group_columns * 2;
inline constexpr float largest_integer = 127.0f * 256.0f;
// What lane t of four multiplies with, of sub-blocks t and 4 + t of a group: their scales, the sums of their values, and of
// those the sums of each 16 columns.
struct block_pair {
  float scales[2], sums[2], of_16[4];
};
static_assert(group_bytes + 4 * sizeof(block_pair) == integer_group_bytes);
// A row in shared memory: groups of 256 values come in bf16, and become integers where they are: of sub-blocks t and 4 + t, for the
// lanes 8 t to 8 t + 7, which have these columns, each its 16 bytes: two times 16 columns of the one, then of the other.
// Behind them four block_pair of each group, and zeros, which lanes read for other lanes' sub-blocks.
struct integer_row {
  std::uint8_t* integers;
  block_pair* pairs;
  std::uint8_t* zeros;
  __device__ integer_row(std::uint8_t* at, std::uint32_t groups)
      : integers(at),
        pairs(reinterpret_cast<block_pair*>(at + groups * group_bytes)),
        zeros(reinterpret_cast<std::uint8_t*>(pairs + 4 * groups)) {
    if (threadIdx.x == 0) *reinterpret_cast<uint4*>(zeros) = make_uint4(0, 0, 0, 0);
  }
};
__host__ __device__ constexpr std::uint32_t integer_row_bytes(std::uint32_t groups) {
  return groups * integer_group_bytes + 16;
}

// 1.5 * 2^23 puts an integer in a float's lowest bits; 128 more rounds the upper byte, and is taken from the lower one.
__device__ __forceinline__ std::uint32_t place_integer(float value, float inverse) {
  return __float_as_uint(fmaf(value, inverse, 0x1.8p23f + 128.0f));
}
// What makes integers of values of which this is the largest. Below 2^-100 it might not be a number, and they are nothing.
__device__ __forceinline__ float inverse_scale(float largest) {
  return largest > 0x1p-100f ? __fdividef(largest_integer, largest) : 0.0f;
}

// Four floats as integers, in the upper and in the lower bytes of 16 bits, v = 256 upper + lower, both signed.
struct split_integers {
  std::uint32_t upper, lower;
  __device__ __forceinline__ split_integers(std::uint32_t pair, std::uint32_t later,
                                            float inverse) {
    const auto place = [&](std::uint32_t bits) {
      return place_integer(__uint_as_float(bits), inverse);
    };
    const std::uint32_t first = __byte_perm(place(pair << 16), place(later << 16), 0x5140),
                        second = __byte_perm(place(pair & 0xFFFF0000u), place(later & 0xFFFF0000u),
                                             0x5140);
    lower = __byte_perm(first, second, 0x5410) ^ 0x80808080u;
    upper = __byte_perm(first, second, 0x7632);
  }
  __device__ __forceinline__ std::int32_t sum() const {
    constexpr int kOnes = 0x01010101;
    return __dp4a(static_cast<int>(upper), kOnes, 0) * 256 +
           __dp4a(static_cast<int>(lower), kOnes, 0);
  }
};

// What products with a sub-block need besides: sums of the integers of its 16 columns, and of the next ones.
__device__ __forceinline__ void store_sums(block_pair& to, std::uint32_t half, float largest,
                                           std::int32_t first, std::int32_t second) {
  const float scale = largest * (1.0f / largest_integer);
  to.scales[half] = scale;
  to.sums[half] = scale * static_cast<float>(first + second);
  *reinterpret_cast<float2*>(to.of_16 + half * 2) =
      make_float2(scale * static_cast<float>(first), scale * static_cast<float>(second));
}

// Of a group, by a warp: four lanes have a sub-block, columns 16 i + 2 (lane % 4), the next, and both 8 columns on. What is not finite
// stays so, in the scale.
__device__ __forceinline__ void make_integers(std::uint8_t* values, block_pair* pairs) {
  const std::uint32_t lane = threadIdx.x % 32, block = lane / 4;
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    words[i] = reinterpret_cast<const std::uint32_t*>(values)[block * 16 + lane % 4 + 4 * i];
  __nv_bfloat162 most = __habs2(as_bf162(words[0]));
#pragma unroll
  for (int i = 1; i < 4; ++i) most = __hmax2_nan(most, __habs2(as_bf162(words[i])));
#pragma unroll
  for (int i = 1; i < 4; i *= 2)
    most = __hmax2_nan(most, as_bf162(__shfl_xor_sync(~0u, bits_of(most), i)));
  __syncwarp();  // all have read theirs, which may now be overwritten
  const float largest = __bfloat162float(__hmax_nan(__low2bfloat16(most), __high2bfloat16(most)));
  const float inverse = inverse_scale(largest);
  const split_integers a(words[0], words[1], inverse), b(words[2], words[3], inverse);
  std::uint8_t* own = values + (block % 4 * 8 + lane % 4) * 16 + block / 4 * 8;
  *reinterpret_cast<uint2*>(own) = make_uint2(a.upper, b.upper);
  *reinterpret_cast<uint2*>(own + 64) = make_uint2(a.lower, b.lower);
  std::int32_t sums[2] = {a.sum(), b.sum()};
#pragma unroll
  for (int i = 1; i < 4; i *= 2) {
    sums[0] += __shfl_xor_sync(~0u, sums[0], i);
    sums[1] += __shfl_xor_sync(~0u, sums[1], i);
  }
  if (lane % 4 == 0) store_sums(pairs[block % 4], block / 4, largest, sums[0], sums[1]);
}

// Sub-block `index` of a row of `groups` groups, in memory as in an integer_row, without the zeros: by a warp that has its values, a
// lane each.
__device__ __forceinline__ void store_integers(float value, std::uint32_t index,
                                               std::uint32_t groups, std::uint8_t* row) {
  const std::uint32_t lane = threadIdx.x % 32, group = index / 8, block = index % 8;
  const float largest = __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(fabsf(value))));
  const std::uint32_t bits = place_integer(value, inverse_scale(largest));
  const int integer = static_cast<std::int16_t>(bits) - 128;
  std::uint8_t* to = row + group * group_bytes + (block % 4 * 8 + lane % 8 / 2) * 16 +
                     block / 4 * 8 + lane / 16 * 4 + lane % 2 * 2 + lane / 8 % 2;
  to[0] = static_cast<std::uint8_t>(bits >> 8);
  to[64] = static_cast<std::uint8_t>(bits ^ 0x80);
  const int all = __reduce_add_sync(~0u, integer),
            first = __reduce_add_sync(~0u, lane < 16 ? integer : 0);
  if (lane != 0) return;
  auto* pairs = reinterpret_cast<block_pair*>(row + groups * group_bytes);
  store_sums(pairs[group * 4 + block % 4], block / 4, largest, first, all - first);
}

// A row's `groups` groups from x on, by `warps` warps of which this is `warp`; each has kAtOnce of them on their way at a time.
// Blocks begin at different ones: all would wait for each other at the same lines of L2.
template <std::uint32_t kAtOnce>
__device__ __forceinline__ void make_integers(const __nv_bfloat16* x, std::uint32_t groups,
                                              std::uint32_t warp, std::uint32_t warps,
                                              const integer_row& to) {
  const std::uint32_t lane = threadIdx.x % 32, begin = blockIdx.x % groups;
  const auto place = [&](std::uint32_t i) {
    return i + begin < groups ? i + begin : i + begin - groups;
  };
  for (std::uint32_t first = warp; first < groups; first += kAtOnce * warps) {
    uint4 values[kAtOnce];
#pragma unroll
    for (std::uint32_t k = 0; k < kAtOnce; ++k) {
      if (first + k * warps < groups)
        values[k] = reinterpret_cast<const uint4*>(x)[place(first + k * warps) * 32 + lane];
    }
#pragma unroll
    for (std::uint32_t k = 0; k < kAtOnce; ++k) {
      if (first + k * warps >= groups) break;
      const std::uint32_t g = place(first + k * warps);
      reinterpret_cast<uint4*>(to.integers)[g * 32 + lane] = values[k];
      __syncwarp();
      make_integers(to.integers + g * group_bytes, to.pairs + 4 * g);
    }
  }
}

// d += a b: 16 features by 32 columns, and by 16.
__device__ __forceinline__ void multiply_integers(std::int32_t (&d)[4], const std::uint32_t (&a)[4],
                                                  std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void multiply_integers(std::int32_t (&d)[4], std::uint32_t a0,
                                                  std::uint32_t a1, std::uint32_t b) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(b));
}

// What a lane finds its scales by, once for all units.
struct scale_finder {
  std::uint32_t row, thread;              // of the band's upper 8, of four
  std::uint32_t first_shift, last_shift;  // q4_k: of the pairs `thread` and 4 + `thread`
  std::uint32_t last_mask, rest_mask;
  __device__ __forceinline__ scale_finder()
      : row(threadIdx.x % 32 / 4),
        thread(threadIdx.x % 4),
        first_shift(thread % 2 * 6),
        last_shift(thread < 2 ? thread * 6 : 4 + thread * 2),
        last_mask(thread < 2 ? 0x003F003Fu : 0x00300030u),
        rest_mask(thread < 2 ? 0 : 0x000F000Fu) {}
};

// A lane's part of a group of the row: operands of the tensor cores, zeros where other lanes have their sub-blocks.
struct group_operands {
  std::uint32_t x[4][4];
  const block_pair& of_lane;

  __device__ __forceinline__ group_operands(const integer_row& row, std::uint32_t group,
                                            const scale_finder& lane_scales)
      : of_lane(row.pairs[group * 4 + lane_scales.thread]) {
    const std::uint32_t lane = threadIdx.x % 32,
                        input = shared_address(row.integers) + group * group_bytes + lane * 16,
                        zeros = shared_address(row.zeros);
#pragma unroll
    for (std::uint32_t i = 0; i < 4; ++i) {
      asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(x[i][0]), "=r"(x[i][1]), "=r"(x[i][2]), "=r"(x[i][3])
                   : "r"(lane / 8 == i ? input : zeros));
    }
  }
};

// sum[0] and sum[1] += this lane's sub-blocks of the unit in the rows lane / 4 and 8 below; of the four lanes of a row together,
// the product. pairs: the unit's integers, two tiles together and the other two kPairStep bytes on; scales: the band's.
template <packed_format kFormat, std::uint32_t kPairStep>
__device__ __forceinline__ void multiply_unit(float (&sum)[2], const std::uint8_t* pairs,
                                              const std::uint8_t* scales,
                                              const group_operands& group,
                                              const scale_finder& lane_scales) {
  const std::uint32_t lane = threadIdx.x % 32;
  const auto& x = group.x;
  const block_pair& of_lane = group.of_lane;
  const auto tile = [&](int t) {
    return pairs + t / 2 * kPairStep + t % 2 * band_quant_bytes(kFormat);
  };
  if constexpr (kFormat == packed_format::q4_k) {
    constexpr std::uint32_t kUpper = 0x0F0F0F0F, kLower = 0xF0F0F0F0;
    std::int32_t dots[2][4] = {};  // of sub-blocks t, and 4 + t
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint4 words = reinterpret_cast<const uint4*>(tile(t))[lane];
      const std::uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const std::uint32_t a[4] = {w[2 * i] & kUpper, w[2 * i] & kLower, w[2 * i + 1] & kUpper,
                                    w[2 * i + 1] & kLower};
        const std::uint32_t(&b)[4] = x[(2 * t + i) % 4];
        multiply_integers(dots[t / 2], a, b[t / 2 * 2], b[t / 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint4 block = reinterpret_cast<const uint4*>(scales)[lane_scales.row + 8 * r];
      const std::uint32_t thread = lane_scales.thread;
      const std::uint32_t first = (thread < 2 ? block.y : block.z) >> lane_scales.first_shift;
      const std::uint32_t last = ((thread == 3 ? block.z : block.y) >> 12 & lane_scales.rest_mask) |
                                 (block.w >> lane_scales.last_shift & lane_scales.last_mask);
      // The lower row's nibbles were taken for 16 times what they are.
      const auto whole = [&](const std::int32_t(&d)[4]) {
        return r == 0 ? d[0] * 256 + d[1] : (d[2] * 256 + d[3]) >> 4;
      };
      const auto factor = [](std::uint32_t v) { return static_cast<std::int32_t>(v); };
      const float4 x_of_blocks = *reinterpret_cast<const float4*>(&of_lane);  // scales, sums
      const float products =
          x_of_blocks.x * static_cast<float>(factor(first & 63) * whole(dots[0])) +
          x_of_blocks.y * static_cast<float>(factor(last & 63) * whole(dots[1]));
      const float minima = x_of_blocks.z * static_cast<float>(factor(first >> 16 & 63)) +
                           x_of_blocks.w * static_cast<float>(factor(last >> 16));
      const float2 both = __half22float2(as_half2(block.x));
      sum[r] += both.x * products - both.y * minima;
    }
  } else {
    static_assert(kFormat == packed_format::q6_k);
    constexpr std::uint32_t kPair = 0x003F003F;
    std::int32_t dots[2][2][4] = {};  // of sub-blocks t, and 4 + t, each of two times 16 columns
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const uint4 begin = reinterpret_cast<const uint4*>(tile(t))[lane];
      const uint2 end = reinterpret_cast<const uint2*>(tile(t) + 512)[lane];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const std::uint32_t a = i == 0 ? begin.x : begin.w, b = i == 0 ? begin.y : end.x,
                            c = i == 0 ? begin.z : end.y;
        const std::uint32_t(&in)[4] = x[(2 * t + i) % 4];
        multiply_integers(dots[t / 2][0], (a & kPair) | (b << 8 & kPair << 8),
                          (a >> 6 & kPair) | (b << 2 & kPair << 8), in[t / 2 * 2]);
        multiply_integers(dots[t / 2][1], (c & (kPair | 0x30003000)) | (a >> 4 & 0x0F000F00),
                          (c >> 6 & kPair) | (c >> 2 & 0x30003000) | (b >> 4 & 0x0F000F00),
                          in[t / 2 * 2 + 1]);
      }
    }
    const float4 of_16 = *reinterpret_cast<const float4*>(of_lane.of_16);
    const float sums[4] = {of_16.x, of_16.y, of_16.z, of_16.w};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const std::uint32_t of_band = lane_scales.row + 8 * r;
      const auto* two =
          reinterpret_cast<const signed char*>(scales) + of_band * 16 + lane_scales.thread * 2;
      float products = 0.0f;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const char2 factors = *reinterpret_cast<const char2*>(two + 8 * half);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const std::int32_t(&d)[4] = dots[half][i];
          // Integers are 32 more than their values.
          const float dot =
              of_lane.scales[half] * static_cast<float>(d[2 * r] * 256 + d[2 * r + 1]) -
              32.0f * sums[2 * half + i];
          products += static_cast<float>(i == 0 ? factors.x : factors.y) * dot;
        }
      }
      sum[r] += __half2float(reinterpret_cast<const __half*>(scales + 256)[of_band]) * products;
    }
  }
}

// Both sums of the four lanes of a row, in all of them.
__device__ __forceinline__ void add_lanes_of_row(float (&sum)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
    sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
  }
}

}  // namespace troupe::gpu::cuda
