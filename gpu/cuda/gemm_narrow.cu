#include <algorithm>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_narrow.cuh"
#include "gpu/cuda/gemm_units.cuh"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/tensor_map.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr std::uint32_t group_bytes = bf16_tile_bytes;  // 64 rows of a stage

__host__ __device__ constexpr int stages_for(int groups, int width) {
  if (width == 256) return 4;
  return (104 * 1024) /
         (groups * static_cast<int>(group_bytes) + width * 128);  // two blocks a multiprocessor
}
// Stages on their way while the kernel before runs. More of them would not come sooner, and what that one asks for queues
// behind them.
__host__ __device__ constexpr std::uint32_t stages_ahead(int width) {
  return width <= 16 ? 2 : 4;
}
__host__ __device__ constexpr std::size_t shared_bytes_for(int groups, int width) {
  return static_cast<std::size_t>(stages_for(groups, width)) *
             (groups * group_bytes + width * 128) +
         384;
}

template <int kGroups, int kWidth>
__global__ void __launch_bounds__(kGroups * 128 + 64)
    narrow_kernel(const bf16_tiles weights, const __grid_constant__ CUtensorMap activations,
                  const narrow_parameters p) {
  constexpr int kStages = stages_for(kGroups, kWidth);
  constexpr int kBoxRows = kWidth < 64 ? kWidth : 64;
  constexpr std::uint32_t kWeightBytes = kGroups * group_bytes,
                          kStageBytes = kWeightBytes + kWidth * 128;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t* tiles = shared;
  auto* full = reinterpret_cast<std::uint64_t*>(tiles + kStages * kStageBytes);
  auto* empty = full + kStages;
  auto* landed = empty + kStages;  // the weights of a stage, at the ring's first turn

  const std::uint32_t feature_tiles = (p.features + kGroups * 64 - 1) / (kGroups * 64);
  const tile_position tile = locate(blockIdx.x, p, feature_tiles);
  const std::uint32_t first_step = first_step_of(p, tile.split);
  const std::uint32_t steps = first_step_of(p, tile.split + 1) - first_step;
  const std::uint32_t feature0 = tile.feature_tile * kGroups * 64, row0 = tile.row_tile * kWidth;

  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + s, 2);  // weights, activations
      barrier_init(empty + s, kGroups);
      barrier_init(landed + s, 1);
    }
    barrier_init_fence();
  }
  __syncthreads();
  let_next_kernel_start();

  const int warp = static_cast<int>(threadIdx.x) / 32;
  const std::uint32_t ahead = min(steps, static_cast<std::uint32_t>(kStages));
  if (warp == kGroups * 4) {  // feeds weights
    if (threadIdx.x % 32 != 0) return;
    const std::uint64_t policy = evict_first_policy();
    const std::uint8_t* from[kGroups];
#pragma unroll
    for (int g = 0; g < kGroups; ++g) from[g] = weights.at(feature0 + g * 64, first_step);
    const auto load = [&](std::uint32_t step, std::uint32_t stage, std::uint64_t* bar) {
      barrier_expect(bar, kWeightBytes);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        copy_bulk(tiles + stage * kStageBytes + g * group_bytes,
                  from[g] + std::size_t{step} * bf16_tile_bytes, group_bytes, bar, policy);
      }
    };
    // Weights do not depend on the kernel before: they fill the ring while it still runs.
    const std::uint32_t at_once = min(ahead, stages_ahead(kWidth));
    for (std::uint32_t s = 0; s < ahead + at_once; ++s) {
      if (s >= at_once) {
        barrier_wait(landed + s - at_once, 0);
        barrier_arrive(full + s - at_once);
      }
      if (s < ahead) load(s, s, landed + s);
    }
    ring_position<kStages> at;
    for (std::uint32_t s = kStages; s < steps; ++s, at.advance()) {
      barrier_wait(empty + at.stage, at.phase);
      load(s, at.stage, full + at.stage);
    }
    return;
  }
  if (warp == kGroups * 4 + 1) {  // feeds activations
    if (threadIdx.x % 32 != 0) return;
    const auto load = [&](std::uint32_t step, std::uint32_t stage) {
      barrier_expect(full + stage, (kWidth > 8 ? kWidth : p.box_rows) * 128);
      for (int r = 0; r < kWidth; r += kBoxRows) {
        copy_tile_2d(tiles + stage * kStageBytes + kWeightBytes + r * 128, &activations,
                     full + stage, static_cast<int>((first_step + step) * depth_step),
                     static_cast<int>(row0 + r));
      }
    };
    wait_for_previous_kernel();
    for (std::uint32_t s = 0; s < ahead; ++s) load(s, s);
    ring_position<kStages> at;
    for (std::uint32_t s = kStages; s < steps; ++s, at.advance()) {
      barrier_wait(empty + at.stage, at.phase);
      load(s, at.stage);
    }
    return;
  }

  const int group = warp / 4;
  float sum[kWidth / 2];
  ring_position<kStages> at;
  consume_bf16<kWidth>(sum, at, {tiles, kStageBytes, kWeightBytes, full, empty}, group, steps);
  store_tile<kWidth>(p, tile.split, feature0 + group * 64, row0, sum);
}

template <int kGroups, int kWidth>
result<void> run(const activation_matrix& x, const weight_matrix& w, narrow_parameters p,
                 bool early, cudaStream_t stream) {
  p.box_rows = activation_matrix::box_rows(p.rows, kWidth);
  p.row_tiles = (p.rows + kWidth - 1) / kWidth;
  const std::uint32_t feature_tiles = (p.features + kGroups * 64 - 1) / (kGroups * 64);
  const launch_shape shape{dim3(feature_tiles * p.splits * p.row_tiles), dim3(kGroups * 128 + 64),
                           shared_bytes_for(kGroups, kWidth)};
  return launch("multiply_narrow", narrow_kernel<kGroups, kWidth>, shape, stream, early,
                bf16_tiles::of(w.data, w.rows, w.columns), x.box(p.box_rows), p);
}

template <int kGroups>
result<void> run_width(const activation_matrix& x, const weight_matrix& w,
                       const narrow_parameters& p, bool early, cudaStream_t stream) {
  if (p.rows <= 8) return run<kGroups, 8>(x, w, p, early, stream);
  if (p.rows <= 16) return run<kGroups, 16>(x, w, p, early, stream);
  if (p.rows <= 32) return run<kGroups, 32>(x, w, p, early, stream);
  if (p.rows <= 64) return run<kGroups, 64>(x, w, p, early, stream);
  if (p.rows <= 128) return run<kGroups, 128>(x, w, p, early, stream);
  return run<kGroups, 256>(x, w, p, early, stream);
}

template <int kGroups, int... kWidths>
result<void> prepare_widths() {
  result<void> done;
  ((done =
        done ? allow_shared_memory(narrow_kernel<kGroups, kWidths>,
                                   shared_bytes_for(kGroups, kWidths), "preparing multiply_narrow")
             : done),
   ...);
  return done;
}

}  // namespace

result<void> prepare_packed();
result<void> multiply_packed(const activation_matrix& x, const packed_matrix& w,
                             const narrow_parameters& p, bool early, cudaStream_t stream);

result<void> prepare_narrow() {
  TROUPE_CHECK(prepare_packed());
  TROUPE_CHECK(prepare_widths<1, 8, 16, 32, 64, 128, 256>());
  return prepare_widths<2, 8, 16, 32, 64, 128, 256>();
}

result<void> multiply_narrow(const activation_matrix& x, std::uint32_t rows, const weight_matrix& w,
                             const narrow_output& y, const narrow_options& options,
                             cudaStream_t stream) {
  TROUPE_ASSERT(x.columns == w.columns && rows > 0 && rows <= x.capacity);
  TROUPE_ASSERT((y.gated == nullptr) != (y.partial == nullptr));
  TROUPE_ASSERT(y.gated == nullptr || options.splits == 1);
  narrow_parameters p{};
  p.features = w.rows;
  p.depth_steps = (w.columns + depth_step - 1) / depth_step;
  p.rows = rows;
  p.splits = options.splits;
  TROUPE_ASSERT(p.splits >= 1 && p.splits <= p.depth_steps);
  p.partial = y.partial;
  p.gated = y.gated;
  p.scales = w.packed.row_scales;
  if (w.is_packed() && !options.unpacked)
    return multiply_packed(x, w.packed, p, options.early, stream);
  return options.tile_groups == 1 ? run_width<1>(x, w, p, options.early, stream)
                                  : run_width<2>(x, w, p, options.early, stream);
}

result<quantized_rows> make_quantized_rows(std::uint8_t* data, float* scales,
                                           std::uint32_t capacity, std::uint32_t columns) {
  TROUPE_TRY(const CUtensorMap map, make_byte_map(data, capacity, columns, 64));
  return quantized_rows{data, scales, columns, map};
}

result<activation_matrix> make_activation_matrix(__nv_bfloat16* data, std::uint32_t capacity,
                                                 std::uint32_t columns) {
  TROUPE_ASSERT(capacity % 128 == 0);
  activation_matrix made{data, capacity, columns, {}};
  for (std::uint32_t i = 0; i < made.maps.size(); ++i) {
    TROUPE_TRY(made.maps[i], make_matrix_map(data, half_type::bf16, capacity, columns, 1u << i));
  }
  return made;
}

}  // namespace troupe::gpu::cuda
