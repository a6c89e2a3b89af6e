// The host device's kernels: one table of functions per instruction set, all of which give the same bits.
//
// Each kernels_<isa>.cpp compiles matmul.hpp, attention.hpp and rows.hpp over its own `simd`.
// Pure functions on caller's memory: any thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu/host/weight_format.hpp"

namespace troupe::gpu::host {

// Rows that a kernel treats together. Quantized activations are stored for them interleaved:
// [block of 8 rows][group of 32][row][64 bytes]; a last block of r < 8 rows has r rows a group.
inline constexpr std::uint32_t rows_per_block = 8;
inline constexpr std::uint32_t group_size = 32;
// Activations become integers of at most this magnitude: 256 * high + low with both in a signed byte.
inline constexpr float activation_max = 32639.0f;

// Sums of the quantized activations of one group, for weights with an offset or a minimum.
struct group_sums {
  std::int32_t half[2];  // of each 16
  std::int32_t whole;
  float whole_f;  // the same, exact in float
};

// A matrix of activations as kernels read it; any of the two forms may be absent.
struct activations {
  std::int8_t* quantized = nullptr;  // [rows / 8][groups][8][64]
  group_sums* sums = nullptr;        // [rows / 8][groups][8]
  float* scales = nullptr;           // [rows]
  float* values = nullptr;           // [rows][padded_columns], for weights in floating point
  std::uint32_t groups = 0, rows = 0;
};

struct matmul_args {
  const packed_matrix* matrix;
  std::uint32_t tile;  // outputs 16 * tile ..
  const activations* input;
  std::uint32_t first_row,
      num_rows;  // first_row is a multiple of 8; so is num_rows unless the rows end there
  float* out;    // [num_rows][out_stride], 16 written per row
  std::size_t out_stride;
  bool accumulate;  // out += instead of out =
};

struct quantize_args {
  const float* in;      // [columns]
  const float* weight;  // RMSNorm's weight [columns], or nullptr: no norm
  float epsilon;
  std::uint32_t columns;
  const activations* out;
  std::uint32_t row;
  float* scratch;  // [32 * groups]
};

struct rope_args {
  float* head;          // [head_dim], in place
  const float* cosine;  // [dimensions], one a lane
  const float* sine;    // [dimensions], with the sign of the lane
  std::uint32_t dimensions;
  bool interleaved;
};

inline constexpr std::uint32_t attention_tile = 64;  // tokens of one softmax step
inline constexpr std::uint32_t attention_segment =
    512;  // tokens that are reduced before segments are merged

// Keys and values of up to 64 consecutive tokens of one sequence and KV head, where they lie in the cache.
struct kv_tile {
  const std::uint16_t* k[attention_tile];  // of each token [head_dim]
  const std::uint16_t* v[attention_tile];
  std::uint32_t num_tokens;
};

// Memory that will be wanted, which kernels fetch in step with what they read: lines in the order of their addresses,
// into the second cache, which keeps more reads under way than the first (twice the speed on Zen 4).
struct read_ahead {
  struct run {
    const std::byte *begin, *end;
  };
  const run* next = nullptr;  // runs that are not begun
  const run* last = nullptr;
  run now{};

  void fetch(int lines) {
    for (int k = 0; k < lines; ++k, now.begin += 64) {
      if (now.begin >= now.end) {
        if (next == last) return;
        now = *next++;
      }
      __builtin_prefetch(now.begin, 0, 2);
    }
  }
};

// Softmax state of one query: output is not yet divided by `sum`.
struct attention_state {
  float highest, sum;
  float* output;  // [head_dim]
};

struct attention_args {
  const kv_tile* tile;
  read_ahead* ahead;  // as much of it is fetched as the tile has bytes; may be nullptr
  std::uint32_t head_dim;
  std::uint32_t num_queries;
  const float* const* queries;  // [num_queries] of [head_dim], scaled
  const std::uint32_t*
      num_tokens;           // [num_queries], visible tokens of this tile, 1 .. tile->num_tokens
  attention_state* states;  // [num_queries]
  float* keys;              // scratch [head_dim][64]
  float* values;            // scratch [64][head_dim]
};

struct kernel_table {
  const char* name;  // for people
  void (*matmul[num_weight_formats])(const matmul_args&);
  void (*quantize_row)(const quantize_args&);
  void (*rms_norm)(const float* in, const float* weight, float epsilon, std::uint32_t columns,
                   float* out);
  // out[row] = up[row] * gate[row] / (1 + exp(-gate[row])); gate and up are [rows][16].
  void (*silu_multiply)(const float* gate, const float* up, std::uint32_t rows, float* out,
                        std::size_t out_stride);
  void (*rope)(const rope_args&);
  void (*store_f16)(const float* in, std::uint16_t* out, std::uint32_t n);  // clamped to +-65504
  void (*attend)(const attention_args&);
  void (*merge)(attention_state& total, const attention_state& segment, std::uint32_t head_dim);
  void (*scale)(float* x, float factor, std::uint32_t n);
  void (*add)(float* x, const float* y, std::uint32_t n);
};

const kernel_table& kernels_portable();
#if defined(__x86_64__)
const kernel_table& kernels_avx2();
const kernel_table& kernels_avxvnni();
const kernel_table& kernels_vnni256();  // kernels_avxvnni's code in AVX-512's encoding, for tests
const kernel_table& kernels_avx512();
#endif

}  // namespace troupe::gpu::host
