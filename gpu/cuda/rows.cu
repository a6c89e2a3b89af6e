#include "gpu/cuda/rows.hpp"

#include <algorithm>

#include "gpu/cuda/bf16_tiles.hpp"
#include "gpu/cuda/f8.cuh"
#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/integer_units.cuh"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/ordered.cuh"
#include "gpu/cuda/packed.cuh"
#include "gpu/cuda/rotary.cuh"

namespace troupe::gpu::cuda {
namespace {

constexpr int norm_threads = 512,
              norm_chunks = 8;  // chunks of four values a thread: hidden <= 16384

__device__ inline void store_bf16x4(__nv_bfloat16* to, float4 v) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(v.x, v.y),
                       high = __floats2bfloat162_rn(v.z, v.w);
  *reinterpret_cast<uint2*>(to) = make_uint2(*reinterpret_cast<const unsigned*>(&low),
                                             *reinterpret_cast<const unsigned*>(&high));
}

// A row of E4M3 in the order of quantized_rows: thread t holds values 4 t, of chunk c those 2048 c further. parts: shared
// memory for norm_threads / 32 values.
template <int kChunks>
__device__ inline void store_quantized(const norm_arguments& a, std::uint32_t row,
                                       const float4 (&x)[kChunks], float* parts) {
  const std::uint32_t chunks = a.hidden / 4;
  float most = 0.0f;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (threadIdx.x + c * norm_threads >= chunks) continue;
    most = fmaxf(most,
                 fmaxf(fmaxf(fabsf(x[c].x), fabsf(x[c].y)), fmaxf(fabsf(x[c].z), fabsf(x[c].w))));
  }
  most = most_of_block<norm_threads / 32>(most, parts);
  const float scale = f8_scale(most), inverse = 1.0f / scale;
  if (threadIdx.x == 0) a.scales[row] = scale;
  // Of 16 values word t has 2 t, 2 t + 1 and, 8 further, the same: two threads have two halves of two words.
  const bool upper = threadIdx.x % 4 >= 2;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const std::uint32_t i = threadIdx.x + c * norm_threads;
    const std::uint32_t first = f8_pair(x[c].x * inverse, x[c].y * inverse),
                        second = f8_pair(x[c].z * inverse, x[c].w * inverse);
    const std::uint32_t other = __shfl_xor_sync(~0u, upper ? first : second, 2);
    if (i >= chunks) continue;
    const std::uint32_t word = upper ? other | second << 16 : first | other << 16;
    reinterpret_cast<std::uint32_t*>(
        a.quantized + std::size_t{row} * a.hidden)[i / 4 * 4 + i % 2 * 2 + (upper ? 1 : 0)] = word;
  }
}

// The norm's weights are no kernel's result. They come from memory, behind what the next products have asked for already, so
// they are asked for early.
__device__ inline void load_norm_weight(const norm_arguments& a, float4 (&weight)[2]) {
#pragma unroll
  for (std::uint32_t k = 0; k < 2; ++k) {
    const std::uint32_t i = threadIdx.x + k * norm_threads;
    if (i < a.hidden / 4) weight[k] = reinterpret_cast<const float4*>(a.weight)[i];
  }
}

// A row of at most kPairs times 4096 values, by norm_threads threads. parts: shared memory for twice norm_threads / 32
// values. weight: of the row, if kPairs is 1.
// Without splits fewer registers do, and more rows are under way.
template <int kPairs, bool kSplits>
__device__ inline void normalize_pairs(const norm_arguments& a, std::uint32_t row, std::uint32_t to,
                                       const float4 (&weight)[2], float* parts) {
  constexpr std::size_t step = norm_threads * 4;
  const std::uint32_t chunks = a.hidden / 4;
  float4 x[kPairs][2] = {};
  float squares = 0.0f;
#pragma unroll
  for (int c = 0; c < kPairs; ++c) {
    const std::uint32_t i = threadIdx.x + 2 * c * norm_threads;
    if (i >= chunks) continue;
    const std::uint32_t present = i + norm_threads < chunks ? 2 : 1;
    const std::size_t at = std::size_t{row} * a.hidden + i * 4;
#pragma unroll
    for (std::uint32_t k = 0; k < 2; ++k) {
      if (k >= present) continue;
      x[c][k] = *reinterpret_cast<const float4*>(a.residual + at + k * step);
    }
    if constexpr (kSplits) {
      add_splits<kPairs == 1 ? 8 : 4>(x[c], a.update, at, step,
                                      std::size_t{a.update_rows} * a.hidden, present);
    }
#pragma unroll
    for (std::uint32_t k = 0; k < 2; ++k) {
      if (k >= present) continue;
      float4& v = x[c][k];
      if (a.update.values != nullptr) v = add(v, load_bf16x4(a.update.values + at + k * step));
      squares += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
      if (a.gather == nullptr) *reinterpret_cast<float4*>(a.residual + at + k * step) = v;
    }
  }
  squares = warp_sum(squares);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = squares;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int w = 0; w < norm_threads / 32; ++w) total += parts[w];
  const float scale = rsqrtf(total / static_cast<float>(a.hidden) + a.epsilon);
#pragma unroll
  for (int c = 0; c < 2 * kPairs; ++c) {
    const std::uint32_t i = threadIdx.x + c * norm_threads;
    if (i >= chunks) continue;
    float4& v = x[c / 2][c % 2];
    const float4 w = kPairs == 1 ? weight[c % 2] : reinterpret_cast<const float4*>(a.weight)[i];
    v = make_float4(v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w);
    if (a.quantized == nullptr) store_bf16x4(a.normed + std::size_t{to} * a.hidden + i * 4, v);
  }
  if (a.quantized != nullptr)
    store_quantized(a, to, reinterpret_cast<const float4(&)[2 * kPairs]>(x),
                    parts + norm_threads / 32);
}

constexpr std::uint32_t embed_threads = 256;

// A token's row of a packed table.
struct packed_embedding {
  const std::uint8_t* tiles;
  packed_format format;
  std::uint32_t row;
  __device__ packed_embedding(const embed_arguments& a, std::uint32_t token) : row(token % 64) {
    const packed_row source = find_row(a.packed, token / 64, a.hidden / 64);
    tiles = reinterpret_cast<const std::uint8_t*>(a.packed.data) + source.offset;
    format = source.format;
  }
  __device__ float operator[](std::uint32_t column) const {
    return unpack_value(tiles, format, row, column);
  }
};

__global__ void __launch_bounds__(embed_threads) embed_kernel(const embed_arguments a) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::uint32_t row = blockIdx.x, token = a.tokens[row];
  if (threadIdx.x == 0) a.argmax[row] = 0;
  if (a.table == nullptr) {
    const packed_embedding values(a, token);
    for (std::uint32_t i = threadIdx.x; i < a.hidden; i += blockDim.x)
      a.residual[std::size_t{row} * a.hidden + i] = values[i];
    return;
  }
  for (std::uint32_t i = threadIdx.x * 4; i < a.hidden; i += blockDim.x * 4) {
    *reinterpret_cast<float4*>(a.residual + std::size_t{row} * a.hidden + i) =
        load_bf16x4(a.table + bf16_place(token, i, a.hidden));
  }
}

// One row, a warp a sub-block of 32 values.
__global__ void __launch_bounds__(embed_threads) embed_row_kernel(const embed_arguments a) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::uint32_t lane = threadIdx.x % 32, block = (blockIdx.x * blockDim.x + threadIdx.x) / 32,
                      at = block * 32 + lane, token = a.tokens[0];
  if (at == 0) a.argmax[0] = 0;
  const float value = a.table == nullptr
                          ? packed_embedding(a, token)[at]
                          : __bfloat162float(a.table[bf16_place(token, at, a.hidden)]);
  a.residual[at] = value;
  float squares = value * value;
#pragma unroll
  for (int i = residual_band / 2; i > 0; i /= 2) squares += __shfl_xor_sync(~0u, squares, i);
  if (lane % residual_band == 0) a.squares[at / residual_band] = squares;
  store_integers(value * a.weight[at], block, a.hidden / 256, a.normed);
}

template <int kPairs, bool kSplits>
__global__ void __launch_bounds__(norm_threads) norm_kernel(const norm_arguments a) {
  __shared__ float parts[2 * norm_threads / 32];
  let_next_kernel_start();
  float4 weight[2];
  if constexpr (kPairs == 1) load_norm_weight(a, weight);
  wait_for_previous_kernel();
  const std::uint32_t row = a.gather != nullptr ? a.gather[blockIdx.x] : blockIdx.x;
  normalize_pairs<kPairs, kSplits>(a, row, blockIdx.x, weight, parts);
}

// Where a head of a row goes; nullptr: nowhere.
__device__ inline __half* row_place(const rotary_arguments& a, std::uint32_t row,
                                    std::uint32_t head) {
  if (head < a.num_heads) return a.queries + (std::size_t{row} * a.num_heads + head) * a.head_dim;
  const std::uint32_t slot = a.slots[row];
  return slot == no_slot ? nullptr : kv_place(a, slot, head - a.num_heads);
}

__global__ void __launch_bounds__(128) rotary_kernel(const rotary_arguments a) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::uint32_t heads = a.num_heads + 2 * a.num_kv_heads,
                      index = blockIdx.x * 4 + threadIdx.x / 32, row = index / heads,
                      head = index % heads;
  if (row >= a.rows) return;
  __half* to = row_place(a, row, head);
  if (to != nullptr) rotate_head(a, row, head, [&](int at, __half value) { to[at] = value; });
}

__global__ void __launch_bounds__(128) rotary_interleaved_kernel(const rotary_arguments a) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::uint32_t at = (blockIdx.x * 128 + threadIdx.x) * 8, row = blockIdx.y,
                      head = at / a.head_dim, within = at % a.head_dim;
  if (head >= a.num_heads + 2 * a.num_kv_heads) return;
  __half* to = row_place(a, row, head);
  if (to != nullptr)
    *reinterpret_cast<uint4*>(to + within) =
        rotate_eight<6>(a, row, head, within, eight_angles(a, row, within));
}

__global__ void angles_kernel(const float* inv_freq, float factor, std::uint32_t positions,
                              std::uint32_t pairs, float2* angles) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= std::size_t{positions} * pairs) return;
  double sine, cosine;
  sincos(static_cast<double>(i / pairs) * static_cast<double>(inv_freq[i % pairs]), &sine, &cosine);
  angles[i] = make_float2(static_cast<float>(cosine) * factor, static_cast<float>(sine) * factor);
}

constexpr std::uint32_t argmax_parts = 16, argmax_threads = 512;

__global__ void __launch_bounds__(argmax_threads)
    argmax_kernel(const float* logits, std::uint32_t vocab, unsigned long long* argmax) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const float* row = logits + std::size_t{blockIdx.y} * vocab;
  unsigned long long best = 0;
  for (std::uint32_t i = blockIdx.x * argmax_threads + threadIdx.x; i < vocab;
       i += argmax_parts * argmax_threads) {
    best = max(best, argmax_key(row[i], i));
  }
#pragma unroll
  for (int i = 16; i > 0; i /= 2) best = max(best, __shfl_xor_sync(~0u, best, i));
  if (threadIdx.x % 32 == 0) atomicMax(argmax + blockIdx.y, best);
}

constexpr std::uint32_t leave_threads = 256;

__global__ void __launch_bounds__(leave_threads)
    leave_kernel(const unsigned long long* from, unsigned long long* to, std::uint32_t count) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::uint32_t i = blockIdx.x * leave_threads + threadIdx.x;
  if (i < count) to[i] = from[i];
}

constexpr std::uint32_t take_threads = 256, most_take_blocks = 128;

__global__ void __launch_bounds__(take_threads)
    take_kernel(const std::uint8_t* from, std::uint8_t* to, std::uint64_t bytes) {
  const std::uint64_t first = blockIdx.x * take_threads + threadIdx.x, pieces = bytes / 16;
  for (std::uint64_t i = first; i < pieces; i += gridDim.x * take_threads)
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
  if (first < bytes % 16) to[16 * pieces + first] = from[16 * pieces + first];
}

}  // namespace

result<void> prepare_rows() {
  return load_kernels("preparing rows", embed_row_kernel, embed_kernel, norm_kernel<1, true>,
                      norm_kernel<1, false>, norm_kernel<norm_chunks / 2, true>,
                      norm_kernel<norm_chunks / 2, false>, rotary_interleaved_kernel, rotary_kernel,
                      argmax_kernel, leave_kernel, take_kernel);
}

result<void> embed(const embed_arguments& a, bool early, cudaStream_t stream) {
  if (a.normed != nullptr) {
    TROUPE_ASSERT(a.rows == 1 && a.hidden % embed_threads == 0);
    return launch("embed", embed_row_kernel,
                  {dim3(a.hidden / embed_threads), dim3(embed_threads), 0}, stream, early, a);
  }
  return launch("embed", embed_kernel, {dim3(a.rows), dim3(embed_threads), 0}, stream, early, a);
}

result<void> add_and_normalize(const norm_arguments& a, bool early, cudaStream_t stream) {
  TROUPE_ASSERT(a.hidden % 4 == 0 && a.hidden <= norm_threads * norm_chunks * 4);
  TROUPE_ASSERT(a.quantized == nullptr || a.hidden % 16 == 0);
  const auto run = [&](auto* kernel) {
    return launch("add_and_normalize", kernel, {dim3(a.rows), dim3(norm_threads), 0}, stream, early,
                  a);
  };
  const bool splits = a.update.splits > 0;
  if (a.hidden <= norm_threads * 8)
    return splits ? run(norm_kernel<1, true>) : run(norm_kernel<1, false>);
  return splits ? run(norm_kernel<norm_chunks / 2, true>)
                : run(norm_kernel<norm_chunks / 2, false>);
}

result<void> rotate_and_store(const rotary_arguments& a, bool early, cudaStream_t stream) {
  TROUPE_ASSERT(a.head_dim <= 256 && a.dimensions <= a.head_dim);
  if (rotates_eight(a)) {
    const std::uint32_t threads = (a.num_heads + 2 * a.num_kv_heads) * a.head_dim / 8;
    return launch("rotate_and_store", rotary_interleaved_kernel,
                  {dim3((threads + 127) / 128, a.rows), dim3(128), 0}, stream, early, a);
  }
  const std::uint32_t warps = a.rows * (a.num_heads + 2 * a.num_kv_heads);
  return launch("rotate_and_store", rotary_kernel, {dim3((warps + 3) / 4), dim3(128), 0}, stream,
                early, a);
}

result<void> fill_angles(const float* inv_freq, float factor, std::uint32_t positions,
                         std::uint32_t pairs, float2* angles, cudaStream_t stream) {
  const std::size_t count = std::size_t{positions} * pairs;
  return launch("fill_angles", angles_kernel,
                {dim3(static_cast<unsigned>((count + 255) / 256)), dim3(256), 0}, stream, false,
                inv_freq, factor, positions, pairs, angles);
}

result<void> find_argmax(const float* logits, std::uint32_t rows, std::uint32_t vocab,
                         unsigned long long* argmax, bool early, cudaStream_t stream) {
  return launch("find_argmax", argmax_kernel, {dim3(argmax_parts, rows), dim3(argmax_threads), 0},
                stream, early, logits, vocab, argmax);
}

result<void> leave_to_host(const unsigned long long* from, unsigned long long* to,
                           std::uint32_t count, cudaStream_t stream) {
  return launch("leave_to_host", leave_kernel,
                {dim3((count + leave_threads - 1) / leave_threads), dim3(leave_threads), 0}, stream,
                true, from, to, count);
}

result<void> take_from_host(const void* from, void* to, std::size_t bytes, cudaStream_t stream) {
  if (bytes == 0) return {};
  TROUPE_ASSERT(reinterpret_cast<std::uintptr_t>(from) % 16 == 0 &&
                reinterpret_cast<std::uintptr_t>(to) % 16 == 0);
  const std::size_t blocks = (bytes / 16 + take_threads - 1) / take_threads;
  return launch("take_from_host", take_kernel,
                {dim3(static_cast<unsigned>(std::clamp<std::size_t>(blocks, 1, most_take_blocks))),
                 dim3(take_threads), 0},
                stream, false, static_cast<const std::uint8_t*>(from),
                static_cast<std::uint8_t*>(to), std::uint64_t{bytes});
}

}  // namespace troupe::gpu::cuda
