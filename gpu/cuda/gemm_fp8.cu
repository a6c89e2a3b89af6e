// Products of many rows in E4M3: activations quantized row by row, weights as packed.hpp's f8 tiles. Sums are f32 of the
// tensor cores' precision for E4M3, scaled by the row's and the feature's scale when they are stored.
#include "gpu/cuda/f8.cuh"
#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_units.cuh"
#include "gpu/cuda/gemm_wide.cuh"
#include "gpu/cuda/launch.hpp"

namespace troupe::gpu::cuda {
namespace {

using namespace wide;

constexpr std::uint32_t tile_bytes = packed_tile_bytes(packed_format::f8);
constexpr std::uint32_t depth_step =
    128;  // values of the reduced dimension a stage: two tiles of weights

template <int kWidth>
struct f8_tile {
  static constexpr int stages = kWidth == 256 ? 4 : 6;
  static constexpr std::uint32_t column_bytes = kWidth / 64 * tile_bytes;  // 64 columns of weights
  static constexpr std::uint32_t stage_bytes = row_bytes + 2 * column_bytes;
  static constexpr std::uint32_t scale_bytes = kWidth * sizeof(float);  // a group
  static constexpr std::size_t shared_bytes =
      stages * stage_bytes + staging_bytes + groups * scale_bytes + 256;
};

struct f8_parameters {
  wide_parameters shape;
  const std::byte* weights;
  const float *row_scales, *feature_scales;
  float* partial;  // [splits][rows][features], or the output's map is used
  std::uint32_t rows, features, depth_tiles;  // depth_tiles: of 64 columns
};

// Block: a row of at most kRuns times 4096 columns. Of 16 columns the order is that of the weights' tiles.
template <std::uint32_t kRuns>
__global__ void __launch_bounds__(256)
    quantize_rows_kernel(const __nv_bfloat16* from, std::uint32_t columns, std::uint8_t* to,
                         float* scales) {
  __shared__ float highest[8];
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::size_t row = std::size_t{blockIdx.x} * columns;
  uint4 values[kRuns][2];
  __nv_bfloat162 largest = __float2bfloat162_rn(0.0f);
#pragma unroll
  for (std::uint32_t r = 0; r < kRuns; ++r) {
    const std::uint32_t at = (threadIdx.x + r * 256) * 16;
    if (at >= columns) continue;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      values[r][h] = reinterpret_cast<const uint4*>(from + row + at)[h];
      const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&values[r][h]);
#pragma unroll
      for (int i = 0; i < 4; ++i) largest = __hmax2(largest, __habs2(pairs[i]));
    }
  }
  float most = fmaxf(__low2float(largest), __high2float(largest));
  most = most_of_block<8>(most, highest);
  const float scale = f8_scale(most), inverse = 1.0f / scale;
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
#pragma unroll
  for (std::uint32_t r = 0; r < kRuns; ++r) {
    const std::uint32_t at = (threadIdx.x + r * 256) * 16;
    if (at >= columns) continue;
    uint4 packed;
    auto* words = reinterpret_cast<std::uint32_t*>(&packed);
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      std::uint32_t word = 0;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float2 v =
            __bfloat1622float2(reinterpret_cast<const __nv_bfloat162*>(&values[r][h])[t]);
        word |= f8_pair(v.x * inverse, v.y * inverse) << (16 * h);
      }
      words[t] = word;
    }
    *reinterpret_cast<uint4*>(to + row + at) = packed;
  }
}

// By a warp, whose lanes have a copy each: one thread that asks for all of them one after the other does not keep up with
// the tensor cores.
template <int kWidth, int kBlocks>
__device__ inline void feed(const CUtensorMap& rows, const f8_parameters& p, std::uint8_t* tiles,
                            std::uint64_t* full, std::uint64_t* empty) {
  using shape = f8_tile<kWidth>;
  const std::uint64_t policy = evict_normal_policy();
  const std::uint32_t all_columns = (p.features + 63) / 64;  // tiles of 64 features
  constexpr std::uint32_t all = kWidth / 64, row_lane = 16;
  const std::uint32_t lane = threadIdx.x % 32, f = lane / 2, d = lane % 2;
  const bool has_rows = lane >= row_lane && lane < row_lane + groups;
  ring_position<shape::stages> at;
  for (std::uint32_t t = blockIdx.x / kBlocks; t < count_work(p.shape); t += gridDim.x / kBlocks) {
    const wide_work work = find_work<kBlocks>(t, p.shape);
    const std::uint32_t first = work.tile.feature_tile * all;
    const std::uint32_t present = min(all, all_columns - first);
    const std::byte* weights =
        p.weights + (std::size_t{first + f} * p.depth_tiles + d) * tile_bytes;
    const auto row = static_cast<int>(work.tile.row_tile * 128 + (lane - row_lane) * 64);
    for (std::uint32_t s = work.begin; s < work.end; ++s, at.advance()) {
      const std::uint32_t depth = min(2u, p.depth_tiles - 2 * s);
      std::uint8_t* to = tiles + at.stage * shape::stage_bytes;
      barrier_wait(empty + at.stage, at.phase ^ 1);
      if (lane == 0) barrier_expect(full + at.stage, row_bytes + present * depth * tile_bytes);
      __syncwarp();
      if (has_rows) {
        copy_tile_2d(to + (lane - row_lane) * panel_bytes, &rows, full + at.stage,
                     static_cast<int>(s * depth_step), row);
      } else if (f < present && d < depth) {
        std::uint8_t* place = to + row_bytes + d * shape::column_bytes + f * tile_bytes;
        const std::byte* from = weights + std::size_t{2 * s} * tile_bytes;
        if (kBlocks == 1 || d == rank_of_block<kBlocks>())
          copy_shared<kBlocks>(place, from, tile_bytes, full + at.stage, policy);
      }
    }
  }
}

// The features' scales of a tile on their way into shared memory while the products run.
template <int kWidth>
__device__ inline void fetch_scales(const f8_parameters& p, std::uint32_t feature0, float* to) {
  for (std::uint32_t i = threadIdx.x % 128; i < kWidth; i += 128) {
    const std::uint32_t feature = feature0 + i;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to + i)),
                 "l"(p.feature_scales + min(feature, p.features - 1)),
                 "r"(feature < p.features ? 4 : 0)
                 : "memory");
  }
}

template <int kWidth>
__device__ inline void scale_sums(float (&sum)[kWidth / 2], float upper, float lower,
                                  const float* feature_scales) {
  const std::uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int j = 0; j < kWidth / 8; ++j) {
    const float2 w = *reinterpret_cast<const float2*>(feature_scales + 8 * j + lane % 4 * 2);
    sum[4 * j] *= upper * w.x;
    sum[4 * j + 1] *= upper * w.y;
    sum[4 * j + 2] *= lower * w.x;
    sum[4 * j + 3] *= lower * w.y;
  }
}

// What the warps that multiply do.
template <bool kGated, int kWidth, int kBlocks>
__device__ inline void multiply_tiles(const CUtensorMap& output, const f8_parameters& p,
                                      std::uint8_t* tiles, float* scales, std::uint64_t* full,
                                      std::uint64_t* empty) {
  using shape = f8_tile<kWidth>;
  const int warp = static_cast<int>(threadIdx.x) / 32, group = warp / 4;
  std::uint8_t* staging = tiles + shape::stages * shape::stage_bytes + group * 2 * panel_bytes;
  float* of_features = scales + group * kWidth;
  ring_position<shape::stages> at;
  float sum[kWidth / 2];
  for (std::uint32_t t = blockIdx.x / kBlocks; t < count_work(p.shape); t += gridDim.x / kBlocks) {
    const wide_work work = find_work<kBlocks>(t, p.shape);
    const tile_position tile = work.tile;
    const std::uint32_t y = tile.row_tile * 128 + group * 64;
    const std::uint32_t row = y + warp % 4 * 16 + threadIdx.x % 32 / 4;
    fetch_scales<kWidth>(p, tile.feature_tile * kWidth, of_features);
    const float upper = row < p.rows ? p.row_scales[row] : 0.0f,
                lower = row + 8 < p.rows ? p.row_scales[row + 8] : 0.0f;
    std::uint32_t previous = 0;
    // The last stage may hold one tile of weights only. It is taken behind the loop: a branch around products in it would
    // make the compiler wait for each product before the next (ptxas' C7520).
    const auto stage = [&]<int kTiles>(std::uint32_t s) {
      barrier_wait(full + at.stage, at.phase);
      const std::uint8_t* held = tiles + at.stage * shape::stage_bytes;
      const std::uint64_t a = k_major_tile(held + group * panel_bytes);
      const std::uint64_t b = k_major_pieces(held + row_bytes);
      hold(sum);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 2 * kTiles; ++k) {
        multiply_f8(sum, a + 2 * k, b + k / 2 * (shape::column_bytes / 16) + 16 * (k % 2),
                    s > work.begin || k > 0);
      }
      wgmma_commit();
      wgmma_wait<1>();
      if (s > work.begin) free_stage<kBlocks>(empty + previous);
      previous = at.stage;
      at.advance();
    };
    const std::uint32_t whole = min(work.end, p.depth_tiles / 2);
    for (std::uint32_t s = work.begin; s < whole; ++s) stage.template operator()<2>(s);
    if (whole < work.end) stage.template operator()<1>(whole);
    wgmma_wait<0>();
    hold(sum);
    free_stage<kBlocks>(empty + previous);
    asm volatile("cp.async.wait_all;" ::: "memory");
    sync_threads(1 + group, 128);
    scale_sums<kWidth>(sum, upper, lower, of_features);
    if (!kGated && p.partial != nullptr) {
      store_sums<kWidth>(sum, p.partial + std::size_t{work.split} * p.rows * p.features, p.rows,
                         p.features, y, tile.feature_tile * kWidth);
      sync_threads(1 + group, 128);  // the scales may be overwritten
    } else {
      store_panels<kGated>(sum, &output, staging, group,
                           static_cast<int>(tile.feature_tile * (kGated ? kWidth / 2 : kWidth)),
                           static_cast<int>(y));
    }
  }
  if (threadIdx.x % 128 == 0) store_wait();
}

template <bool kGated, int kWidth, int kBlocks>
__global__ void __launch_bounds__(groups * 128 + 32, 1)
    f8_kernel(const __grid_constant__ CUtensorMap rows, const __grid_constant__ CUtensorMap output,
              const f8_parameters p) {
  using shape = f8_tile<kWidth>;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t* tiles = shared;
  auto* scales =
      reinterpret_cast<float*>(tiles + shape::stages * shape::stage_bytes + staging_bytes);
  auto* full = reinterpret_cast<std::uint64_t*>(scales + groups * kWidth);
  auto* empty = full + shape::stages;
  begin_ring<shape::stages, kBlocks>(full, empty);
  wait_for_previous_kernel();
  if (threadIdx.x >= groups * 128) {
    feed<kWidth, kBlocks>(rows, p, tiles, full, empty);
    __syncwarp();
  } else {
    multiply_tiles<kGated, kWidth, kBlocks>(output, p, tiles, scales, full, empty);
  }
  // A block's memory must outlive what the other one copies there, and its arrivals.
  if constexpr (kBlocks > 1) sync_cluster();
}

struct f8_run {
  const quantized_rows& x;
  std::uint32_t rows;
  const weight_matrix& w;
  const activation_matrix& y;
  float* partial;
  std::uint32_t splits, multiprocessors;
};

template <bool kGated, int kWidth, int kBlocks>
result<void> run_blocks(const f8_run& r, cudaStream_t stream) {
  const f8_parameters p{
      {(r.rows + 128 * kBlocks - 1) / (128 * kBlocks), (r.w.rows + kWidth - 1) / kWidth,
       (r.w.columns + depth_step - 1) / depth_step, r.splits},
      r.w.packed.data,
      r.x.scales,
      r.w.packed.row_scales,
      r.partial,
      r.rows,
      r.w.rows,
      r.w.columns / 64};
  const launch_shape shape{
      dim3(std::min(count_work(p.shape), r.multiprocessors / kBlocks) * kBlocks),
      dim3(groups * 128 + 32), f8_tile<kWidth>::shared_bytes, kBlocks};
  return launch("multiply_fp8", f8_kernel<kGated, kWidth, kBlocks>, shape, stream, true, r.x.map,
                r.y.box(64), p);
}
template <bool kGated, int kWidth>
result<void> run(const f8_run& r, cudaStream_t stream) {
  return pairs_pay(r.rows) ? run_blocks<kGated, kWidth, 2>(r, stream)
                           : run_blocks<kGated, kWidth, 1>(r, stream);
}

template <int kWidth, int kBlocks>
result<void> prepare() {
  constexpr std::size_t bytes = f8_tile<kWidth>::shared_bytes;
  TROUPE_CHECK(
      allow_shared_memory(f8_kernel<false, kWidth, kBlocks>, bytes, "preparing multiply_fp8"));
  return allow_shared_memory(f8_kernel<true, kWidth, kBlocks>, bytes, "preparing multiply_fp8");
}

}  // namespace

result<void> prepare_fp8() {
  TROUPE_CHECK((prepare<256, 1>()));
  TROUPE_CHECK((prepare<256, 2>()));
  TROUPE_CHECK((prepare<128, 1>()));
  TROUPE_CHECK(load_kernels("preparing quantize_rows", quantize_rows_kernel<1>,
                            quantize_rows_kernel<4>, quantize_rows_kernel<8>));
  return prepare<128, 2>();
}

bool is_fp8(const weight_matrix& w) {
  return w.packed.row_scales != nullptr;
}

result<void> quantize_rows(const activation_matrix& x, std::uint32_t rows, const quantized_rows& to,
                           cudaStream_t stream) {
  TROUPE_ASSERT(x.columns % 16 == 0 && x.columns <= most_quantized_columns &&
                to.columns == x.columns);
  const auto run = [&](auto* kernel) {
    return launch("quantize_rows", kernel, {dim3(rows), dim3(256), 0}, stream, true,
                  static_cast<const __nv_bfloat16*>(x.data), x.columns, to.data, to.scales);
  };
  return x.columns <= 4096    ? run(quantize_rows_kernel<1>)
         : x.columns <= 16384 ? run(quantize_rows_kernel<4>)
                              : run(quantize_rows_kernel<8>);
}

result<void> multiply_fp8(const quantized_rows& x, std::uint32_t rows, const weight_matrix& w,
                          const fp8_output& y, cudaStream_t stream) {
  TROUPE_ASSERT(is_fp8(w) && x.columns == w.columns);
  TROUPE_ASSERT(y.partial != nullptr || y.values.columns == (y.gated ? w.rows / 2 : w.rows));
  TROUPE_ASSERT(y.splits > 0 && (y.partial == nullptr ? y.splits == 1 : !y.gated));
  int device = 0, multiprocessors = 0;
  TROUPE_CHECK(checked(cudaGetDevice(&device), "asking for the device"));
  TROUPE_CHECK(
      checked(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
              "asking for the multiprocessors"));
  const f8_run r{
      x, rows, w, y.values, y.partial, y.splits, static_cast<std::uint32_t>(multiprocessors)};
  if (y.splits > 1 || half_width_pays(rows, w.rows, r.multiprocessors))
    return y.gated ? run<true, 128>(r, stream) : run<false, 128>(r, stream);
  return y.gated ? run<true, 256>(r, stream) : run<false, 256>(r, stream);
}

}  // namespace troupe::gpu::cuda
