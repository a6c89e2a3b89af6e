// The model as the host device holds it: packed matrices in one arena, in the order in which a pass reads them, and
// the small tensors in float.
//
// Owner: host_runner. Immutable after load, read by every worker.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "base/ids.hpp"
#include "base/result.hpp"
#include "gpu/host/aligned_memory.hpp"
#include "gpu/host/packed_matrix.hpp"
#include "gpu/host/thread_pool.hpp"
#include "model/model.hpp"

namespace troupe::gpu::host {

struct host_layer {
  packed_matrix q, k, v;         // [heads * head_dim][hidden]
  packed_matrix o;               // [hidden][heads * head_dim]
  packed_matrix gate, up, down;  // [intermediate][hidden], the same, [hidden][intermediate]
  std::vector<float> attn_norm, ffn_norm;     // [hidden]
  std::vector<float> q_bias, k_bias, v_bias;  // as the outputs, or empty
  std::vector<float> q_norm, k_norm;          // [head_dim], or empty
};

struct host_weights {
  std::vector<host_layer> layers;
  std::vector<float> norm;  // [hidden]
  packed_matrix lm_head;    // [vocab][hidden]; also the embedding when they are one tensor
  std::vector<troupe::token_id> lm_head_tokens;  // of its outputs, ascending; empty: of all tokens
  model::tensor embedding;  // in the model's mapping, when it is another tensor
  aligned_memory arena;

  // hidden state of a token, before the first layer
  void embed(std::uint32_t token, std::span<float> out) const;
};

// Packs with the pool's workers and drops the file's pages behind it.
result<host_weights> load_weights(const model::loaded_model& m, thread_pool& pool,
                                  const std::function<void(double)>& progress);

}  // namespace troupe::gpu::host
