// y = W x of one row over K-quants: a block has 64 features over some of the reduced dimension, as multiply_narrow's; one thread
// keeps copies of tiles on their way, and each of four warps multiplies its band of them by integers (integer_units.cuh).
#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_narrow.cuh"
#include "gpu/cuda/integer_units.cuh"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/ordered.cuh"
#include "gpu/cuda/row_parts.cuh"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint32_t most_stages = 16, most_shared_bytes = 226 * 1024;
// A row of so many, in integers, leaves room for two stages.
constexpr std::uint32_t most_columns = 65536;
// Barriers, four sums of squares, and 32 outputs.
constexpr std::uint32_t barrier_bytes = (2 * most_stages + 2) * sizeof(std::uint64_t) + 16 + 128;

struct single_parameters {
  std::uint32_t features, groups, splits;  // groups: of 256 columns
  std::uint32_t ring_bytes;                // of shared memory; as many stages as fit are used
  std::uint32_t stages_ahead,
      stages_later;  // on their way at a time, until the row is there and then
  const std::uint8_t* x;
  single_output y;
  row_norm norm;
};
__host__ __device__ constexpr std::uint32_t stage_bytes(packed_format f) {
  return packed_group(f) * packed_tile_bytes(f);
}
__host__ __device__ constexpr std::uint32_t stages_of(packed_format f, std::uint32_t ring_bytes) {
  const std::uint32_t fit = ring_bytes / stage_bytes(f);
  return fit < most_stages ? fit : most_stages;
}

struct single_ring {
  std::uint8_t* stages;
  std::uint64_t *full, *empty;
  std::uint32_t count;
};
// Behind the ring: barriers, sums of squares of the warps, outputs of all of them, the row.
struct single_inputs {
  std::uint64_t* landed;
  float *squares, *outputs;
  integer_row row;
  __device__ single_inputs(std::uint8_t* shared, const single_parameters& p, std::uint32_t groups)
      : landed(reinterpret_cast<std::uint64_t*>(shared + p.ring_bytes) + 2 * most_stages),
        squares(reinterpret_cast<float*>(landed + 2)),
        outputs(squares + 4),
        row(shared + p.ring_bytes + barrier_bytes, groups) {}
};

// The row's groups from `first` on, by `threads` threads of which this is `thread`. By loads: copies would queue behind those of
// weights. Blocks begin at different places: all would wait for each other at the same lines of L2.
__device__ __forceinline__ void load_row(const single_parameters& p, const integer_row& to,
                                         std::uint32_t first, std::uint32_t groups,
                                         std::uint32_t thread, std::uint32_t threads) {
  constexpr std::uint32_t kAtOnce = 5, kIntegers = group_bytes / 16,
                          kAll = integer_group_bytes / 16, kPairs = kAll - kIntegers;
  const auto* from = reinterpret_cast<const uint4*>(p.x);
  auto* out = reinterpret_cast<uint4*>(to.integers);
  const std::uint32_t count = groups * kAll, begin = blockIdx.x * 41 % count;
  const auto place = [&](std::uint32_t i) {
    return i + begin < count ? i + begin : i + begin - count;
  };
  for (std::uint32_t i = thread; i < count; i += kAtOnce * threads) {
    uint4 values[kAtOnce];
#pragma unroll
    for (std::uint32_t k = 0; k < kAtOnce; ++k) {
      if (i + k * threads >= count) break;
      const std::uint32_t at = place(i + k * threads);
      values[k] = at < groups * kIntegers
                      ? from[first * kIntegers + at]
                      : from[p.groups * kIntegers + first * kPairs + at - groups * kIntegers];
    }
#pragma unroll
    for (std::uint32_t k = 0; k < kAtOnce; ++k) {
      if (i + k * threads < count) out[place(i + k * threads)] = values[k];
    }
  }
}

template <packed_format kFormat>
__device__ __forceinline__ void produce(const single_ring& ring, const std::uint8_t* weights,
                                        const single_parameters& p, const single_inputs& inputs,
                                        std::uint32_t first, std::uint32_t groups) {
  constexpr std::uint32_t kBytes = stage_bytes(kFormat);
  const std::uint64_t policy = evict_first_policy();
  pacer pace(p.stages_ahead, p.stages_later, ring.count, nullptr, ring.full, inputs.landed);
  packed_ring_position at;
  for (std::uint32_t g = 0; g < groups; ++g, at.advance(ring.count)) {
    pace.wait(g);
    if (g >= ring.count) barrier_wait(ring.empty + at.stage, at.phase ^ 1);
    barrier_expect(ring.full + at.stage, kBytes);
    copy_bulk(ring.stages + at.stage * kBytes, weights + std::size_t{first + g} * kBytes, kBytes,
              ring.full + at.stage, policy);
  }
}

template <packed_format kFormat>
__device__ __forceinline__ void consume(float (&sum)[2], const single_ring& ring,
                                        const integer_row& row, std::uint32_t groups) {
  constexpr std::uint32_t kPairStep = 2 * packed_quant_bytes(kFormat);
  const std::uint32_t band = threadIdx.x / 32;
  const scale_finder scales;
  packed_ring_position at;
  for (std::uint32_t g = 0; g < groups; ++g, at.advance(ring.count)) {
    const std::uint8_t* stage = ring.stages + at.stage * stage_bytes(kFormat);
    barrier_wait(ring.full + at.stage, at.phase);
    multiply_unit<kFormat, kPairStep>(sum, stage + band_quants_at(kFormat, 0, band),
                                      stage + band_scales_at(kFormat, band),
                                      group_operands(row, g, scales), scales);
    warp_arrive(ring.empty + at.stage);
  }
  add_lanes_of_row(sum);
}

// The highest of a block's outputs, of which this thread has `feature` and the one 8 below. keys: room for a warp's each.
__device__ __forceinline__ void find_highest(float upper, float lower, std::uint32_t feature,
                                             std::uint32_t features, unsigned long long* keys,
                                             unsigned long long* argmax) {
  const auto key = [&](float y, std::uint32_t f) { return f < features ? argmax_key(y, f) : 0; };
  unsigned long long best = max(key(upper, feature), key(lower, feature + 8));
#pragma unroll
  for (int i = 16; i >= 4; i /= 2) best = max(best, __shfl_xor_sync(~0u, best, i));
  if (threadIdx.x % 32 == 0) keys[threadIdx.x / 32] = best;
  sync_threads(1, 128);
  if (threadIdx.x == 0) atomicMax(argmax, max(max(keys[0], keys[1]), max(keys[2], keys[3])));
}

template <bool kFindsArgmax>
__global__ void __launch_bounds__(160)
    single_kernel(const packed_matrix weights, const single_parameters p) {
  extern __shared__ __align__(128) std::uint8_t shared[];
  const std::uint32_t tile = blockIdx.x / p.splits, split = blockIdx.x % p.splits;
  const std::uint32_t first = p.groups * split / p.splits,
                      groups = p.groups * (split + 1) / p.splits - first;
  auto* full = reinterpret_cast<std::uint64_t*>(shared + p.ring_bytes);
  const single_inputs inputs(shared, p, groups);
  if (threadIdx.x < most_stages) {
    barrier_init(full + threadIdx.x, 1);
    barrier_init(full + most_stages + threadIdx.x, 4 * arrivals_of_warp);
    if (threadIdx.x == 0) barrier_init(inputs.landed, 4 * arrivals_of_warp);
    barrier_init_fence();
  }
  const packed_row source = find_row(weights, tile, p.groups * 4);
  const auto* row = reinterpret_cast<const std::uint8_t*>(weights.data) + source.offset;
  __syncthreads();
  let_next_kernel_start();
  const auto with_k_quant = [&](auto&& f) {
    if (source.format == packed_format::q4_k)
      f.template operator()<packed_format::q4_k>();
    else
      f.template operator()<packed_format::q6_k>();
  };
  const auto ring_of = [&](packed_format f) {
    return single_ring{shared, full, full + most_stages, stages_of(f, p.ring_bytes)};
  };
  if (threadIdx.x >= 128) {
    if (threadIdx.x > 128) return;
    with_k_quant([&]<packed_format kFormat>() {
      produce<kFormat>(ring_of(kFormat), row, p, inputs, first, groups);
    });
    return;
  }
  const std::uint32_t warp = threadIdx.x / 32;
  wait_for_previous_kernel();
  float squares = 0.0f;
  for (std::uint32_t i = threadIdx.x; i < p.norm.parts; i += 128) squares += p.norm.squares[i];
  load_row(p, inputs.row, first, groups, threadIdx.x, 128);
  warp_arrive(inputs.landed);
  sync_threads(1, 128);
  float sum[2] = {};
  with_k_quant([&]<packed_format kFormat>() {
    consume<kFormat>(sum, ring_of(kFormat), inputs.row, groups);
  });

  const std::uint32_t lane = threadIdx.x % 32, slab = tile * 64 + threadIdx.x / 32 * 16,
                      feature = slab + lane / 4;
  float factor = 1.0f;
  if (p.norm.squares != nullptr) {
    squares = warp_sum(squares);
    if (lane == 0) inputs.squares[warp] = squares;
    sync_threads(1, 128);
    const float4 of_warps = *reinterpret_cast<const float4*>(inputs.squares);
    // Not `/`: its slow path is a call, which costs registers everywhere.
    factor = rsqrtf(__fdividef(of_warps.x + of_warps.y + of_warps.z + of_warps.w,
                               static_cast<float>(p.groups * group_columns)) +
                    p.norm.epsilon);
  }
  const float upper = sum[0] * factor, lower = sum[1] * factor;
  if (p.y.gated != nullptr) {
    if (lane % 4 == 0) inputs.outputs[warp * 8 + lane / 4] = silu(upper) * lower;
    sync_threads(1, 128);
    if (warp == 0) store_integers(inputs.outputs[lane], tile, p.features / 512, p.y.gated);
    return;
  }
  if constexpr (kFindsArgmax) {
    find_highest(upper, lower, feature, p.features,
                 reinterpret_cast<unsigned long long*>(inputs.outputs), p.y.argmax);
  }
  if (lane % 4 != 0) return;
  float* y = p.y.partial + std::size_t{split} * p.features;
  if (feature < p.features) y[feature] = upper;
  if (feature + 8 < p.features) y[feature + 8] = lower;
}

}  // namespace

single_tuning& tuning_of_single() {
  static single_tuning tuning;
  return tuning;
}

bool can_multiply_single(const weight_matrix& w) {
  if (!w.is_packed() || w.columns % group_columns != 0 || w.columns > most_columns) return false;
  return std::all_of(std::begin(w.packed.format), std::end(w.packed.format), [](packed_format f) {
    return f == packed_format::none || f == packed_format::q4_k || f == packed_format::q6_k;
  });
}

result<void> multiply_single(const std::uint8_t* x, const weight_matrix& w, const single_output& y,
                             const single_options& options, cudaStream_t stream) {
  TROUPE_ASSERT(can_multiply_single(w));
  TROUPE_ASSERT((y.gated == nullptr) != (y.partial == nullptr));
  TROUPE_ASSERT(y.gated == nullptr || w.rows % (2 * group_columns) == 0);
  single_parameters p{};
  p.features = w.rows;
  p.groups = w.columns / group_columns;
  p.splits = options.splits;
  TROUPE_ASSERT(p.splits >= 1 && p.splits <= p.groups && (p.splits == 1 || y.gated == nullptr));
  p.x = x;
  p.y = y;
  p.norm = options.norm;
  const std::uint32_t groups = (p.groups + p.splits - 1) / p.splits;
  p.stages_ahead = tuning_of_single().stages_ahead;
  p.stages_later = tuning_of_single().stages_later;
  const std::uint32_t fixed = integer_row_bytes(groups) + barrier_bytes;
  std::uint32_t largest = 0;
  for (const packed_format f : w.packed.format) {
    if (f != packed_format::none) largest = std::max(largest, stage_bytes(f));
  }
  // At least two stages, at most what a block's part fills.
  const std::uint32_t most = std::max(tuning_of_single().ring_shared_bytes, fixed + 2 * largest);
  for (const packed_format f : w.packed.format) {
    if (f == packed_format::none) continue;
    const std::uint32_t stages = std::min(stages_of(f, most - fixed), groups);
    p.ring_bytes = std::max(p.ring_bytes, stages * stage_bytes(f));
  }
  TROUPE_ASSERT(p.ring_bytes + fixed <= most_shared_bytes);
  TROUPE_ASSERT(y.argmax == nullptr || (p.splits == 1 && y.gated == nullptr));
  return launch("multiply_single", y.argmax == nullptr ? single_kernel<false> : single_kernel<true>,
                {dim3((w.rows + 63) / 64 * p.splits), dim3(160), p.ring_bytes + fixed}, stream,
                true, w.packed, p);
}

result<void> prepare_single() {
  const char* doing = "preparing multiply_single";
  TROUPE_CHECK(allow_shared_memory(single_kernel<false>, most_shared_bytes, doing));
  return allow_shared_memory(single_kernel<true>, most_shared_bytes, doing);
}

}  // namespace troupe::gpu::cuda
