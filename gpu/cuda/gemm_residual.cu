// residual += W x of one row over K-quants, and what RMSNorm needs of it.
//
// With one row a step lasts as long as its kernels take to start, to wait for each other and to end, beside the bytes they read. So
// here no sums are left for a kernel that adds them up: one block a multiprocessor has a share of the features, in bands of 16
// (packed.hpp), with all of the reduced dimension. A warp takes every 16th group of 256 columns of the block's bands, keeps
// copies of the next ones on their way by itself, without a feeder, and adds up a band's products in registers. The warps' sums
// meet in shared memory, where they are added in the order of the warps: no order of additions depends on time.
//
// A block takes more than half of a multiprocessor's shared memory: two of them on one would leave another without.
#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_units.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint32_t warps = 16, threads = warps * 32, most_slots = 8;
constexpr std::uint32_t group_columns = 256, band_rows = residual_band;
// Bands whose sums wait to be added: of two turns, so that one barrier a turn is enough.
constexpr std::uint32_t bands_a_turn = 4;
constexpr std::uint32_t sum_bytes = 2 * bands_a_turn * warps * band_rows * sizeof(float);
constexpr std::uint32_t most_shared_bytes = 226 * 1024;
// More than half of a multiprocessor's 228 KiB, of which each block takes one beside its own.
constexpr std::uint32_t least_shared_bytes = 113 * 1024 + 16;

struct residual_parameters {
  std::uint32_t bands, groups;
  std::uint32_t slots, slot_bytes;  // of a warp's ring
  const __nv_bfloat16* x;
  residual_update y;
};

struct residual_memory {
  std::uint32_t inputs, sums, own, barriers, bytes;  // offsets; the ring is first
};
__host__ __device__ inline residual_memory memory_of(const residual_parameters& p,
                                                     std::uint32_t blocks) {
  residual_memory m{};
  m.inputs = warps * p.slots * p.slot_bytes;
  m.sums = m.inputs + p.groups * group_columns * 2;
  m.own = m.sums + sum_bytes;
  m.barriers = m.own + 2 * ((p.bands + blocks - 1) / blocks) * band_rows * 4;
  m.bytes = m.barriers + warps * p.slots * 8;
  return m;
}

// A unit: 16 features by 256 columns. input: this lane's part of the activations for load_matrices, whose rows are all the same.
template <packed_format kFormat>
__device__ __forceinline__ void multiply_unit(float (&sum)[2][4], const std::uint8_t* slot,
                                              std::uint32_t input) {
  constexpr std::uint32_t kQuantBytes = band_quant_bytes(kFormat);
#pragma unroll
  for (std::uint32_t t = 0; t < 4; ++t) {
    std::uint32_t values[16];
    unpack_fragment<kFormat>({slot + t * kQuantBytes, slot + 4 * kQuantBytes, t}, threadIdx.x % 32,
                             values);
#pragma unroll
    for (std::uint32_t half = 0; half < 2; ++half) {
      std::uint32_t b[4];
      load_matrices(input + t * 128 + half * 64, b);
      multiply_warp(sum[half], values + 8 * half, b[0], b[1]);
      multiply_warp(sum[half], values + 8 * half + 4, b[2], b[3]);
    }
  }
}

// The units of a block that a warp takes, one after the other: where they are, and how large.
struct unit_cursor {
  std::uint32_t band, group;              // of the block's
  std::uint32_t run_end;                  // the first band of another tensor
  std::uint32_t group_bytes, scales_at;   // scales_at: of band 0 in a group
  std::uint32_t pair_bytes, scale_bytes;  // of a unit: its integers are two pairs of tiles
  const std::uint8_t* row;                // the first group of the band's 64 rows

  __device__ unit_cursor(const packed_matrix& weights, const residual_parameters& p,
                         std::uint32_t first_band, std::uint32_t warp)
      : band(0), group(warp) {
    find(weights, p, first_band);
    settle(weights, p, first_band);
  }
  __device__ void find(const packed_matrix& weights, const residual_parameters& p,
                       std::uint32_t first_band) {
    const std::uint32_t tile = (first_band + band) / bands_a_tile;
    const packed_row at = find_row(weights, tile, p.groups * 4);
    // Of two sets of constants: worked out from a format that is known when it runs, they would cost as much as a tile.
    const bool q4 = at.format == packed_format::q4_k;
    constexpr packed_format a = packed_format::q4_k, b = packed_format::q6_k;
    group_bytes = 4 * (q4 ? packed_tile_bytes(a) : packed_tile_bytes(b));
    scales_at = q4 ? band_scales_at(a, 0) : band_scales_at(b, 0);
    pair_bytes = 2 * (q4 ? band_quant_bytes(a) : band_quant_bytes(b));
    scale_bytes = q4 ? band_scale_bytes(a) : band_scale_bytes(b);
    row = reinterpret_cast<const std::uint8_t*>(weights.data) + at.offset;
    std::uint32_t next_tile = ~0u;
#pragma unroll
    for (std::uint32_t i = 1; i < packed_matrix::max_runs; ++i) {
      if (weights.first_tile[i] > tile) next_tile = min(next_tile, weights.first_tile[i]);
    }
    run_end = next_tile == ~0u ? ~0u : next_tile * bands_a_tile - first_band;
  }
  // After `group` has moved on.
  __device__ void settle(const packed_matrix& weights, const residual_parameters& p,
                         std::uint32_t first_band) {
    while (group >= p.groups) {
      group -= p.groups;
      ++band;
      if (band == run_end)
        find(weights, p, first_band);
      else if ((first_band + band) % bands_a_tile == 0)
        row += std::size_t{group_bytes} * p.groups;
    }
  }
};

__global__ void __launch_bounds__(threads, 2)
    residual_kernel(const packed_matrix weights, const residual_parameters p) {
  extern __shared__ __align__(128) std::uint8_t shared[];
  const residual_memory at = memory_of(p, gridDim.x);
  const std::uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const std::uint32_t first = p.bands * blockIdx.x / gridDim.x,
                      count = p.bands * (blockIdx.x + 1) / gridDim.x - first;
  std::uint8_t* ring = shared + warp * p.slots * p.slot_bytes;
  auto* full = reinterpret_cast<std::uint64_t*>(shared + at.barriers) + warp * p.slots;
  if (lane < p.slots) {
    barrier_init(full + lane, 1);
    barrier_init_fence();
  }
  __syncwarp();

  const std::uint64_t policy = evict_first_policy();
  const auto format_of_band = [&](std::uint32_t band) {
    return find_row(weights, (first + band) / bands_a_tile, p.groups * 4).format;
  };
  unit_cursor next(weights, p, first, warp);
  const auto fetch = [&](std::uint32_t slot) {
    if (next.band >= count) return;
    if (lane == 0) {
      const std::uint32_t of_tile = (first + next.band) % bands_a_tile, pair = next.pair_bytes;
      const std::uint8_t* from = next.row + std::size_t{next.group} * next.group_bytes;
      std::uint8_t* to = ring + slot * p.slot_bytes;
      barrier_expect(full + slot, 2 * pair + next.scale_bytes);
      copy_bulk(to, from + of_tile * pair, pair, full + slot, policy);
      copy_bulk(to + pair, from + (bands_a_tile + of_tile) * pair, pair, full + slot, policy);
      copy_bulk(to + 2 * pair, from + next.scales_at + of_tile * next.scale_bytes, next.scale_bytes,
                full + slot, policy);
    }
    next.group += warps;
    next.settle(weights, p, first);
  };
  for (std::uint32_t s = 0; s < p.slots; ++s) fetch(s);
  wait_for_previous_kernel();

  // What the kernel before left: all of it is asked for before any of it is waited for.
  constexpr std::uint32_t kAtOnce = 4;
  const std::uint32_t chunks = p.groups * group_columns / 8, features = count * band_rows;
  auto* own = reinterpret_cast<float*>(shared + at.own);  // residual, weight
  const auto load_inputs = [&](std::uint32_t from, uint4(&values)[kAtOnce]) {
#pragma unroll
    for (std::uint32_t k = 0; k < kAtOnce; ++k) {
      const std::uint32_t i = from + k * threads;
      if (i < chunks) values[k] = reinterpret_cast<const uint4*>(p.x)[i];
    }
  };
  const auto load_own = [&](std::uint32_t i) {
    return i < features ? p.y.residual[first * band_rows + i]
                        : p.y.weight[first * band_rows + i - features];
  };
  uint4 inputs[kAtOnce];
  load_inputs(threadIdx.x, inputs);
  const float first_own = threadIdx.x < 2 * features ? load_own(threadIdx.x) : 0.0f;
  for (std::uint32_t from = threadIdx.x; from < chunks; from += kAtOnce * threads) {
    if (from != threadIdx.x) load_inputs(from, inputs);
#pragma unroll
    for (std::uint32_t k = 0; k < kAtOnce; ++k) {
      const std::uint32_t i = from + k * threads;
      if (i < chunks) reinterpret_cast<uint4*>(shared + at.inputs)[i] = inputs[k];
    }
  }
  if (threadIdx.x < 2 * features) own[threadIdx.x] = first_own;
  for (std::uint32_t i = threadIdx.x + threads; i < 2 * features; i += threads)
    own[i] = load_own(i);
  __syncthreads();
  // Not before: its weights would come first, and what this one waits for after them.
  let_next_kernel_start();

  auto* sums = reinterpret_cast<float*>(shared + at.sums);  // [2][bands_a_turn][warps][band_rows]
  const std::uint32_t input = shared_address(shared + at.inputs) + lane / 8 * 16;
  std::uint32_t slot = 0, phase = 0, group = warp;
  for (std::uint32_t begin = 0, turn = 0; begin < count; begin += bands_a_turn, turn ^= 1) {
    const std::uint32_t end = min(begin + bands_a_turn, count);
    float* to = sums + turn * bands_a_turn * warps * band_rows;
    for (std::uint32_t band = begin; band < end; ++band) {
      float sum[2][4] = {};
      const packed_format format = format_of_band(band);
      for (; group < p.groups; group += warps) {
        barrier_wait(full + slot, phase);
        const std::uint8_t* from = ring + slot * p.slot_bytes;
        if (format == packed_format::q4_k)
          multiply_unit<packed_format::q4_k>(sum, from, input + group * 512);
        else
          multiply_unit<packed_format::q6_k>(sum, from, input + group * 512);
        __syncwarp();
        fetch(slot);
        if (++slot == p.slots) {
          slot = 0;
          phase ^= 1;
        }
      }
      group -= p.groups;
      if (lane % 4 == 0) {
        float* mine = to + ((band - begin) * warps + warp) * band_rows + lane / 4;
        mine[0] = sum[0][0] + sum[1][0];
        mine[8] = sum[0][2] + sum[1][2];
      }
    }
    __syncthreads();
    // Eight threads have a band, each of them two features.
    const std::uint32_t band = begin + threadIdx.x / 8, r = threadIdx.x % 8;
    if (band >= end) continue;
    const float* from = to + (band - begin) * warps * band_rows + r;
    float upper = 0.0f, lower = 0.0f;
#pragma unroll
    for (std::uint32_t w = 0; w < warps; ++w) {
      upper += from[w * band_rows];
      lower += from[w * band_rows + 8];
    }
    const float gain = packed_gain(format_of_band(band));
    const std::uint32_t mine = band * band_rows + r, feature = first * band_rows + mine;
    upper = upper * gain + own[mine];
    lower = lower * gain + own[mine + 8];
    p.y.residual[feature] = upper;
    p.y.residual[feature + 8] = lower;
    p.y.normed[feature] = __float2bfloat16(upper * own[features + mine]);
    p.y.normed[feature + 8] = __float2bfloat16(lower * own[features + mine + 8]);
    float squares = upper * upper + lower * lower;
#pragma unroll
    for (int s = 4; s > 0; s /= 2) squares += __shfl_xor_sync(0xFFu << (lane & 24), squares, s);
    if (r == 0) p.y.squares[first + band] = squares;
  }
}

// slots: as many as `shared_bytes` hold, of those a warp has any use for.
residual_parameters parameters_of(const weight_matrix& w, std::uint32_t blocks,
                                  std::uint32_t shared_bytes) {
  residual_parameters p{};
  p.bands = w.rows / band_rows;
  p.groups = w.columns / group_columns;
  for (const packed_format f : w.packed.format) {
    if (f != packed_format::none)
      p.slot_bytes = std::max(p.slot_bytes, 4 * band_quant_bytes(f) + band_scale_bytes(f));
  }
  const std::uint32_t fixed = memory_of(p, blocks).bytes;
  const std::uint32_t units = (p.bands + blocks - 1) / blocks * p.groups;
  const std::uint32_t room = shared_bytes > fixed ? shared_bytes - fixed : 0;
  p.slots =
      std::min({most_slots, (units + warps - 1) / warps, room / (warps * (p.slot_bytes + 8))});
  return p;
}

}  // namespace

residual_tuning& tuning_of_residual() {
  static residual_tuning tuning;
  return tuning;
}

bool can_multiply_into_residual(const weight_matrix& w, std::uint32_t multiprocessors) {
  if (!w.is_packed() || w.rows % band_rows != 0 || w.columns % group_columns != 0) return false;
  for (const packed_format f : w.packed.format) {
    if (f != packed_format::none && f != packed_format::q4_k && f != packed_format::q6_k)
      return false;
  }
  return parameters_of(w, std::min(w.rows / band_rows, multiprocessors), most_shared_bytes).slots >
         0;
}

result<void> multiply_into_residual(const __nv_bfloat16* x, const weight_matrix& w,
                                    const residual_update& y, std::uint32_t multiprocessors,
                                    cudaStream_t stream) {
  TROUPE_ASSERT(can_multiply_into_residual(w, multiprocessors));
  const std::uint32_t blocks = std::min(w.rows / band_rows, multiprocessors);
  residual_parameters p = parameters_of(w, blocks, tuning_of_residual().shared_bytes);
  if (p.slots < 2) p = parameters_of(w, blocks, most_shared_bytes);
  p.x = x;
  p.y = y;
  return launch(
      "multiply_into_residual", residual_kernel,
      {dim3(blocks), dim3(threads), std::max(memory_of(p, blocks).bytes, least_shared_bytes)},
      stream, true, w.packed, p);
}

result<void> prepare_residual() {
  return allow_shared_memory(residual_kernel, most_shared_bytes,
                             "preparing multiply_into_residual");
}

}  // namespace troupe::gpu::cuda
