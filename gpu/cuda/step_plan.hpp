// What one forward pass will do, worked out on the host: the rows' tokens, positions and KV slots, the attention's work
// list. A plain object that needs no GPU; owned by the runner, its thread.
#pragma once

#include <cstdint>
#include <vector>

#include "gpu/batch.hpp"
#include "gpu/cuda/attention.hpp"

namespace troupe::gpu::cuda {

struct plan_options {
  attention_shape shape;
  std::uint32_t block_tokens = 16;
  std::uint32_t multiprocessors = 132;
  bool exact = false;
  std::uint32_t exact_split = 512;        // KV positions of a part under exact, a multiple of 64
  std::uint32_t max_partial_rows = 8192;  // a round's partials fit in this many rows
};

// The smallest tile for items of so many rows, each a token and a head of the group that shares a KV head.
attention_tile tile_for(const plan_options& options, std::uint32_t packed_rows);

// One launch of attend over items [first_item, + items).
struct attention_round {
  attention_tile tile = attention_tile::thin;
  std::uint32_t first_item = 0, items = 0;
};

struct step_plan {
  std::uint32_t rows = 0;                               // of the batch, before padding
  std::uint32_t partial_rows = 0;                       // of the largest round
  std::uint32_t counters = 0;                           // pieces in several parts
  std::vector<std::uint32_t> tokens, positions, slots;  // [rows]
  std::vector<std::uint32_t> gather;                    // rows whose logits are wanted
  std::vector<attention_item> items;
  std::vector<attention_round> rounds;
  std::vector<std::uint32_t> block_tables;
  bool every_row_has_logits = false;  // gather[i] == i
  bool single = false;                // every row is one token of its sequence, and no tile is wide

  // Refills, keeping capacity: no allocation once sizes have been seen.
  void build(const batch& b, const plan_options& options);

 private:
  struct piece {
    std::uint32_t row, tokens, position, first_new, table;
  };
  void add_round(const std::vector<piece>& pieces, attention_tile tile,
                 const plan_options& options);
  void add_piece(const piece& p, std::uint32_t split, attention_round& round,
                 std::uint32_t& partial_row);

  std::vector<piece> narrow_, wide_;
};

}  // namespace troupe::gpu::cuda
