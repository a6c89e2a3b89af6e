#include "gpu/cuda/step_plan.hpp"

#include <algorithm>

#include "base/result.hpp"
#include "gpu/cuda/rows.hpp"

namespace troupe::gpu::cuda {
namespace {

// Parts shorter than this cost more to merge than they gain.
constexpr std::uint32_t min_split = 128, min_split_wide = 2048;
constexpr std::uint32_t max_parts = 64;  // bounds the partials of one piece

std::uint32_t round_up(std::uint64_t value, std::uint32_t step) {
  return static_cast<std::uint32_t>((value + step - 1) / step * step);
}

}  // namespace

attention_tile tile_for(const plan_options& options, std::uint32_t packed_rows) {
  if (options.exact) return attention_tile::narrow;
  if (packed_rows <= tile_rows(attention_tile::thin)) return attention_tile::thin;
  return packed_rows <= tile_rows(attention_tile::narrow) ? attention_tile::narrow
                                                          : attention_tile::wide;
}

void step_plan::add_piece(const piece& p, std::uint32_t split, attention_round& round,
                          std::uint32_t& partial_row) {
  const std::uint32_t end = p.position + p.tokens;
  const std::uint32_t parts = (end + split - 1) / split;
  for (std::uint32_t i = 0; i < parts; ++i) {
    attention_item item{};
    item.row = p.row;
    item.tokens = p.tokens;
    item.position = p.position;
    item.kv_begin = i * split;
    item.kv_end = std::min(end, (i + 1) * split);
    item.first_new = p.first_new;
    item.table = p.table;
    item.part = i;
    item.parts = parts;
    item.partial = partial_row;
    item.counter = counters;
    items.push_back(item);
  }
  round.items += parts;
  if (parts == 1) return;
  ++counters;
  partial_row += parts * p.tokens;
}

// Pieces go in rounds whose partials fit; only exact's long prefills need more than one.
void step_plan::add_round(const std::vector<piece>& pieces, attention_tile tile,
                          const plan_options& options) {
  if (pieces.empty()) return;
  std::uint32_t split = options.exact_split;
  if (!options.exact) {
    std::uint64_t keys = 0, longest = 0;
    for (const auto& p : pieces) {
      keys += std::uint64_t{p.position + p.tokens} * options.shape.num_kv_heads;
      longest = std::max(longest, std::uint64_t{p.position + p.tokens});
    }
    const std::uint32_t places = options.multiprocessors * (tile == attention_tile::wide ? 1 : 2);
    const std::uint64_t fair =
        std::max({(keys + places - 1) / places,
                  std::uint64_t{tile == attention_tile::wide ? min_split_wide : min_split},
                  longest / max_parts});
    split = round_up(fair, tile_keys(tile));
    // Rounded up for each piece, parts may need a few places more than there are: a second turn for all.
    const auto parts = [&] {
      std::uint64_t count = 0;
      for (const auto& p : pieces) count += (p.position + p.tokens + split - 1) / split;
      return count * options.shape.num_kv_heads;
    };
    // Not much longer parts, though: of one long piece among many short ones they would be all that still runs.
    if (pieces.size() * options.shape.num_kv_heads <= places) {
      for (const std::uint32_t first = split; parts() > places; split += tile_keys(tile)) {
        if (split <= 2 * std::uint64_t{first}) continue;
        split = first;
        break;
      }
    }
  }
  std::uint32_t partial_row = 0;
  const auto open = [&] {
    rounds.push_back({tile, static_cast<std::uint32_t>(items.size()), 0});
    partial_row = 0;
  };
  const auto close = [&] {
    const attention_round& r = rounds.back();
    // Longest first, so that no long one starts when the others are done.
    std::stable_sort(items.begin() + r.first_item, items.end(), [](const auto& a, const auto& b) {
      return a.kv_end - a.kv_begin > b.kv_end - b.kv_begin;
    });
    partial_rows = std::max(partial_rows, partial_row);
  };
  open();
  for (const auto& p : pieces) {
    const std::uint32_t needed = ((p.position + p.tokens + split - 1) / split) * p.tokens;
    if (partial_row != 0 && partial_row + needed > options.max_partial_rows) {
      close();
      open();
    }
    add_piece(p, split, rounds.back(), partial_row);
  }
  close();
}

void step_plan::build(const batch& b, const plan_options& options) {
  rows = b.num_rows();
  partial_rows = 0;
  counters = 0;
  tokens.clear();
  positions.clear();
  slots.clear();
  gather.clear();
  items.clear();
  rounds.clear();
  block_tables.clear();
  narrow_.clear();
  wide_.clear();
  const std::uint32_t group = options.shape.group();
  for (const auto& sequence : b.sequences) {
    const auto count = static_cast<std::uint32_t>(sequence.tokens.size());
    const auto first_row = static_cast<std::uint32_t>(tokens.size());
    const auto table = static_cast<std::uint32_t>(block_tables.size());
    const std::uint32_t end = sequence.first_position + count;
    TROUPE_ASSERT(count > 0 && sequence.num_logits <= count);
    TROUPE_ASSERT(sequence.block_table.size() * options.block_tokens >= end);
    const std::uint32_t blocks = (end + options.block_tokens - 1) / options.block_tokens;
    block_tables.insert(block_tables.end(), sequence.block_table.begin(),
                        sequence.block_table.begin() + blocks);
    for (std::uint32_t i = 0; i < count; ++i) {
      const std::uint32_t position = sequence.first_position + i;
      tokens.push_back(sequence.tokens[i]);
      positions.push_back(position);
      slots.push_back(sequence.block_table[position / options.block_tokens] * options.block_tokens +
                      position % options.block_tokens);
      if (i + sequence.num_logits >= count) gather.push_back(first_row + i);
    }
    const bool narrow = tile_for(options, count * group) != attention_tile::wide;
    const std::uint32_t step =
        tile_rows(narrow ? attention_tile::narrow : attention_tile::wide) / group;
    for (std::uint32_t i = 0; i < count; i += step) {
      (narrow ? narrow_ : wide_)
          .push_back({first_row + i, std::min(step, count - i), sequence.first_position + i,
                      sequence.first_position, table});
    }
  }
  every_row_has_logits = gather.size() == rows;
  single = rows == b.sequences.size() && wide_.empty();
  add_round(wide_, attention_tile::wide, options);
  std::uint32_t most = 0;
  for (const piece& p : narrow_) most = std::max(most, p.tokens);
  add_round(narrow_, tile_for(options, most * group), options);
}

}  // namespace troupe::gpu::cuda
