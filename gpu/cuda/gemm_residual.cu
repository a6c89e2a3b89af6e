// residual += W x of one row over K-quants, and what RMSNorm needs of it.
//
// With one row a step lasts as long as its kernels take to start, to wait for each other and to end, beside the bytes they read. So
// here no sums are left for a kernel that adds them up: one block a multiprocessor has a share of the features, in bands of 16
// (packed.hpp), with all of the reduced dimension. A warp takes every eighth group of 256 columns of two of the block's bands at a time
// (integer_units.cuh), keeps copies of the next ones on their way by itself once a ninth warp has filled the rings, and adds up the
// bands' products in registers. The warps' sums meet in shared memory, where they are added in the order of the warps: no order of
// additions depends on time. 32 features of a block are a sub-block of the row of integers that it leaves.
//
// A block takes more than half of a multiprocessor's shared memory: two of them on one would leave another without.
#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/integer_units.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint32_t warps = 8, threads = warps * 32, most_slots = 8;
constexpr std::uint32_t fed_threads = threads + 32;  // with the warp that fills the rings
constexpr std::uint32_t band_rows = residual_band;
// Bands whose sums wait to be added: of two turns, so that one barrier a turn is enough.
constexpr std::uint32_t bands_a_turn = 4;
constexpr std::uint32_t sum_bytes = 2 * bands_a_turn * warps * band_rows * sizeof(float);
constexpr std::uint32_t most_shared_bytes = 226 * 1024;
// More than half of a multiprocessor's 228 KiB, of which each block takes one beside its own.
constexpr std::uint32_t least_shared_bytes = 113 * 1024 + 16;

struct residual_parameters {
  std::uint32_t bands, groups;
  std::uint32_t slots, slot_bytes;  // of a warp's ring
  std::uint32_t units_ahead;        // on their way at a time until the rings are full
  single_input x;
  residual_update y;
};

struct residual_memory {
  std::uint32_t inputs, sums, own, barriers, bytes;  // offsets; the ring is first
};
// Of a block.
__host__ __device__ inline std::uint32_t most_bands(const residual_parameters& p,
                                                    std::uint32_t blocks) {
  return (p.bands / 2 + blocks - 1) / blocks * 2;
}
__host__ __device__ inline residual_memory memory_of(const residual_parameters& p,
                                                     std::uint32_t blocks) {
  residual_memory m{};
  m.inputs = warps * p.slots * p.slot_bytes;
  m.sums = m.inputs + integer_row_bytes(p.groups);
  m.own = m.sums + sum_bytes;
  m.barriers = m.own + 2 * most_bands(p, blocks) * band_rows * 4;
  m.bytes = m.barriers + (warps * p.slots + 2) * 8;
  return m;
}

// Two bands, which have the same part of the row, and whose instructions take turns: a unit.
constexpr std::uint32_t unit_bands = 2;

// The units of a block that a warp takes, one after the other: where they are, and how large.
struct unit_cursor {
  std::uint32_t band, group;              // of the block's; the first band
  std::uint32_t run_end;                  // the first band of another tensor
  std::uint32_t group_bytes, scales_at;   // scales_at: of band 0 in a group
  std::uint32_t pair_bytes, scale_bytes;  // of a band: its integers are two pairs of tiles
  const std::uint8_t* row;                // the first group of the band's 64 rows

  __device__ unit_cursor(const packed_matrix& weights, const residual_parameters& p,
                         std::uint32_t first_band, std::uint32_t unit)
      : band(0), group(unit) {
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
      band += unit_bands;
      if (band == run_end)
        find(weights, p, first_band);
      else if ((first_band + band) % bands_a_tile == 0)
        row += std::size_t{group_bytes} * p.groups;
    }
  }
};

__global__ void __launch_bounds__(fed_threads, 2)
    residual_kernel(const packed_matrix weights, const residual_parameters p) {
  extern __shared__ __align__(128) std::uint8_t shared[];
  const residual_memory at = memory_of(p, gridDim.x);
  const std::uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // By sub-blocks of the row that it makes.
  const std::uint32_t first = p.bands / 2 * blockIdx.x / gridDim.x * 2,
                      count = p.bands / 2 * (blockIdx.x + 1) / gridDim.x * 2 - first;
  std::uint8_t* ring = shared + warp * p.slots * p.slot_bytes;
  const integer_row row(shared + at.inputs, p.groups);
  auto* barriers = reinterpret_cast<std::uint64_t*>(shared + at.barriers);
  std::uint64_t *full = barriers + warp * p.slots, *landed = barriers + warps * p.slots,
                *filled = landed + 1;  // all rings, once
  for (std::uint32_t i = threadIdx.x; i < warps * p.slots + 2; i += fed_threads)
    barrier_init(barriers + i, 1);
  barrier_init_fence();
  __syncthreads();

  const std::uint64_t policy = evict_first_policy();
  const auto format_of_band = [&](std::uint32_t band) {
    return find_row(weights, (first + band) / bands_a_tile, p.groups * 4).format;
  };
  const auto fetch = [&](const unit_cursor& next, std::uint8_t* to, std::uint64_t* bar) {
    const std::uint32_t of_tile = (first + next.band) % bands_a_tile, pair = next.pair_bytes;
    const std::uint8_t* from = next.row + std::size_t{next.group} * next.group_bytes;
    const std::uint32_t bytes = unit_bands * pair, scales = unit_bands * next.scale_bytes;
    barrier_expect(bar, 2 * bytes + scales);
    copy_bulk(to, from + of_tile * pair, bytes, bar, policy);
    copy_bulk(to + bytes, from + (bands_a_tile + of_tile) * pair, bytes, bar, policy);
    copy_bulk(to + 2 * bytes, from + next.scales_at + of_tile * next.scale_bytes, scales, bar,
              policy);
  };
  if (warp == warps) {
    // At memory's pace: what the kernel before still asks for would wait behind whole rings. Nobody refills before the end, so that
    // these barriers see one phase.
    let_next_kernel_start();
    if (!elect_lane()) return;
    const auto place = [&](std::uint32_t unit) { return unit % warps * p.slots + unit / warps; };
    const std::uint32_t units = min(count / unit_bands * p.groups, warps * p.slots);
    unit_cursor next(weights, p, first, 0);
    for (std::uint32_t u = 0; u < units; ++u) {
      if (u >= p.units_ahead) barrier_wait(barriers + place(u - p.units_ahead), 0);
      fetch(next, shared + place(u) * p.slot_bytes, barriers + place(u));
      ++next.group;
      next.settle(weights, p, first);
    }
    barrier_arrive(filled);
    return;
  }
  unit_cursor next(weights, p, first, warp + warps * p.slots);
  const auto refill = [&](std::uint32_t slot) {
    if (next.band >= count) return;
    if (elect_lane()) fetch(next, ring + slot * p.slot_bytes, full + slot);
    next.group += warps;
    next.settle(weights, p, first);
  };
  wait_for_previous_kernel();

  // What the kernel before left, and what this one adds to.
  if (p.x.integers != nullptr && threadIdx.x == 0) {
    const std::uint32_t bytes = p.groups * integer_group_bytes;
    barrier_expect(landed, bytes);
    copy_bulk(row.integers, p.x.integers, bytes, landed, evict_normal_policy());
  }
  const std::uint32_t features = count * band_rows;
  auto* own = reinterpret_cast<float*>(shared + at.own);  // residual, weight
  const auto load_own = [&](std::uint32_t i) {
    return i < features ? p.y.residual[first * band_rows + i]
                        : p.y.weight[first * band_rows + i - features];
  };
  const float first_own = threadIdx.x < 2 * features ? load_own(threadIdx.x) : 0.0f;
  if (p.x.integers == nullptr) make_integers<4>(p.x.values, p.groups, warp, warps, row);
  if (threadIdx.x < 2 * features) own[threadIdx.x] = first_own;
  for (std::uint32_t i = threadIdx.x + threads; i < 2 * features; i += threads)
    own[i] = load_own(i);
  sync_threads(1, threads);
  if (p.x.integers != nullptr) barrier_wait(landed, 0);
  // Not before: its weights would come first, and what this one waits for after them.
  let_next_kernel_start();

  auto* sums = reinterpret_cast<float*>(shared + at.sums);  // [2][bands_a_turn][warps][band_rows]
  const scale_finder scales;
  std::uint32_t slot = 0, phase = 0, group = warp;
  bool all_filled = false;
  for (std::uint32_t begin = 0, turn = 0; begin < count; begin += bands_a_turn, turn ^= 1) {
    const std::uint32_t end = min(begin + bands_a_turn, count);
    float* to = sums + turn * bands_a_turn * warps * band_rows;
    for (std::uint32_t band = begin; band < end; band += unit_bands) {
      float sum[unit_bands][2] = {};
      const packed_format format = format_of_band(band);
      for (; group < p.groups; group += warps) {
        barrier_wait(full + slot, phase);
        const std::uint8_t* from = ring + slot * p.slot_bytes;
        const group_operands operands(row, group, scales);
        const auto multiply = [&]<packed_format kFormat>() {
          constexpr std::uint32_t kPair = 2 * band_quant_bytes(kFormat),
                                  kBytes = unit_bands * kPair;
#pragma unroll
          for (std::uint32_t b = 0; b < unit_bands; ++b) {
            multiply_unit<kFormat, kBytes>(sum[b], from + b * kPair,
                                           from + 2 * kBytes + b * band_scale_bytes(kFormat),
                                           operands, scales);
          }
        };
        if (format == packed_format::q4_k)
          multiply.template operator()<packed_format::q4_k>();
        else
          multiply.template operator()<packed_format::q6_k>();
        __syncwarp();
        if (!all_filled) barrier_wait(filled, 0);
        all_filled = true;
        refill(slot);
        if (++slot == p.slots) {
          slot = 0;
          phase ^= 1;
        }
      }
      group -= p.groups;
#pragma unroll
      for (std::uint32_t b = 0; b < unit_bands; ++b) {
        add_lanes_of_row(sum[b]);
        if (lane % 4 != 0) continue;
        float* mine = to + ((band + b - begin) * warps + warp) * band_rows + lane / 4;
        mine[0] = sum[b][0];
        mine[8] = sum[b][1];
      }
    }
    sync_threads(1, threads);
    // A warp adds them up. Eight of its lanes have a band, each of them two features.
    if (warp != 0) continue;
    const std::uint32_t band = begin + lane / 8, r = lane % 8;
    const bool present = band < end;
    const std::uint32_t mine = present ? band * band_rows + r : 0,
                        feature = first * band_rows + mine;
    const float* from = to + (present ? (band - begin) * warps * band_rows : 0) + r;
    float upper = 0.0f, lower = 0.0f;
#pragma unroll
    for (std::uint32_t w = 0; w < warps; ++w) {
      upper += from[w * band_rows];
      lower += from[w * band_rows + 8];
    }
    upper += own[mine];
    lower += own[mine + 8];
    float squares = upper * upper + lower * lower;
#pragma unroll
    for (int s = 4; s > 0; s /= 2) squares += __shfl_xor_sync(~0u, squares, s);
    if (present) {
      p.y.residual[feature] = upper;
      p.y.residual[feature + 8] = lower;
      if (r == 0) p.y.squares[first + band] = squares;
    }
    upper *= own[features + mine];
    lower *= own[features + mine + 8];
    for (std::uint32_t b = begin; b < end; b += 2) {
      // The lane that has this one's value: of 16 features of a band the first eight are `upper`.
      const std::uint32_t source = (b - begin + lane / 16) * 8 + lane % 8;
      const float of_upper = __shfl_sync(~0u, upper, source),
                  of_lower = __shfl_sync(~0u, lower, source);
      store_integers(lane % 16 < 8 ? of_upper : of_lower, (first + b) / 2, p.bands / 16,
                     p.y.normed);
    }
  }
}

// One a multiprocessor, each with a sub-block at least.
std::uint32_t blocks_of(const weight_matrix& w, std::uint32_t multiprocessors) {
  return std::min(w.rows / (2 * band_rows), multiprocessors);
}

// slots: as many as `shared_bytes` hold, of those a warp has any use for.
residual_parameters parameters_of(const weight_matrix& w, std::uint32_t blocks,
                                  std::uint32_t shared_bytes) {
  residual_parameters p{};
  p.bands = w.rows / band_rows;
  p.groups = w.columns / group_columns;
  for (const packed_format f : w.packed.format) {
    if (f != packed_format::none)
      p.slot_bytes =
          std::max(p.slot_bytes, unit_bands * (4 * band_quant_bytes(f) + band_scale_bytes(f)));
  }
  const std::uint32_t fixed = memory_of(p, blocks).bytes;
  const std::uint32_t units = most_bands(p, blocks) / unit_bands * p.groups;
  const std::uint32_t room = shared_bytes > fixed ? shared_bytes - fixed : 0;
  p.slots =
      std::min({most_slots, (units + warps - 1) / warps, room / (warps * (p.slot_bytes + 8))});
  return p;
}

}  // namespace

bool can_multiply_into_residual(const weight_matrix& w, std::uint32_t multiprocessors) {
  if (!can_multiply_single(w) || w.rows % group_columns != 0) return false;
  return parameters_of(w, blocks_of(w, multiprocessors), most_shared_bytes).slots > 0;
}

result<void> multiply_into_residual(const single_input& x, const weight_matrix& w,
                                    const residual_update& y, std::uint32_t multiprocessors,
                                    cudaStream_t stream) {
  TROUPE_ASSERT(can_multiply_into_residual(w, multiprocessors));
  const std::uint32_t blocks = blocks_of(w, multiprocessors);
  residual_parameters p = parameters_of(w, blocks, tuning_of_single().residual_shared_bytes);
  if (p.slots < 2) p = parameters_of(w, blocks, most_shared_bytes);
  p.units_ahead = tuning_of_single().units_ahead;
  p.x = x;
  p.y = y;
  return launch(
      "multiply_into_residual", residual_kernel,
      {dim3(blocks), dim3(fed_threads), std::max(memory_of(p, blocks).bytes, least_shared_bytes)},
      stream, true, w.packed, p);
}

result<void> prepare_residual() {
  return allow_shared_memory(residual_kernel, most_shared_bytes,
                             "preparing multiply_into_residual");
}

}  // namespace troupe::gpu::cuda
