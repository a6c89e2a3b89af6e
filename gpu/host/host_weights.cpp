#include "gpu/host/host_weights.hpp"

#include <algorithm>

#include "model/trimmed_head.hpp"

namespace troupe::gpu::host {
namespace {

struct packing {
  const model::tensor* from;
  packed_matrix* to;
};

std::vector<float> read_vector(const model::tensor& t) {
  std::vector<float> v;
  if (!t.exists()) return v;
  v.resize(t.rows * t.columns);
  for (std::uint64_t r = 0; r < t.rows; ++r) {
    model::dequantize_row(t, r, std::span(v).subspan(r * t.columns, t.columns));
  }
  return v;
}

result<void> check_shape(const model::tensor& t, std::uint64_t rows, std::uint64_t columns,
                         bool optional = false) {
  if (!t.exists() && optional) return {};
  if (!t.exists()) return fail(ec::corrupt_file, "the model lacks the tensor '" + t.name + "'");
  if (t.rows == rows && t.columns == columns) return {};
  return fail(ec::corrupt_file, "tensor '" + t.name + "' is " + std::to_string(t.rows) + " x " +
                                    std::to_string(t.columns) +
                                    ", the model's configuration needs " + std::to_string(rows) +
                                    " x " + std::to_string(columns));
}

result<void> check_layer(const model::layer_weights& w, const model::model_config& c) {
  const std::uint64_t hidden = c.hidden_size, inner = c.intermediate_size;
  const std::uint64_t q = std::uint64_t{c.num_attention_heads} * c.head_dim;
  const std::uint64_t kv = std::uint64_t{c.num_key_value_heads} * c.head_dim;
  TROUPE_CHECK(check_shape(w.attn_norm, 1, hidden));
  TROUPE_CHECK(check_shape(w.ffn_norm, 1, hidden));
  TROUPE_CHECK(check_shape(w.q_proj, q, hidden));
  TROUPE_CHECK(check_shape(w.k_proj, kv, hidden));
  TROUPE_CHECK(check_shape(w.v_proj, kv, hidden));
  TROUPE_CHECK(check_shape(w.o_proj, hidden, q));
  TROUPE_CHECK(check_shape(w.gate_proj, inner, hidden));
  TROUPE_CHECK(check_shape(w.up_proj, inner, hidden));
  TROUPE_CHECK(check_shape(w.down_proj, hidden, inner));
  TROUPE_CHECK(check_shape(w.q_bias, 1, q, true));
  TROUPE_CHECK(check_shape(w.k_bias, 1, kv, true));
  TROUPE_CHECK(check_shape(w.v_bias, 1, kv, true));
  TROUPE_CHECK(check_shape(w.q_norm, 1, c.head_dim, true));
  return check_shape(w.k_norm, 1, c.head_dim, true);
}

void collect(const model::layer_weights& w, host_layer& l, std::vector<packing>& out) {
  l.attn_norm = read_vector(w.attn_norm);
  l.ffn_norm = read_vector(w.ffn_norm);
  l.q_bias = read_vector(w.q_bias);
  l.k_bias = read_vector(w.k_bias);
  l.v_bias = read_vector(w.v_bias);
  l.q_norm = read_vector(w.q_norm);
  l.k_norm = read_vector(w.k_norm);
  const std::pair<const model::tensor*, packed_matrix*> all[] = {
      {&w.q_proj, &l.q},       {&w.k_proj, &l.k},   {&w.v_proj, &l.v},      {&w.o_proj, &l.o},
      {&w.gate_proj, &l.gate}, {&w.up_proj, &l.up}, {&w.down_proj, &l.down}};
  for (const auto& [from, to] : all) out.push_back({from, to});
}

struct pack_job {
  packing p;
  std::uint8_t* at;
  std::uint32_t tiles_per_task;
};

void pack_task(void* context, std::uint32_t, std::uint32_t task, std::uint32_t, std::uint32_t) {
  const auto& job = *static_cast<const pack_job*>(context);
  const std::uint32_t first = task * job.tiles_per_task;
  pack_tiles(*job.p.from, *job.p.to, first, std::min(first + job.tiles_per_task, job.p.to->tiles),
             job.at);
}

}  // namespace

void host_weights::embed(std::uint32_t token, std::span<float> out) const {
  if (embedding.exists()) {
    model::dequantize_row(embedding, token, out);
  } else {
    unpack_row(lm_head, token, out);
  }
}

result<host_weights> load_weights(const model::loaded_model& m, thread_pool& pool,
                                  const std::function<void(double)>& progress) {
  const model::model_config& c = m.config;
  if (m.weights.layers.size() != c.num_hidden_layers) {
    return fail(ec::corrupt_file, "the model has " + std::to_string(m.weights.layers.size()) +
                                      " layers, its configuration says " +
                                      std::to_string(c.num_hidden_layers));
  }
  TROUPE_CHECK(check_shape(m.weights.embed_tokens, c.vocab_size, c.hidden_size));
  host_weights w;
  if (m.meta) {
    TROUPE_TRY(w.lm_head_tokens, model::output_tokens(*m.meta, c.vocab_size));
  }
  const std::uint64_t outputs = w.lm_head_tokens.empty() ? c.vocab_size : w.lm_head_tokens.size();
  TROUPE_CHECK(check_shape(m.weights.lm_head, outputs, c.hidden_size));
  TROUPE_CHECK(check_shape(m.weights.norm, 1, c.hidden_size));

  std::vector<packing> all;
  w.layers.resize(c.num_hidden_layers);
  for (std::size_t l = 0; l < w.layers.size(); ++l) {
    TROUPE_CHECK(check_layer(m.weights.layers[l], c));
    collect(m.weights.layers[l], w.layers[l], all);
  }
  w.norm = read_vector(m.weights.norm);
  all.push_back({&m.weights.lm_head, &w.lm_head});
  if (m.weights.embed_tokens.data.data() != m.weights.lm_head.data.data())
    w.embedding = m.weights.embed_tokens;

  std::size_t bytes = 0;
  for (const packing& p : all) {
    TROUPE_TRY(*p.to, plan(*p.from));
    bytes += p.to->bytes();
  }
  TROUPE_TRY(w.arena, aligned_memory::make(bytes));
  auto* at = reinterpret_cast<std::uint8_t*>(w.arena.data());
  std::size_t done = 0;
  for (const packing& p : all) {
    pack_job job{p, at, std::max(1u, p.to->tiles / (4 * pool.size()))};
    job.tiles_per_task = std::max(job.tiles_per_task, p.to->tiles / thread_pool::tasks_max + 1);
    const phase one{pack_task, &job, 0,
                    (p.to->tiles + job.tiles_per_task - 1) / job.tiles_per_task};
    pool.run(std::span(&one, 1));
    p.to->data = at;
    at += p.to->bytes();
    done += p.to->bytes();
    drop_file_pages(p.from->data);
    if (progress) progress(static_cast<double>(done) / static_cast<double>(bytes));
  }
  return w;
}

}  // namespace troupe::gpu::host
