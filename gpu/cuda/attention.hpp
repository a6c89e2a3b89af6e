// Attention over paged KV: prefill chunks, decode and verification of drafts, by tiles of many rows or few.
//
// The queries of all heads that share a KV head are packed as rows of one tile (row = token * group + head), so decode
// reads each KV byte once. KV is read in tiles by the copy engine straight from the blocks; products run on the tensor
// cores with online softmax (FlashAttention-3, Shah et al. 2024, arXiv 2407.08608); long contexts are split among
// blocks and merged by the last of them (FlashDecoding). A row's result depends on its query, its KV and the split positions only, so it
// is bit-identical in any batch and chunk as long as the splits fall on the same positions.
//
// Stateless; the thread that owns the stream.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "base/result.hpp"
#include "gpu/cuda/rows.hpp"
#include "gpu/kv_layout.hpp"

namespace troupe::gpu::cuda {

// The work of num_kv_heads blocks: a few tokens of one sequence against KV positions [kv_begin, kv_end).
struct attention_item {
  std::uint32_t row;        // of the first token in the batch
  std::uint32_t tokens;     // tokens * group <= rows of a tile
  std::uint32_t position;   // of the first token
  std::uint32_t kv_begin;   // multiple of the KV tile
  std::uint32_t kv_end;     // at most position + tokens
  std::uint32_t first_new;  // positions from here on get their KV in this pass
  std::uint32_t table;      // where the sequence's blocks begin in block_tables
  // With parts > 1 the same tokens' other KV is in other items: part i of token t goes to row partial + i * tokens + t of
  // the partials, and whoever finishes last merges all parts in order.
  std::uint32_t part, parts, partial;
  std::uint32_t
      counter;  // shared by the parts; counters [2 * num_kv_heads * counter, + 2 * num_kv_heads)
};

struct attention_shape {
  std::uint32_t num_heads = 0, num_kv_heads = 0, head_dim = 0;  // head_dim 64 or 128
  std::uint32_t group() const { return num_heads / num_kv_heads; }
};

// wide: 128 packed rows, KV tiles of 128; narrow: 64 and 64; thin: 8 and 64. Exactness needs one of them for every row.
enum class attention_tile : std::uint8_t { thin, narrow, wide };
constexpr std::uint32_t tile_rows(attention_tile t) {
  return t == attention_tile::wide ? 128 : t == attention_tile::narrow ? 64 : 8;
}
constexpr std::uint32_t tile_keys(attention_tile t) {
  return t == attention_tile::wide ? 128 : 64;
}

struct attention_arguments {
  const __half* queries;              // [rows][num_heads][head_dim]
  __nv_bfloat16* output;              // [rows][num_heads][head_dim]
  const attention_item* items;        // on the device
  const std::uint32_t* num_items;     // on the device: blocks beyond it return at once
  const std::uint32_t* block_tables;  // on the device
  float* partial_output;              // [partial rows][num_heads][head_dim], not normalized
  float2* partial_softmax;            // [partial rows][num_heads]: maximum (base 2 exponent), sum
  std::uint32_t* counters;            // zero before and after
  std::uint32_t layer = 0;
  // If every item is one token: its q, k and v are taken from here, and K and V stored, instead of from `queries` and the
  // arena. A row's slot must be there. The wide tile does not do it.
  const rotary_arguments* rotary = nullptr;
};

// `arena`: make_arena_map over [blocks][rows][head_dim] with boxes of 16 rows.
result<void> attend(const attention_shape& shape, const kv_layout& layout, const CUtensorMap& arena,
                    attention_tile tile, std::uint32_t grid_items,
                    const attention_arguments& arguments, bool early, cudaStream_t stream);

// Once a device.
result<void> prepare_attention();

}  // namespace troupe::gpu::cuda
