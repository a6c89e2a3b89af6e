#include "gpu/host/forward_pass.hpp"

#include <algorithm>

#include "gpu/host/forward_pass_limits.hpp"

namespace troupe::gpu::host {
namespace {

// Hands out consecutive parts of a buffer, each on its own cache line; with no buffer it only counts.
class placer {
 public:
  explicit placer(std::byte* base) : base_(base) {}
  template <class T>
  T* take(std::size_t n) {
    T* p = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += (n * sizeof(T) + 63) / 64 * 64;
    return p;
  }
  std::size_t used() const { return used_; }

 private:
  std::byte* base_;
  std::size_t used_ = 0;
};

std::uint32_t groups_of(std::uint32_t columns) {
  return quotient(columns, group_size);
}

result<void> check_config(const model::model_config& c) {
  const auto refuse = [](const std::string& what) {
    return fail(ec::unsupported, "the host device cannot run this model: " + what);
  };
  if (c.head_dim == 0 || c.head_dim % 16 != 0 || c.head_dim > head_dim_max) {
    return refuse("head_dim " + std::to_string(c.head_dim) + " is not a multiple of 16 up to 256");
  }
  if (c.num_key_value_heads == 0 || c.num_attention_heads % c.num_key_value_heads != 0) {
    return refuse("its query heads are not a multiple of its KV heads");
  }
  if (c.num_attention_heads / c.num_key_value_heads > queries_per_row_max) {
    return refuse("more than 16 query heads share a KV head");
  }
  if (c.rope.dimensions % 2 != 0 || c.rope.dimensions > c.head_dim) {
    return refuse("rope dimensions " + std::to_string(c.rope.dimensions));
  }
  if (c.intermediate_size % 16 != 0) return refuse("its intermediate size is not a multiple of 16");
  if (c.hidden_size % 16 != 0) return refuse("its hidden size is not a multiple of 16");
  return {};
}

}  // namespace

forward_pass::forward_pass(const model::model_config& config, const kv_layout& layout,
                           const host_weights& weights, const kernel_table& kernels,
                           thread_pool& pool)
    : config_(config),
      layout_(layout),
      frequencies_(model::frequencies(config.rope)),
      weights_(weights),
      kernels_(kernels),
      pool_(pool),
      group_(config.num_attention_heads / config.num_key_value_heads) {}

result<std::unique_ptr<forward_pass>> forward_pass::make(const model::model_config& config,
                                                         const kv_layout& layout,
                                                         const host_weights& weights,
                                                         const kernel_table& kernels,
                                                         thread_pool& pool) {
  TROUPE_CHECK(check_config(config));
  std::unique_ptr<forward_pass> f(new forward_pass(config, layout, weights, kernels, pool));
  TROUPE_CHECK(f->allocate());
  return f;
}

result<void> forward_pass::allocate() {
  const auto note = [&](const packed_matrix& m) {
    (info(m.format).bits == 0 ? needs_values_ : needs_integers_) = true;
  };
  for (const host_layer& l : weights_.layers) {
    for (const packed_matrix* m : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down}) note(*m);
  }
  note(weights_.lm_head);
  for (const source s : {source::attn_norm, source::attention, source::inner}) {
    groups_max_ = std::max(groups_max_, groups_of(columns(s)));
  }
  workers_.resize(pool_.size());
  TROUPE_TRY(buffers_, aligned_memory::make(place(nullptr)));
  place(buffers_.data());
  return {};
}

std::size_t forward_pass::place(std::byte* base) {
  placer p(base);
  const std::size_t head_dim = config_.head_dim;
  const auto take_activations = [&](std::uint32_t rows) {
    activations a;
    a.rows = rows;
    a.groups = groups_max_;
    const std::size_t n = std::size_t{rows} * groups_max_;
    if (needs_integers_) {
      a.quantized = p.take<std::int8_t>(n * 64);
      a.sums = p.take<group_sums>(n);
      a.scales = p.take<float>(rows);
    }
    if (needs_values_) a.values = p.take<float>(n * group_size);
    return a;
  };
  hidden_ = p.take<float>(std::size_t{rows_max} * config_.hidden_size);
  queries_ = p.take<float>(std::size_t{rows_max} * config_.num_attention_heads * head_dim);
  inner_ = p.take<float>(std::size_t{rows_max} * config_.intermediate_size);
  cosine_ = p.take<float>(std::size_t{rows_max} * config_.rope.dimensions);
  sine_ = p.take<float>(std::size_t{rows_max} * config_.rope.dimensions);
  many_ = take_activations(rows_max);
  for (worker_memory& w : workers_) {
    w.few = take_activations(few_rows_max);
    w.scratch = p.take<float>(std::size_t{groups_max_} * group_size);
    w.tile_a = p.take<float>(row_chunk_max * head_dim);
    w.tile_b = p.take<float>(row_chunk_max * tile_outputs);
    w.keys = p.take<float>(head_dim * attention_tile);
    w.values = p.take<float>(head_dim * attention_tile);
    w.outputs = p.take<float>(2 * attention_rows_max * group_ * head_dim);
  }
  return p.used();
}

void forward_pass::run(const pass& p) {
  TROUPE_ASSERT(!p.rows.empty() && p.rows.size() <= rows_max);
  pass_ = &p;
  plan_attention();
  build_program();
  pool_.run(program_);
  pass_ = nullptr;
}

template <void (forward_pass::*method)(std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t)>
void forward_pass::add(std::uint32_t layer, std::uint32_t tasks) {
  const auto call = [](void* self, std::uint32_t l, std::uint32_t task, std::uint32_t worker,
                       std::uint32_t serial) {
    (static_cast<forward_pass*>(self)->*method)(l, task, worker, serial);
  };
  program_.push_back({call, this, layer, tasks});
}

void forward_pass::build_program() {
  program_.clear();
  const auto last = static_cast<std::uint32_t>(weights_.layers.size()) - 1;
  const std::uint32_t heads = config_.num_attention_heads + 2 * config_.num_key_value_heads;
  add<&forward_pass::embed>(0, quotient(rows(), prepare_rows));
  for (std::uint32_t l = 0; l <= last; ++l) {
    const host_layer& w = weights_.layers[l];
    add_prepare<source::attn_norm>(l);
    add<&forward_pass::qkv>(l, heads * quotient(rows(), row_chunk_max));
    if (l == last && pass_->logits_rows.empty()) return;  // only the cache was wanted
    add<&forward_pass::attend>(l, static_cast<std::uint32_t>(attention_tasks_.size()));
    if (!merge_tasks_.empty()) {
      add<&forward_pass::merge>(l, static_cast<std::uint32_t>(merge_tasks_.size()));
    }
    if (l == last && pass_->logits_rows.size() < rows()) add<&forward_pass::keep_wanted>(l, 1);
    add_prepare<source::attention>(l);
    add<&forward_pass::output>(l, matmul_tasks(w.o.tiles, rows_of(source::attention, l)));
    add_prepare<source::ffn_norm>(l);
    add<&forward_pass::gate_up>(l, matmul_tasks(w.gate.tiles, rows_of(source::ffn_norm, l)));
    add_prepare<source::inner>(l);
    add<&forward_pass::down>(l, matmul_tasks(w.down.tiles, rows_of(source::inner, l)));
  }
  add_prepare<source::logits>(last);
  const std::uint32_t tiles = weights_.lm_head.tiles;
  add<&forward_pass::lm_head>(last, quotient(tiles, tiles_per_task(tiles)));
}

template <forward_pass::source from>
void forward_pass::add_prepare(std::uint32_t layer) {
  const std::uint32_t n = rows_of(from, layer);
  if (n > few_rows_max) add<&forward_pass::prepare<from>>(layer, quotient(n, prepare_rows));
}

// After the last layer's attention only the rows whose logits are wanted go on.
std::uint32_t forward_pass::rows_of(source from, std::uint32_t layer) const {
  const bool all = from == source::attn_norm || layer + 1 < weights_.layers.size();
  return all ? rows() : static_cast<std::uint32_t>(pass_->logits_rows.size());
}

std::uint32_t forward_pass::tiles_per_task(std::uint32_t tiles) const {
  // Some tasks more than workers, so that one who was held up does not hold up the others.
  constexpr std::uint32_t tasks_per_worker = 6;
  return std::max(1u, tiles / (tasks_per_worker * pool_.size()));
}

std::uint32_t forward_pass::matmul_tasks(std::uint32_t tiles, std::uint32_t num_rows) const {
  return quotient(tiles, tiles_per_task(tiles)) * quotient(num_rows, row_chunk_max);
}

forward_pass::part forward_pass::part_of(std::uint32_t task, std::uint32_t tiles,
                                         std::uint32_t num_rows) const {
  const std::uint32_t chunks = quotient(num_rows, row_chunk_max), n = tiles_per_task(tiles);
  const std::uint32_t first = task / chunks * n, row = task % chunks * row_chunk_max;
  return {first, std::min(first + n, tiles), row, std::min(row_chunk_max, num_rows - row)};
}

// -- activations ----------------------------------------------------------------------------------

std::uint32_t forward_pass::columns(source from) const {
  switch (from) {
    case source::attention:
      return config_.num_attention_heads * config_.head_dim;
    case source::inner:
      return config_.intermediate_size;
    default:
      return config_.hidden_size;
  }
}

activations forward_pass::sized(const activations& a, source from, std::uint32_t layer) const {
  activations s = a;
  s.groups = groups_of(columns(from));
  s.rows = rows_of(from, layer);
  return s;
}

void forward_pass::prepare_row(source from, std::uint32_t layer, std::uint32_t row,
                               const activations& out, float* scratch) const {
  quantize_args a{};
  a.columns = columns(from);
  a.epsilon = config_.rms_norm_eps;
  a.out = &out;
  a.row = row;
  a.scratch = scratch;
  switch (from) {
    case source::attn_norm:
      a.in = hidden_ + std::size_t{row} * a.columns;
      a.weight = weights_.layers[layer].attn_norm.data();
      break;
    case source::attention:
      a.in = queries_ + std::size_t{row} * a.columns;
      break;
    case source::ffn_norm:
      a.in = hidden_ + std::size_t{row} * a.columns;
      a.weight = weights_.layers[layer].ffn_norm.data();
      break;
    case source::inner:
      a.in = inner_ + std::size_t{row} * a.columns;
      break;
    case source::logits:
      a.in = hidden_ + std::size_t{row} * a.columns;
      a.weight = weights_.norm.data();
      break;
  }
  kernels_.quantize_row(a);
}

template <forward_pass::source from>
void forward_pass::prepare(std::uint32_t layer, std::uint32_t task, std::uint32_t worker,
                           std::uint32_t) {
  const activations out = sized(many_, from, layer);
  const std::uint32_t first = task * prepare_rows, last = std::min(first + prepare_rows, out.rows);
  for (std::uint32_t row = first; row < last; ++row)
    prepare_row(from, layer, row, out, workers_[worker].scratch);
}

const activations& forward_pass::input(source from, std::uint32_t layer, std::uint32_t worker,
                                       std::uint32_t serial) {
  worker_memory& w = workers_[worker];
  if (w.serial == serial) return w.current;
  w.serial = serial;
  const bool few = rows_of(from, layer) <= few_rows_max;
  w.current = sized(few ? w.few : many_, from, layer);
  if (few) {
    for (std::uint32_t row = 0; row < w.current.rows; ++row)
      prepare_row(from, layer, row, w.current, w.scratch);
  }
  return w.current;
}

void forward_pass::keep_wanted(std::uint32_t, std::uint32_t, std::uint32_t, std::uint32_t) {
  const std::size_t hidden = config_.hidden_size, query = columns(source::attention);
  for (std::size_t k = 0; k < pass_->logits_rows.size(); ++k) {
    const std::size_t row =
        pass_->logits_rows[k];  // ascending: row >= k, and nothing is written before it is read
    if (row == k) continue;
    std::copy_n(hidden_ + row * hidden, hidden, hidden_ + k * hidden);
    std::copy_n(queries_ + row * query, query, queries_ + k * query);
  }
}

}  // namespace troupe::gpu::host
