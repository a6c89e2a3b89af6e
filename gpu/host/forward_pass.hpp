// One forward pass of a Llama-family decoder over at most rows_max rows, as a program of phases for the pool.
//
// Owner: host_runner, one thread; the phases run on every worker. Nothing in a row's arithmetic depends on the
// other rows, on how phases are cut into tasks, or on who runs them.
//
// Phases of a layer:   [norm] qkv attend [merge] [keep wanted rows] [quantize] output [norm] gate_up [quantize] down
// Norms and quantizations are phases for many rows only; for a few, each worker prepares its own copy of the
// activations, which is cheaper than one more barrier.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "gpu/batch.hpp"
#include "gpu/host/host_weights.hpp"
#include "gpu/host/kernels.hpp"
#include "gpu/host/thread_pool.hpp"
#include "gpu/kv_layout.hpp"
#include "model/model.hpp"

namespace troupe::gpu::host {

// A row of a pass.
struct row_info {
  token_id token;
  std::uint32_t position;
  std::uint32_t sequence;  // index into the pass's sequences
};

// Part of a sequence's rows in this pass.
struct pass_sequence {
  std::uint32_t first_row, num_rows;
  std::uint32_t first_position;
  std::span<const block_id> block_table;
};

struct pass {
  std::vector<row_info> rows;
  std::vector<pass_sequence> sequences;
  std::vector<std::uint32_t> logits_rows;  // ascending
  float* logits = nullptr;                 // [logits_rows.size()][vocab_size]
};

class forward_pass {
 public:
  static constexpr std::uint32_t rows_max = 256;

  // `weights` and `kernels` outlive this. ec::unsupported for shapes that the kernels do not take.
  static result<std::unique_ptr<forward_pass>> make(const model::model_config& config,
                                                    const kv_layout& layout,
                                                    const host_weights& weights,
                                                    const kernel_table& kernels, thread_pool& pool);

  void set_arena(std::byte* arena) { arena_ = arena; }
  void run(const pass& p);
  std::size_t buffer_bytes() const { return buffers_.size(); }

 private:
  // Rows of one sequence and some KV heads over some segments of its tokens.
  struct attention_task {
    std::uint32_t sequence, first_head, num_heads;
    std::uint32_t first_row, num_rows;  // of the pass
    std::uint32_t first_segment, num_segments;
    std::uint32_t partial;  // split: index of its first state in partials_
  };
  struct merge_task {
    std::uint32_t kv_head, first_row, num_rows;
    std::uint32_t first_partial, stride, num_segments;  // stride: states between two segments
  };
  // A worker's own memory.
  struct worker_memory {
    activations few;           // quantized rows of the current phase, when they are few
    activations current;       // `few` with the width of the current phase
    std::uint32_t serial = 0;  // the phase that `current` was prepared for
    float* scratch;            // [32 * groups_max]
    float* tile_a;             // [row_chunk_max][head_dim]
    float* tile_b;             // [row_chunk_max][16]
    float* keys;               // [head_dim][64]
    float* values;             // [64][head_dim]
    float* outputs;  // [2][attention_rows_max * group][head_dim]: all segments, this segment
  };
  enum class source : std::uint8_t { attn_norm, attention, ffn_norm, inner, logits };

  forward_pass(const model::model_config& config, const kv_layout& layout,
               const host_weights& weights, const kernel_table& kernels, thread_pool& pool);
  result<void> allocate();
  std::size_t place(
      std::byte* base);  // points every buffer into base (nullptr: only counts); bytes

  void build_program();
  void plan_attention();
  std::uint32_t tiles_per_task(std::uint32_t tiles) const;
  std::uint32_t matmul_tasks(std::uint32_t tiles, std::uint32_t num_rows) const;
  template <void (forward_pass::*method)(std::uint32_t, std::uint32_t, std::uint32_t,
                                         std::uint32_t)>
  void add(std::uint32_t layer, std::uint32_t tasks);

  template <source from>
  void add_prepare(std::uint32_t layer);  // unless each worker does it for itself

  // -- phases: (layer, task, worker, serial) ------------------------------------------------------------------------
  void embed(std::uint32_t layer, std::uint32_t task, std::uint32_t worker, std::uint32_t serial);
  template <source from>
  void prepare(std::uint32_t layer, std::uint32_t task, std::uint32_t worker, std::uint32_t serial);
  void qkv(std::uint32_t layer, std::uint32_t task, std::uint32_t worker, std::uint32_t serial);
  void attend(std::uint32_t layer, std::uint32_t task, std::uint32_t worker, std::uint32_t serial);
  void merge(std::uint32_t layer, std::uint32_t task, std::uint32_t worker, std::uint32_t serial);
  void keep_wanted(std::uint32_t layer, std::uint32_t task, std::uint32_t worker,
                   std::uint32_t serial);
  void output(std::uint32_t layer, std::uint32_t task, std::uint32_t worker, std::uint32_t serial);
  void gate_up(std::uint32_t layer, std::uint32_t task, std::uint32_t worker, std::uint32_t serial);
  void down(std::uint32_t layer, std::uint32_t task, std::uint32_t worker, std::uint32_t serial);
  void lm_head(std::uint32_t layer, std::uint32_t task, std::uint32_t worker, std::uint32_t serial);

  // Tiles and rows of a matmul task.
  struct part {
    std::uint32_t first_tile, last_tile, first_row, num_rows;
  };
  part part_of(std::uint32_t task, std::uint32_t tiles, std::uint32_t num_rows) const;

  // -- parts of phases ----------------------------------------------------------------------------------------------
  const activations& input(source from, std::uint32_t layer, std::uint32_t worker,
                           std::uint32_t serial);
  activations sized(const activations& a, source from, std::uint32_t layer) const;
  std::uint32_t rows_of(source from, std::uint32_t layer) const;
  std::uint32_t columns(source from) const;
  void prepare_row(source from, std::uint32_t layer, std::uint32_t row, const activations& out,
                   float* scratch) const;
  void tile(const packed_matrix& m, const activations& in, std::uint32_t tile,
            std::uint32_t first_row, std::uint32_t num_rows, float* out, std::size_t stride,
            bool accumulate) const;
  // The residual's rows of a matmul task grow by m * in.
  void add_to_residual(const packed_matrix& m, const activations& in, std::uint32_t task);
  void finish_head(std::uint32_t layer, std::uint32_t head, std::uint32_t row, float* values);
  void attend_segment(const attention_task& t, std::uint32_t layer, std::uint32_t segment,
                      const worker_memory& w, attention_state* states) const;
  void fill_tile(kv_tile& tile, const pass_sequence& s, std::uint32_t layer, std::uint32_t kv_head,
                 std::uint32_t first_token, std::uint32_t end) const;
  std::uint32_t fill_runs(read_ahead::run* runs, const pass_sequence& s, const attention_task& t,
                          std::uint32_t layer, std::uint32_t first_token, std::uint32_t end) const;
  void write_output(const attention_state& s, std::uint32_t row, std::uint32_t head) const;
  std::uint16_t* kv(std::uint32_t layer, bool value, std::uint32_t kv_head, const pass_sequence& s,
                    std::uint32_t position) const;
  std::uint32_t rows() const { return static_cast<std::uint32_t>(pass_->rows.size()); }

  const model::model_config config_;
  const kv_layout layout_;
  const model::rope_frequencies frequencies_;
  const host_weights& weights_;
  const kernel_table& kernels_;
  thread_pool& pool_;
  std::byte* arena_ = nullptr;

  const std::uint32_t group_;     // query heads of a KV head
  std::uint32_t groups_max_ = 0;  // 32-wide groups of the widest activation
  bool needs_values_ = false;     // some matrix is in floating point
  bool needs_integers_ = false;
  aligned_memory buffers_;
  float* hidden_ = nullptr;   // [rows_max][hidden_size]
  float* queries_ = nullptr;  // [rows_max][heads * head_dim], then the attention's output
  float* inner_ = nullptr;    // [rows_max][intermediate_size]
  float* cosine_ = nullptr;   // [rows_max][rope.dimensions]
  float* sine_ = nullptr;     // the same
  activations many_;          // of rows_max rows
  std::vector<worker_memory> workers_;
  std::vector<float> partial_outputs_;     // split attention: [states][head_dim]
  std::vector<attention_state> partials_;  // of those outputs

  // -- of the current pass ------------------------------------------------------------------------------------------
  const pass* pass_ = nullptr;
  std::vector<attention_task> attention_tasks_;
  std::vector<merge_task> merge_tasks_;
  std::vector<phase> program_;
};

}  // namespace troupe::gpu::host
