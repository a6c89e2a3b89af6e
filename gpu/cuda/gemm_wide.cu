#include <algorithm>
#include <type_traits>

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/gemm_wide.cuh"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/tensor_map.hpp"

namespace troupe::gpu::cuda {

result<void> prepare_narrow();
result<void> prepare_fp8();
result<void> prepare_single();
result<void> prepare_residual();

namespace {

using namespace wide;

constexpr std::uint32_t depth_step = 64;
// Of weights, on their way while the kernel before runs: what that one asks for queues behind them.
constexpr std::uint32_t stages_ahead = 2;

// `panels` and `gated_panels` go by the copy engine, panels of 64 features; the others as the registers have them.
enum class stored { panels, gated_panels, gated, partial };

template <stored kStored, int kWidth>
struct wide_tile {
  static constexpr bool staged = kStored == stored::panels || kStored == stored::gated_panels;
  static constexpr std::uint32_t stage_bytes = row_bytes + kWidth * 128;
  static constexpr std::uint32_t output_bytes = staged ? staging_bytes : 0;
  static constexpr int stages =
      std::min(6, static_cast<int>((226 * 1024 - output_bytes) / stage_bytes));
  static constexpr std::size_t shared_bytes = stages * stage_bytes + output_bytes + 256;
};

struct product_parameters {
  wide_parameters shape;
  std::uint32_t rows, features;  // features: of the output
  std::uint32_t ahead;           // stages of weights to fetch before the kernel before ends
  float* partial;
  __nv_bfloat16* gated;
};

// What a kernel copies weights from: of whole tiles a map, whose boxes are as many as a tile of `kWidth` features has.
template <int kWidth>
inline constexpr bool by_map = kWidth % bf16_tile_side == 0;
template <int kWidth>
using weight_source = std::conditional_t<by_map<kWidth>, CUtensorMap, bf16_tiles>;

// A block's part of the weights of some work, a stage after the other: all, or what it copies for both blocks of a pair. Of a
// width that is not whole tiles: a piece of memory for each of the tiles that hold its features, the first or the last of which it
// has a part of.
template <int kWidth, int kBlocks>
class weight_pieces {
 public:
  __device__ weight_pieces(const bf16_tiles& weights, const wide_work& work) {
    const std::uint32_t feature = work.tile.feature_tile * kWidth,
                        within = feature % bf16_tile_side;
    skipped_ = within * bf16_row_bytes;
    first_ = rank_of_block<kBlocks>() * count;
#pragma unroll
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t piece = first_ + i;
      next_[i] =
          weights.at(feature + piece * bf16_tile_side - (piece == 0 ? 0 : within), work.begin);
    }
  }
  __device__ void copy(std::uint8_t* to, std::uint64_t* bar, std::uint64_t policy) {
#pragma unroll
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t piece = first_ + i;
      const std::uint32_t bytes = piece == 0           ? bf16_tile_bytes - skipped_
                                  : piece + 1 < of_all ? bf16_tile_bytes
                                                       : of_last + skipped_;
      std::uint8_t* at = to + piece * bf16_tile_bytes - (piece == 0 ? 0 : skipped_);
      copy_shared<kBlocks>(at, next_[i], bytes, bar, policy);
      next_[i] += bf16_tile_bytes;
    }
  }

 private:
  static constexpr std::uint32_t of_all = count_bf16_tiles(kWidth), count = of_all / kBlocks,
                                 of_last = kWidth * bf16_row_bytes - (of_all - 1) * bf16_tile_bytes;
  static_assert(of_all % kBlocks == 0);
  const std::uint8_t* next_[count];
  std::uint32_t skipped_;  // bytes of the first tile
  std::uint32_t first_;    // of the block's pieces
};

// The same of whole tiles.
template <int kWidth, int kBlocks>
class weight_boxes {
 public:
  static constexpr int tiles = kWidth / static_cast<int>(bf16_tile_side);
  static constexpr int box_tiles = tiles % kBlocks == 0 ? tiles / kBlocks : 1;

  __device__ weight_boxes(const CUtensorMap& map, const wide_work& work)
      : map_(&map),
        row_tile_(static_cast<int>(work.tile.feature_tile) * tiles),
        next_(static_cast<int>(work.begin)) {}
  __device__ void copy(std::uint8_t* to, std::uint64_t* bar, std::uint64_t) {
#pragma unroll
    for (int first = 0; first < tiles; first += box_tiles * kBlocks) {
      const int tile = first + static_cast<int>(rank_of_block<kBlocks>()) * box_tiles;
      if (tile >= tiles) break;
      std::uint8_t* at = to + tile * static_cast<int>(bf16_tile_bytes);
      if constexpr (kBlocks == 1)
        copy_tile_4d(at, map_, bar, 0, 0, row_tile_ + tile, next_);
      else
        copy_tile_4d_to(all_of<kBlocks>, at, map_, bar, 0, 0, row_tile_ + tile, next_);
    }
    ++next_;
  }

 private:
  const CUtensorMap* map_;
  int row_tile_, next_;
};

// By one thread.
template <stored kStored, int kWidth, int kBlocks>
__device__ inline void feed(const CUtensorMap& rows, const weight_source<kWidth>& weights,
                            const product_parameters& p, std::uint8_t* tiles, std::uint64_t* full,
                            std::uint64_t* empty) {
  using shape = wide_tile<kStored, kWidth>;
  static_assert(shape::stages > stages_ahead);
  const std::uint64_t policy = evict_normal_policy();
  wide_work work = find_work<kBlocks>(blockIdx.x / kBlocks, p.shape);
  using weights_of = std::conditional_t<by_map<kWidth>, weight_boxes<kWidth, kBlocks>,
                                        weight_pieces<kWidth, kBlocks>>;
  weights_of pieces(weights, work);
  const auto copy_rows = [&](std::uint32_t s, std::uint32_t stage) {
#pragma unroll
    for (int g = 0; g < groups; ++g) {
      copy_tile_2d(tiles + stage * shape::stage_bytes + g * panel_bytes, &rows, full + stage,
                   static_cast<int>(s * depth_step),
                   static_cast<int>(work.tile.row_tile * 128 + g * 64));
    }
  };
  const auto copy_weights = [&](std::uint32_t stage) {
    barrier_expect(full + stage, shape::stage_bytes);
    pieces.copy(tiles + stage * shape::stage_bytes + row_bytes, full + stage, policy);
  };
  const std::uint32_t ahead = min(p.ahead, work.end - work.begin);
#pragma unroll 1
  for (std::uint32_t s = 0; s < ahead; ++s) copy_weights(s);
  wait_for_previous_kernel();
#pragma unroll 1
  for (std::uint32_t s = 0; s < ahead; ++s) copy_rows(work.begin + s, s);
  ring_position<shape::stages> at{ahead};
  std::uint32_t s = work.begin + ahead;
  for (std::uint32_t t = blockIdx.x / kBlocks;;) {
#pragma unroll 1
    for (; s < work.end; ++s, at.advance()) {
      barrier_wait(empty + at.stage, at.phase ^ 1);
      copy_weights(at.stage);
      copy_rows(s, at.stage);
    }
    t += gridDim.x / kBlocks;
    if (t >= count_work(p.shape)) return;
    work = find_work<kBlocks>(t, p.shape);
    pieces = weights_of(weights, work);
    s = work.begin;
  }
}

// What the warps that multiply do. empty: of this block, and of the other of a pair, which fills it as well.
template <stored kStored, int kWidth, int kBlocks>
__device__ inline void multiply_tiles(const CUtensorMap& output, const product_parameters& p,
                                      std::uint8_t* tiles, std::uint64_t* full,
                                      std::uint64_t* empty) {
  using shape = wide_tile<kStored, kWidth>;
  // What these warps store needs no wait for the kernel before: the rows of a tile come behind it.
  const int warp = static_cast<int>(threadIdx.x) / 32, group = warp / 4;
  ring_position<shape::stages> at;
  float sum[kWidth / 2];
  for (std::uint32_t t = blockIdx.x / kBlocks; t < count_work(p.shape); t += gridDim.x / kBlocks) {
    const wide_work work = find_work<kBlocks>(t, p.shape);
    const tile_position tile = work.tile;
    std::uint32_t previous = 0;
    for (std::uint32_t s = work.begin; s < work.end; ++s, at.advance()) {
      barrier_wait(full + at.stage, at.phase);
      const std::uint8_t* stage = tiles + at.stage * shape::stage_bytes;
      const std::uint64_t a = k_major_tile(stage + group * panel_bytes);
      const std::uint64_t b = k_major_tile(stage + row_bytes);
      hold(sum);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) multiply_bf16(sum, a + 2 * k, b + 2 * k, s > work.begin || k > 0);
      wgmma_commit();
      wgmma_wait<1>();
      if (s > work.begin) free_stage<kBlocks>(empty + previous);
      previous = at.stage;
    }
    wgmma_wait<0>();
    hold(sum);
    free_stage<kBlocks>(empty + previous);
    const std::uint32_t y = tile.row_tile * 128 + group * 64;
    if constexpr (kStored == stored::partial) {
      store_sums<kWidth>(sum, p.partial + std::size_t{work.split} * p.rows * p.features, p.rows,
                         p.features, y, tile.feature_tile * kWidth);
    } else if constexpr (kStored == stored::gated) {
      const std::uint32_t lane = threadIdx.x % 32;
      store_gated(sum, p.gated, p.rows, p.features, y + warp % 4 * 16 + lane / 4,
                  tile.feature_tile * (kWidth / 2) + lane % 4 * 2);
    } else {
      constexpr bool kGated = kStored == stored::gated_panels;
      std::uint8_t* staging = tiles + shape::stages * shape::stage_bytes + group * 2 * panel_bytes;
      store_panels<kGated>(sum, &output, staging, group,
                           static_cast<int>(tile.feature_tile * (kGated ? kWidth / 2 : kWidth)),
                           static_cast<int>(y));
    }
  }
  if constexpr (shape::staged) {
    if (threadIdx.x % 128 == 0) store_wait();
  }
}

template <stored kStored, int kWidth, int kBlocks>
__global__ void __launch_bounds__(groups * 128 + 32, 1)
    wide_kernel(const __grid_constant__ CUtensorMap rows,
                const __grid_constant__ CUtensorMap output,
                const __grid_constant__ weight_source<kWidth> weights, const product_parameters p) {
  using shape = wide_tile<kStored, kWidth>;
  extern __shared__ __align__(1024) std::uint8_t shared[];
  std::uint8_t* tiles = shared;
  auto* full = reinterpret_cast<std::uint64_t*>(tiles + shape::stages * shape::stage_bytes +
                                                shape::output_bytes);
  auto* empty = full + shape::stages;
  begin_ring<shape::stages, kBlocks>(full, empty);
  if (threadIdx.x >= groups * 128) {
    if (elect_lane()) feed<kStored, kWidth, kBlocks>(rows, weights, p, tiles, full, empty);
    __syncwarp();
  } else {
    multiply_tiles<kStored, kWidth, kBlocks>(output, p, tiles, full, empty);
  }
  // A block's memory must outlive what the other one copies there, and its arrivals.
  if constexpr (kBlocks > 1) sync_cluster();
}

struct product {
  const activation_matrix& x;
  std::uint32_t rows;
  const weight_matrix& w;
  const wide_output& y;
  const wide_options& options;
  std::uint32_t multiprocessors;
};

template <stored kStored, int kWidth, int kBlocks>
result<void> run_blocks(const product& r, cudaStream_t stream) {
  using tile = wide_tile<kStored, kWidth>;
  const bool partial = kStored == stored::partial;
  product_parameters p{};
  p.shape = {(r.rows + 128 * kBlocks - 1) / (128 * kBlocks), (r.w.rows + kWidth - 1) / kWidth,
             (r.w.columns + depth_step - 1) / depth_step, partial ? r.options.shape.splits : 1};
  p.rows = r.rows;
  p.features = r.y.gated ? r.w.rows / 2 : r.w.rows;
  p.ahead = r.options.ahead ? stages_ahead : 0;
  p.partial = r.y.partial;
  p.gated = partial ? nullptr : r.y.values->data;
  weight_source<kWidth> weights;
  const auto tiles = bf16_tiles::of(r.w.data, r.w.rows, r.w.columns);
  if constexpr (by_map<kWidth>) {
    TROUPE_TRY(weights, make_tile_map(tiles, weight_boxes<kWidth, kBlocks>::box_tiles));
  } else {
    weights = tiles;
  }
  const launch_shape shape{
      dim3(std::min(count_work(p.shape), r.multiprocessors / kBlocks) * kBlocks),
      dim3(groups * 128 + 32), tile::shared_bytes, kBlocks};
  return launch("multiply_wide", wide_kernel<kStored, kWidth, kBlocks>, shape, stream,
                r.options.early, r.x.box(64), partial ? r.x.box(64) : r.y.values->box(64), weights,
                p);
}
template <stored kStored, int kWidth>
result<void> run(const product& r, cudaStream_t stream) {
  return pairs_pay(r.rows) ? run_blocks<kStored, kWidth, 2>(r, stream)
                           : run_blocks<kStored, kWidth, 1>(r, stream);
}

template <stored kStored, int... kWidths>
result<void> prepare() {
  result<void> done;
  const auto allow = [&](auto* kernel, std::size_t bytes) {
    if (done) done = allow_shared_memory(kernel, bytes, "preparing multiply_wide");
  };
  ((allow(wide_kernel<kStored, kWidths, 1>, wide_tile<kStored, kWidths>::shared_bytes),
    allow(wide_kernel<kStored, kWidths, 2>, wide_tile<kStored, kWidths>::shared_bytes)),
   ...);
  return done;
}

}  // namespace

result<void> prepare_gemm() {
  TROUPE_CHECK((prepare<stored::panels, 256, 128>()));
  TROUPE_CHECK((prepare<stored::gated_panels, 256, 128>()));
  TROUPE_CHECK((prepare<stored::gated, 224>()));
  TROUPE_CHECK((prepare<stored::partial, 256, 192, 128>()));
  TROUPE_CHECK(prepare_fp8());
  TROUPE_CHECK(prepare_single());
  TROUPE_CHECK(prepare_residual());
  return prepare_narrow();
}

wide_shape shape_of_partial(std::uint32_t rows, std::uint32_t features, std::uint32_t columns,
                            std::uint32_t multiprocessors) {
  // In steps of one feature: what a turn costs besides its own, by its width and by itself, and writing and reading a split.
  constexpr std::uint32_t turn_steps = 12, step = 32, split_cost = 400;
  const std::uint32_t depth = (columns + depth_step - 1) / depth_step;
  wide_shape best;
  std::uint32_t least = ~0u;
  for (const std::uint32_t width : {256u, 192u, 128u}) {
    const std::uint32_t tiles = (rows + 127) / 128 * ((features + width - 1) / width);
    for (std::uint32_t splits = 1; splits <= std::min(most_wide_splits, depth); ++splits) {
      const std::uint32_t turns = (tiles * splits + multiprocessors - 1) / multiprocessors,
                          steps = (depth + splits - 1) / splits + turn_steps;
      const std::uint32_t cost = turns * steps * (width + step) + splits * split_cost;
      if (cost < least) {
        least = cost;
        best = {width, splits};
      }
    }
  }
  return best;
}

result<void> multiply_wide(const activation_matrix& x, std::uint32_t rows, const weight_matrix& w,
                           const wide_output& y, const wide_options& options, cudaStream_t stream) {
  TROUPE_ASSERT(x.columns == w.columns && rows > 0 && rows <= x.capacity);
  TROUPE_ASSERT((y.values == nullptr) != (y.partial == nullptr));
  TROUPE_ASSERT(y.values == nullptr || (rows <= y.values->capacity &&
                                        y.values->columns == (y.gated ? w.rows / 2 : w.rows)));
  int device = 0, multiprocessors = 0;
  TROUPE_CHECK(checked(cudaGetDevice(&device), "asking for the device"));
  TROUPE_CHECK(
      checked(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device),
              "asking for the multiprocessors"));
  const auto count = static_cast<std::uint32_t>(multiprocessors);
  const product r{x, rows, w, y, options, count};
  if (y.partial != nullptr) {
    TROUPE_ASSERT(!y.gated && w.rows % 2 == 0 && options.shape.splits > 0);
    return options.shape.width == 256   ? run<stored::partial, 256>(r, stream)
           : options.shape.width == 192 ? run<stored::partial, 192>(r, stream)
                                        : run<stored::partial, 128>(r, stream);
  }
  const bool half = half_width_pays(rows, w.rows, count);
  if (!y.gated)
    return half ? run<stored::panels, 128>(r, stream) : run<stored::panels, 256>(r, stream);
  const std::uint32_t least =
      half ? turns_of(rows, w.rows, 128, count) * 57 : turns_of(rows, w.rows, 256, count) * 100;
  if (w.rows % 16 == 0 && turns_of(rows, w.rows, 224, count) * 92 < least)
    return run<stored::gated, 224>(r, stream);
  return half ? run<stored::gated_panels, 128>(r, stream)
              : run<stored::gated_panels, 256>(r, stream);
}

}  // namespace troupe::gpu::cuda
