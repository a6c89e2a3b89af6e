#include <algorithm>
#include <cmath>

#include "gpu/host/forward_pass.hpp"
#include "gpu/host/forward_pass_limits.hpp"

namespace troupe::gpu::host {

void forward_pass::plan_attention() {
  attention_tasks_.clear();
  merge_tasks_.clear();
  const std::uint32_t kv_heads = config_.num_key_value_heads;
  const std::uint32_t tasks_wanted = 4 * pool_.size();
  // Small enough for some tasks a worker, large enough that a tile of keys is read for several rows.
  const std::uint32_t chunk = std::clamp(rows() * kv_heads / tasks_wanted, 4u, attention_rows_max);
  const bool split = rows() <= split_rows_max && rows() * kv_heads < tasks_wanted;
  const bool decode = pass_->sequences.size() == rows() && rows() >= tasks_wanted;
  std::uint32_t partials = 0;
  for (std::uint32_t s = 0; s < pass_->sequences.size(); ++s) {
    const pass_sequence& seq = pass_->sequences[s];
    for (std::uint32_t row = 0; row < seq.num_rows; row += chunk) {
      const std::uint32_t n = std::min(chunk, seq.num_rows - row);
      const std::uint32_t tokens = seq.first_position + row + n;
      const std::uint32_t segments = (tokens + attention_segment - 1) / attention_segment;
      // The heads of a block lie side by side: one task reads them in order where there are tasks enough without
      // cutting there.
      const bool together =
          decode || (split && pass_->sequences.size() * segments >= 2 * pool_.size());
      const std::uint32_t heads = together ? std::min(kv_heads, attention_rows_max / n) : 1;
      for (std::uint32_t h = 0; h < kv_heads; h += heads) {
        const std::uint32_t first_row = seq.first_row + row, these = std::min(heads, kv_heads - h);
        if (!split || segments == 1) {
          attention_tasks_.push_back({s, h, these, first_row, n, 0, segments, none});
          continue;
        }
        const std::uint32_t states = n * group_;
        for (std::uint32_t k = 0; k < these; ++k) {
          merge_tasks_.push_back(
              {h + k, first_row, n, partials + k * states, these * states, segments});
        }
        for (std::uint32_t k = 0; k < segments; ++k, partials += these * states)
          attention_tasks_.push_back({s, h, these, first_row, n, k, 1, partials});
      }
    }
  }
  // The longest first: the others fill up what is left of the phase.
  std::stable_sort(attention_tasks_.begin(), attention_tasks_.end(),
                   [&](const auto& a, const auto& b) {
                     return a.num_segments * a.num_rows * a.num_heads >
                            b.num_segments * b.num_rows * b.num_heads;
                   });
  partials_.resize(std::max<std::size_t>(partials_.size(), partials));
  partial_outputs_.resize(partials_.size() * config_.head_dim);
}

std::uint16_t* forward_pass::kv(std::uint32_t layer, bool value, std::uint32_t kv_head,
                                const pass_sequence& s, std::uint32_t position) const {
  const std::size_t block = s.block_table[position / layout_.block_tokens];
  const std::size_t heads = layout_.num_kv_heads;
  std::byte* at = arena_ + block * layout_.block_bytes() + layer * layout_.layer_bytes() +
                  ((value ? heads : 0) + kv_head) * layout_.head_bytes();
  return reinterpret_cast<std::uint16_t*>(at) +
         std::size_t{position % layout_.block_tokens} * layout_.head_dim;
}

// Up to 64 tokens from first_token, which is before `end`.
void forward_pass::fill_tile(kv_tile& tile, const pass_sequence& s, std::uint32_t layer,
                             std::uint32_t kv_head, std::uint32_t first_token,
                             std::uint32_t end) const {
  tile.num_tokens = std::min(attention_tile, end - first_token);
  for (std::uint32_t t = 0; t < tile.num_tokens;) {
    const std::uint32_t position = first_token + t;
    const std::uint32_t left = layout_.block_tokens - position % layout_.block_tokens;
    const std::uint16_t* k = kv(layer, false, kv_head, s, position);
    const std::uint16_t* v = kv(layer, true, kv_head, s, position);
    const std::uint32_t last = std::min(tile.num_tokens, t + left);
    for (; t < last; ++t, k += layout_.head_dim, v += layout_.head_dim) {
      tile.k[t] = k;
      tile.v[t] = v;
    }
  }
}

// What lies in memory of such a tile of some heads.
std::uint32_t forward_pass::fill_runs(read_ahead::run* runs, const pass_sequence& s,
                                      const attention_task& t, std::uint32_t layer,
                                      std::uint32_t first_token, std::uint32_t end) const {
  std::uint32_t count = 0;
  const std::uint32_t last = std::min(end, first_token + attention_tile);
  for (std::uint32_t position = first_token; position < last;) {
    const std::uint32_t left = layout_.block_tokens - position % layout_.block_tokens;
    const std::uint32_t n = std::min(left, last - position);
    const std::size_t bytes = (t.num_heads - 1) * layout_.head_bytes() +
                              std::size_t{n} * layout_.head_dim * size_of(layout_.dtype);
    for (const bool value : {false, true}) {
      const auto* begin =
          reinterpret_cast<const std::byte*>(kv(layer, value, t.first_head, s, position));
      runs[count++] = {begin, begin + bytes};
    }
    position += n;
  }
  return count;
}

// Fills the states [head][row][query head of the KV head] of rows that reach into the segment.
void forward_pass::attend_segment(const attention_task& t, std::uint32_t layer,
                                  std::uint32_t segment, const worker_memory& w,
                                  attention_state* states) const {
  const pass_sequence& s = pass_->sequences[t.sequence];
  const std::uint32_t queries = t.num_rows * group_, head_dim = config_.head_dim;
  const std::size_t stride = std::size_t{config_.num_attention_heads} * head_dim;
  const std::uint32_t first_position = pass_->rows[t.first_row].position;
  const std::uint32_t end = first_position + t.num_rows;  // tokens that the last row sees
  const float* q[attention_rows_max * queries_per_row_max];
  std::uint32_t visible[attention_rows_max * queries_per_row_max];
  for (std::uint32_t k = 0; k < t.num_heads * queries; ++k) {
    const std::size_t head = std::size_t{t.first_head + k / queries} * group_ + k % group_;
    q[k] = queries_ + (t.first_row + k % queries / group_) * stride + head * head_dim;
    states[k].highest = -HUGE_VALF;
    states[k].sum = 0;
    std::fill_n(states[k].output, head_dim, 0.0f);
  }
  const std::uint32_t segment_end = std::min(end, (segment + 1) * attention_segment);
  std::uint32_t token = segment * attention_segment;
  const std::uint32_t task_end =
      std::min(end, (t.first_segment + t.num_segments) * attention_segment);
  kv_tile tile;
  read_ahead::run runs[2 * attention_tile];
  for (; token < segment_end; token += attention_tile) {
    // Rows before `token` see nothing of this tile.
    const std::uint32_t skipped = token > first_position ? (token - first_position) * group_ : 0;
    for (std::uint32_t k = skipped; k < queries; ++k) {
      visible[k] = std::min(attention_tile, first_position + k / group_ + 1 - token);
    }
    read_ahead ahead{runs, runs};
    ahead.last += fill_runs(runs, s, t, layer, token + attention_tile, task_end);
    for (std::uint32_t h = 0; h < t.num_heads; ++h) {
      fill_tile(tile, s, layer, t.first_head + h, token, segment_end);
      const std::uint32_t at = h * queries + skipped;
      kernels_.attend({&tile, &ahead, head_dim, queries - skipped, q + at, visible + skipped,
                       states + at, w.keys, w.values});
    }
  }
}

void forward_pass::attend(std::uint32_t layer, std::uint32_t task, std::uint32_t worker,
                          std::uint32_t) {
  const attention_task& t = attention_tasks_[task];
  const worker_memory& w = workers_[worker];
  const std::uint32_t queries = t.num_rows * group_, head_dim = config_.head_dim;
  const std::uint32_t all = t.num_heads * queries;
  attention_state total[attention_rows_max * queries_per_row_max],
      one[attention_rows_max * queries_per_row_max];
  for (std::uint32_t k = 0; k < all; ++k) {
    total[k].output = t.partial == none
                          ? w.outputs + std::size_t{k} * head_dim
                          : partial_outputs_.data() + std::size_t{t.partial + k} * head_dim;
    one[k].output = w.outputs + std::size_t{attention_rows_max * group_ + k} * head_dim;
  }
  attend_segment(t, layer, t.first_segment, w, total);
  if (t.partial != none) {
    std::copy_n(total, all, partials_.data() + t.partial);
    return;
  }
  const std::uint32_t first_position = pass_->rows[t.first_row].position;
  for (std::uint32_t s = 1; s < t.num_segments; ++s) {
    attend_segment(t, layer, s, w, one);
    for (std::uint32_t k = 0; k < all; ++k) {
      if (first_position + k % queries / group_ >= s * attention_segment)
        kernels_.merge(total[k], one[k], head_dim);
    }
  }
  for (std::uint32_t k = 0; k < all; ++k) {
    write_output(total[k], t.first_row + k % queries / group_,
                 (t.first_head + k / queries) * group_ + k % group_);
  }
}

void forward_pass::merge(std::uint32_t, std::uint32_t task, std::uint32_t, std::uint32_t) {
  const merge_task& t = merge_tasks_[task];
  const std::uint32_t queries = t.num_rows * group_;
  for (std::uint32_t k = 0; k < queries; ++k) {
    const std::uint32_t row = t.first_row + k / group_;
    attention_state& total = partials_[t.first_partial + k];
    for (std::uint32_t s = 1; s < t.num_segments; ++s) {
      if (pass_->rows[row].position < s * attention_segment) break;
      kernels_.merge(total, partials_[t.first_partial + s * t.stride + k], config_.head_dim);
    }
    write_output(total, row, t.kv_head * group_ + k % group_);
  }
}

// The output takes the place of the query, which nobody reads any more.
void forward_pass::write_output(const attention_state& s, std::uint32_t row,
                                std::uint32_t head) const {
  const std::uint32_t head_dim = config_.head_dim;
  float* out = queries_ + (std::size_t{row} * config_.num_attention_heads + head) * head_dim;
  std::copy_n(s.output, head_dim, out);
  kernels_.scale(out, 1.0f / s.sum, head_dim);
}

}  // namespace troupe::gpu::host
