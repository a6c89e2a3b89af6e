#include "gpu/cuda/rows.hpp"

#include "gpu/cuda/f8.cuh"
#include "gpu/cuda/hopper.cuh"
#include "gpu/cuda/launch.hpp"
#include "gpu/cuda/ordered.cuh"
#include "gpu/cuda/packed.cuh"

namespace troupe::gpu::cuda {
namespace {

constexpr int norm_threads = 512,
              norm_chunks = 8;  // chunks of four values a thread: hidden <= 16384

__device__ inline float4 add(float4 a, float4 b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}
__device__ inline float4 load_bf16x4(const __nv_bfloat16* from) {
  const uint2 raw = *reinterpret_cast<const uint2*>(from);
  const float2 low = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.x));
  const float2 high = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&raw.y));
  return make_float4(low.x, low.y, high.x, high.y);
}
__device__ inline void store_bf16x4(__nv_bfloat16* to, float4 v) {
  const __nv_bfloat162 low = __floats2bfloat162_rn(v.x, v.y),
                       high = __floats2bfloat162_rn(v.z, v.w);
  *reinterpret_cast<uint2*>(to) = make_uint2(*reinterpret_cast<const unsigned*>(&low),
                                             *reinterpret_cast<const unsigned*>(&high));
}
__device__ inline float warp_sum(float x) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
  return x;
}

__device__ inline float warp_most(float x) {
#pragma unroll
  for (int i = 16; i > 0; i /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, i));
  return x;
}

// x[i] += the four values from at + i * step on of each split, in order; several are on their way at a time. present:
// how many of the x there are.
template <std::uint32_t kAtOnce = 4, int kCount>
__device__ inline void add_splits(float4 (&x)[kCount], const layer_output& from, std::size_t at,
                                  std::size_t step, std::size_t stride, std::uint32_t present) {
  for (std::uint32_t first = 0; first < from.splits; first += kAtOnce) {
    float4 part[kAtOnce][kCount];
#pragma unroll
    for (std::uint32_t s = 0; s < kAtOnce; ++s) {
#pragma unroll
      for (std::uint32_t i = 0; i < kCount; ++i) {
        if (first + s < from.splits && i < present) {
          part[s][i] =
              *reinterpret_cast<const float4*>(from.partial + (first + s) * stride + at + i * step);
        }
      }
    }
#pragma unroll
    for (std::uint32_t s = 0; s < kAtOnce; ++s) {
#pragma unroll
      for (std::uint32_t i = 0; i < kCount; ++i) {
        if (first + s < from.splits && i < present) x[i] = add(x[i], part[s][i]);
      }
    }
  }
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
  most = warp_most(most);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = most;
  __syncthreads();
#pragma unroll
  for (int w = 0; w < norm_threads / 32; ++w) most = fmaxf(most, parts[w]);
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

// A row of at most kPairs times 4096 values, by norm_threads threads. parts: shared memory for twice norm_threads / 32
// values.
// Without splits fewer registers do, and more rows are under way.
template <int kPairs, bool kSplits>
__device__ inline void normalize_pairs(const norm_arguments& a, std::uint32_t row, std::uint32_t to,
                                       float* parts) {
  constexpr std::size_t step = norm_threads * 4;
  const std::uint32_t chunks = a.hidden / 4;
  float4 x[kPairs][2] = {}, weight[2];
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
      if (kPairs == 1) weight[k] = *reinterpret_cast<const float4*>(a.weight + i * 4 + k * step);
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
// Values outside f16's range would make 0 * inf in attention; the comparison also turns NaN into a number.
__device__ inline __half finite_half(float x) {
  return __float2half_rn(fminf(fmaxf(x, -65504.0f), 65504.0f));
}

// The two places in a head that pair `p` covers.
__device__ inline int2 pair_places(const rotary_arguments& a, int p) {
  const int rotated = static_cast<int>(a.dimensions) / 2;
  if (a.interleaved || p >= rotated) return make_int2(2 * p, 2 * p + 1);
  return make_int2(p, p + rotated);
}

// By a warp: head index % heads of row index / heads; a lane holds pairs lane, lane + 32, ...
__device__ inline void rotate_head(const rotary_arguments& a, std::uint32_t index) {
  constexpr int kMaxPairs = 4;  // head_dim <= 256
  const std::uint32_t heads = a.num_heads + 2 * a.num_kv_heads, width = heads * a.head_dim;
  const std::uint32_t row = index / heads, head = index % heads;
  if (row >= a.rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32, pairs = static_cast<int>(a.head_dim) / 2;
  const bool is_query = head < a.num_heads, is_value = head >= a.num_heads + a.num_kv_heads;

  float2 v[kMaxPairs] = {};
  float squares = 0.0f;
#pragma unroll
  for (int c = 0; c < kMaxPairs; ++c) {
    const int p = lane + 32 * c;
    if (p >= pairs) continue;
    const int2 at = pair_places(a, p);
    const std::size_t from = std::size_t{row} * width + head * a.head_dim;
    if (a.qkv.values != nullptr) {
      v[c] = make_float2(__bfloat162float(a.qkv.values[from + at.x]),
                         __bfloat162float(a.qkv.values[from + at.y]));
    }
    for (std::uint32_t s = 0; s < a.qkv.splits; ++s) {
      const float* part = a.qkv.partial + std::size_t{s} * a.rows * width + from;
      v[c].x += part[at.x];
      v[c].y += part[at.y];
    }
    if (a.bias != nullptr) {
      v[c].x += a.bias[head * a.head_dim + at.x];
      v[c].y += a.bias[head * a.head_dim + at.y];
    }
    squares += v[c].x * v[c].x + v[c].y * v[c].y;
  }
  const float* norm = is_query ? a.q_norm : is_value ? nullptr : a.k_norm;
  const float scale = norm != nullptr
                          ? rsqrtf(warp_sum(squares) / static_cast<float>(a.head_dim) + a.epsilon)
                          : 1.0f;

  __half* to = nullptr;
  if (is_query) {
    to = a.queries + (std::size_t{row} * a.num_heads + head) * a.head_dim;
  } else if (a.slots[row] != no_slot) {
    const std::uint32_t slot = a.slots[row], kv = head - a.num_heads;  // K heads, then V heads
    to = reinterpret_cast<__half*>(a.arena + std::size_t{slot / a.block_tokens} * a.block_bytes +
                                   a.layer_offset) +
         (std::size_t{kv} * a.block_tokens + slot % a.block_tokens) * a.head_dim;
  }
  if (to == nullptr) return;
  const std::uint32_t position = a.positions[row];
#pragma unroll
  for (int c = 0; c < kMaxPairs; ++c) {
    const int p = lane + 32 * c;
    if (p >= pairs) continue;
    const int2 at = pair_places(a, p);
    if (norm != nullptr) {
      v[c].x *= scale * norm[at.x];
      v[c].y *= scale * norm[at.y];
    }
    const int rotated = static_cast<int>(a.dimensions) / 2;
    if (!is_value && p < rotated) {
      const float2 angle = a.angles[std::size_t{position} * rotated + p];
      v[c] = make_float2(v[c].x * angle.x - v[c].y * angle.y, v[c].x * angle.y + v[c].y * angle.x);
    }
    to[at.x] = finite_half(v[c].x);
    to[at.y] = finite_half(v[c].y);
  }
}

// The common case, whole interleaved heads without norms: a thread the eight neighbouring values from `at` on.
__host__ __device__ inline bool rotates_eight(const rotary_arguments& a) {
  return a.interleaved && a.q_norm == nullptr && a.k_norm == nullptr &&
         a.dimensions == a.head_dim && a.head_dim % 8 == 0;
}
__device__ inline void rotate_eight(const rotary_arguments& a, std::uint32_t row,
                                    std::uint32_t at) {
  const std::uint32_t heads = a.num_heads + 2 * a.num_kv_heads, width = heads * a.head_dim;
  if (at >= width) return;
  const std::uint32_t head = at / a.head_dim, within = at % a.head_dim;
  const std::size_t from = std::size_t{row} * width + at;
  float4 v[2] = {};
  if (a.qkv.values != nullptr) {
    v[0] = load_bf16x4(a.qkv.values + from);
    v[1] = load_bf16x4(a.qkv.values + from + 4);
  }
  add_splits<6>(v, a.qkv, from, 4, std::size_t{a.rows} * width, 2);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    if (a.bias != nullptr) v[i] = add(v[i], *reinterpret_cast<const float4*>(a.bias + at + 4 * i));
    if (head >= a.num_heads + a.num_kv_heads) continue;
    const float4 angle = *reinterpret_cast<const float4*>(
        a.angles + std::size_t{a.positions[row]} * (a.head_dim / 2) + within / 2 + 2 * i);
    v[i] = make_float4(v[i].x * angle.x - v[i].y * angle.y, v[i].x * angle.y + v[i].y * angle.x,
                       v[i].z * angle.z - v[i].w * angle.w, v[i].z * angle.w + v[i].w * angle.z);
  }
  alignas(16) const __half out[8] = {finite_half(v[0].x), finite_half(v[0].y), finite_half(v[0].z),
                                     finite_half(v[0].w), finite_half(v[1].x), finite_half(v[1].y),
                                     finite_half(v[1].z), finite_half(v[1].w)};
  __half* to = a.queries + (std::size_t{row} * a.num_heads + head) * a.head_dim;
  if (head >= a.num_heads) {
    const std::uint32_t slot = a.slots[row];
    if (slot == no_slot) return;
    to = reinterpret_cast<__half*>(a.arena + std::size_t{slot / a.block_tokens} * a.block_bytes +
                                   a.layer_offset) +
         (std::size_t{head - a.num_heads} * a.block_tokens + slot % a.block_tokens) * a.head_dim;
  }
  *reinterpret_cast<uint4*>(to + within) = *reinterpret_cast<const uint4*>(out);
}

__global__ void __launch_bounds__(256) embed_kernel(const embed_arguments a) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::uint32_t row = blockIdx.x, token = a.tokens[row];
  if (threadIdx.x == 0) a.argmax[row] = 0;
  if (a.table == nullptr) {
    const packed_row source = find_row(a.packed, token / 64, a.hidden / 64);
    const std::uint8_t* tiles =
        reinterpret_cast<const std::uint8_t*>(a.packed.data) + source.offset;
    for (std::uint32_t i = threadIdx.x; i < a.hidden; i += blockDim.x) {
      a.residual[std::size_t{row} * a.hidden + i] =
          unpack_value(tiles, source.format, token % 64, i);
    }
    return;
  }
  const __nv_bfloat16* from = a.table + std::size_t{token} * a.hidden;
  for (std::uint32_t i = threadIdx.x * 4; i < a.hidden; i += blockDim.x * 4) {
    *reinterpret_cast<float4*>(a.residual + std::size_t{row} * a.hidden + i) =
        load_bf16x4(from + i);
  }
}

template <int kPairs, bool kSplits>
__global__ void __launch_bounds__(norm_threads) norm_kernel(const norm_arguments a) {
  __shared__ float parts[2 * norm_threads / 32];
  let_next_kernel_start();
  wait_for_previous_kernel();
  const std::uint32_t row = a.gather != nullptr ? a.gather[blockIdx.x] : blockIdx.x;
  normalize_pairs<kPairs, kSplits>(a, row, blockIdx.x, parts);
}

__global__ void __launch_bounds__(128) rotary_kernel(const rotary_arguments a) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  rotate_head(a, blockIdx.x * 4 + threadIdx.x / 32);
}

__global__ void __launch_bounds__(128) rotary_interleaved_kernel(const rotary_arguments a) {
  let_next_kernel_start();
  wait_for_previous_kernel();
  rotate_eight(a, blockIdx.y, (blockIdx.x * 128 + threadIdx.x) * 8);
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
    best = max(best, is_finite(row[i]) ? ordered_key(row[i], i) : ~0ull);
  }
#pragma unroll
  for (int i = 16; i > 0; i /= 2) best = max(best, __shfl_xor_sync(~0u, best, i));
  if (threadIdx.x % 32 == 0) atomicMax(argmax + blockIdx.y, best);
}

}  // namespace

result<void> embed(const embed_arguments& a, bool early, cudaStream_t stream) {
  return launch("embed", embed_kernel, {dim3(a.rows), dim3(256), 0}, stream, early, a);
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

}  // namespace troupe::gpu::cuda
