#include "gpu/cuda/forward.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "gpu/cuda/tensor_map.hpp"

namespace troupe::gpu::cuda {
namespace {

std::uint32_t round_up(std::uint32_t value, std::uint32_t step) {
  return (value + step - 1) / step * step;
}

// A row of integers is less than two rows in bf16, and there is room for more.
std::uint8_t* integers_in(const activation_matrix& m) {
  return reinterpret_cast<std::uint8_t*>(m.data);
}

template <class T>
void copy_to(const std::vector<T>& from, T* to, std::uint32_t padded, T pad) {
  std::copy(from.begin(), from.end(), to);
  if (from.size() < padded) std::fill(to + from.size(), to + padded, pad);
}

}  // namespace

result<forward_pass> forward_pass::make(const model::model_config& config, device_weights weights,
                                        const forward_limits& limits, const kv_layout& layout,
                                        cudaStream_t stream) {
  forward_pass pass;
  pass.config_ = config;
  pass.weights_ = std::move(weights);
  pass.limits_ = limits;
  pass.layout_ = layout;
  pass.planning_.shape = {config.num_attention_heads, config.num_key_value_heads, config.head_dim};
  pass.planning_.block_tokens = layout.block_tokens;
  pass.planning_.multiprocessors = limits.multiprocessors;
  pass.planning_.exact = limits.exact;
  TROUPE_CHECK(prepare_gemm());
  TROUPE_CHECK(prepare_attention());
  TROUPE_CHECK(prepare_rows());
  TROUPE_CHECK(prepare_unpack());
  // Where no batch has so many rows, the memory is better spent on KV.
  const auto unpacks = [&](const weight_matrix& w) { return pass.unpacks(w, limits.rows); };
  if (std::none_of(pass.weights_.layers.begin(), pass.weights_.layers.end(), [&](const auto& l) {
        return unpacks(l.qkv) || unpacks(l.o) || unpacks(l.gate_up) || unpacks(l.down);
      })) {
    pass.weights_.scratch = {};
  }
  TROUPE_CHECK(pass.allocate_activations());
  TROUPE_CHECK(pass.make_angles(stream));
  return pass;
}

result<void> forward_pass::allocate_activations() {
  const std::uint32_t rows = round_up(limits_.rows, 128);
  const std::size_t hidden = config_.hidden_size,
                    q = std::size_t{config_.num_attention_heads} * config_.head_dim;
  const std::size_t qkv = q + std::size_t{2} * config_.num_key_value_heads * config_.head_dim;
  const auto matrix = [&](device_buffer<__nv_bfloat16>& values, activation_matrix& m,
                          std::size_t height, std::size_t columns) -> result<void> {
    TROUPE_TRY(values, device_buffer<__nv_bfloat16>::make(height * columns, "activations"));
    TROUPE_TRY(m, make_activation_matrix(values.data(), static_cast<std::uint32_t>(height),
                                         static_cast<std::uint32_t>(columns)));
    bytes_ += values.bytes();
    return {};
  };
  const auto take = [&]<class T>(device_buffer<T>& to, std::size_t count,
                                 const char* purpose) -> result<void> {
    TROUPE_TRY(to, device_buffer<T>::make(count, purpose));
    bytes_ += to.bytes();
    return {};
  };
  bytes_ = weights_.bytes();
  TROUPE_CHECK(
      matrix(normed_values_, normed_, std::max(rows, round_up(limits_.logits, 128)), hidden));
  TROUPE_CHECK(matrix(qkv_values_, qkv_, rows, qkv));
  TROUPE_CHECK(matrix(attended_values_, attended_, rows, q));
  TROUPE_CHECK(matrix(out_values_, out_, rows, hidden));
  TROUPE_CHECK(matrix(gated_values_, gated_, rows, config_.intermediate_size));
  TROUPE_CHECK(take(residual_, rows * hidden, "activations"));
  const bool fp8 =
      std::any_of(weights_.layers.begin(), weights_.layers.end(), [](const device_layer& l) {
        return is_fp8(l.qkv) || is_fp8(l.o) || is_fp8(l.gate_up) || is_fp8(l.down);
      });
  if (fp8 && !limits_.exact) {
    const std::size_t widest = std::max({hidden, q, std::size_t{config_.intermediate_size}});
    if (widest > most_quantized_columns) {
      return fail(ec::unsupported, "the CUDA device quantizes rows of at most " +
                                       std::to_string(most_quantized_columns) +
                                       " values to FP8, and this model has " +
                                       std::to_string(widest) +
                                       "; use --exact, or weights that are not FP8");
    }
    const std::size_t height = std::max(normed_.capacity, rows);
    TROUPE_CHECK(take(quantized_values_, height * widest, "activations"));
    TROUPE_CHECK(take(quantized_scales_, height, "activations"));
  }
  const auto adds = [&](const weight_matrix& w) {
    return can_multiply_into_residual(w, limits_.multiprocessors);
  };
  fuses_norms_ = !limits_.exact &&
                 std::all_of(weights_.layers.begin(), weights_.layers.end(), [&](const auto& l) {
                   return can_multiply_single(l.qkv) && can_multiply_single(l.gate_up) &&
                          adds(l.o) && adds(l.down);
                 });
  if (fuses_norms_) TROUPE_CHECK(take(squares_, hidden / residual_band, "activations"));
  TROUPE_CHECK(take(queries_, rows * q, "activations"));
  TROUPE_CHECK(take(argmax_, std::max(rows, limits_.logits), "results"));
  TROUPE_TRY(argmax_host_, pinned_buffer<unsigned long long>::make(argmax_.size(), "results"));
  TROUPE_CHECK(
      take(logits_,
           std::size_t{std::max(limits_.logits, std::min(small_rows, rows))} * config_.vocab_size,
           "logits"));

  std::size_t partial = 0;
  const std::uint32_t few = std::min(rows, small_rows),
                      of_packed = std::min(rows, tuning_of_packed().most_rows);
  for (const auto& layer : weights_.layers) {
    for (const weight_matrix* w : {&layer.qkv, &layer.o, &layer.down}) {
      std::uint32_t sums = splits(*w) * rows;
      if (!limits_.exact) {
        sums = std::max({splits(*w), most_fp8_splits, most_wide_splits}) * few;
        if (w->is_packed()) sums = std::max(sums, of_packed);
      }
      partial = std::max(partial, std::size_t{sums} * w->rows);
    }
  }
  TROUPE_CHECK(take(partial_, partial, "partial sums"));
  TROUPE_CHECK(take(attention_partial_, planning_.max_partial_rows * q, "attention"));
  TROUPE_CHECK(take(softmax_partial_,
                    std::size_t{planning_.max_partial_rows} * config_.num_attention_heads,
                    "attention"));

  TROUPE_CHECK(
      take(counters_, std::size_t{max_items} * 2 * config_.num_key_value_heads, "attention"));
  const std::size_t tables =
      std::size_t{limits_.sequences} * layout_.blocks_for(config_.max_position_embeddings);
  TROUPE_CHECK(take(step_, place(nullptr, rows, max_items).bytes + tables * sizeof(std::uint32_t),
                    "batches"));
  TROUPE_TRY(step_host_, pinned_buffer<std::byte>::make(step_.size(), "batches"));
  return {};
}

result<void> forward_pass::make_angles(cudaStream_t stream) {
  const model::rope_frequencies rope = model::frequencies(config_.rope);
  const auto pairs = static_cast<std::uint32_t>(rope.inv_freq.size());
  TROUPE_TRY(angles_, device_buffer<float2>::make(
                          std::size_t{config_.max_position_embeddings} * pairs, "RoPE"));
  bytes_ += angles_.bytes();
  TROUPE_TRY(auto inv_freq, device_buffer<float>::make(pairs, "RoPE"));
  TROUPE_CHECK(checked(
      cudaMemcpy(inv_freq.data(), rope.inv_freq.data(), inv_freq.bytes(), cudaMemcpyHostToDevice),
      "RoPE"));
  TROUPE_CHECK(fill_angles(inv_freq.data(), rope.attention_factor, config_.max_position_embeddings,
                           pairs, angles_.data(), stream));
  return finish(stream, "filling the RoPE table");
}

result<void> forward_pass::attach(std::byte* arena, std::uint32_t num_blocks) {
  TROUPE_TRY(arena_map_, make_arena_map(arena, half_type::f16, num_blocks, layout_.block_bytes(),
                                        std::uint64_t{layout_.num_layers} * 2 *
                                            layout_.num_kv_heads * layout_.block_tokens,
                                        layout_.head_dim, 16));
  arena_ = arena;
  return {};
}

forward_pass::step_pointers forward_pass::place(std::byte* base, std::uint32_t rows,
                                                std::uint32_t items) {
  std::size_t used = 0;
  const auto take = [&]<class T>(T*& to, std::size_t count) {
    to = reinterpret_cast<T*>(base + used);
    used += (count * sizeof(T) + 15) / 16 * 16;
  };
  step_pointers p{};
  take(p.num_items, max_rounds);
  for (std::uint32_t** of_rows : {&p.tokens, &p.positions, &p.slots, &p.gather})
    take(*of_rows, rows);
  take(p.items, items);
  take(p.block_tables, 0);
  p.bytes = used;
  return p;
}

result<void> forward_pass::upload(const step_plan& plan, const forward_shape& shape,
                                  cudaStream_t stream) {
  const step_pointers host = place(step_host_.data(), shape.rows, shape.items());
  const std::size_t bytes = host.bytes + plan.block_tables.size() * sizeof(std::uint32_t);
  if (plan.items.size() > max_items || plan.rounds.size() > max_rounds || bytes > step_.size()) {
    return fail(ec::invalid_argument,
                "the batch needs " + std::to_string(plan.items.size()) + " attention items in " +
                    std::to_string(plan.rounds.size()) + " rounds; send fewer sequences at once");
  }
  for (std::size_t i = 0; i < plan.rounds.size(); ++i) host.num_items[i] = plan.rounds[i].items;
  copy_to(plan.tokens, host.tokens, shape.rows, token_id{0});
  copy_to(plan.positions, host.positions, shape.rows, 0u);
  copy_to(plan.slots, host.slots, shape.rows, no_slot);
  copy_to(plan.gather, host.gather, 0, 0u);
  std::copy(plan.items.begin(), plan.items.end(), host.items);
  std::copy(plan.block_tables.begin(), plan.block_tables.end(), host.block_tables);
  return take_from_host(step_host_.data(), step_.data(), bytes, stream);
}

// Parts of the reduced dimension: enough blocks to keep every multiprocessor's copy engine busy. Exactness wants one
// answer for all batches; the figures of bench_gpu_cuda do too.
// Packed weights need more blocks, for each spends its time unpacking.
std::uint32_t forward_pass::splits(const weight_matrix& w) const {
  const std::uint32_t tiles = (w.rows + 63) / 64, steps = std::max(w.columns / 64, 1u);
  const packed_tuning& packed = tuning_of_packed();
  const std::uint32_t blocks = (w.is_packed() ? packed.blocks : 2) * limits_.multiprocessors,
                      most = w.is_packed() ? packed.most_splits : 4;
  const std::uint32_t wanted =
      std::clamp(blocks / tiles, 1u, std::min(most, std::max(steps / 4, 1u)));
  return w.is_packed() ? std::bit_floor(wanted) : wanted;
}

// The same for so many rows, where their number may matter: no more than there is room for.
std::uint32_t forward_pass::splits(const weight_matrix& w, std::uint32_t rows) const {
  if (limits_.exact || !w.is_packed() || rows <= 16) return splits(w);
  const auto room = static_cast<std::uint32_t>(partial_.size() / w.rows / rows);
  return std::min(packed_splits(w, rows, limits_.multiprocessors), room);
}

bool forward_pass::unpacks(const weight_matrix& w, std::uint32_t rows) const {
  return w.is_packed() && rows > std::max(small_rows, tuning_of_packed().most_rows) &&
         !takes_fp8(w, rows);
}

// Packed weights are unpacked once for many rows; true: they are in w.data now.
result<bool> forward_pass::unpack_for(const weight_matrix& w, std::uint32_t rows,
                                      cudaStream_t stream) const {
  if (!unpacks(w, rows)) return false;
  TROUPE_CHECK(unpack(w.packed, w.rows, w.columns, weights_.scratch.data(), true, stream));
  return true;
}

bool forward_pass::takes_wide(const weight_matrix& w, std::uint32_t rows,
                              std::uint32_t beyond) const {
  return !limits_.exact && rows > beyond && !w.is_packed() && w.rows % 2 == 0;
}

bool forward_pass::takes_fp8(const weight_matrix& w, std::uint32_t rows) const {
  return !limits_.exact && rows > fp8_rows && is_fp8(w);
}

// Few rows are few tiles, which would leave multiprocessors idle.
std::uint32_t forward_pass::fp8_splits(const weight_matrix& w, std::uint32_t rows) const {
  if (rows > small_rows) return 1;
  const std::uint32_t tiles = (rows + 127) / 128 * ((w.rows + 127) / 128);
  return std::clamp(limits_.multiprocessors / tiles, 1u,
                    std::min(most_fp8_splits, std::max(w.columns / 1024, 1u)));
}

// What `normed_` would hold has been quantized by add_and_normalize.
result<layer_output> forward_pass::linear_fp8(const activation_matrix& x, const weight_matrix& w,
                                              const activation_matrix& y, bool gated,
                                              std::uint32_t rows, cudaStream_t stream) const {
  TROUPE_TRY(const quantized_rows quantized,
             make_quantized_rows(quantized_values_.data(), quantized_scales_.data(), x.capacity,
                                 x.columns));
  if (x.data != normed_.data) TROUPE_CHECK(quantize_rows(x, rows, quantized, stream));
  fp8_output to{y, gated};
  layer_output out;
  if (!gated) to.splits = fp8_splits(w, rows);
  if (to.splits > 1) {
    TROUPE_ASSERT(std::size_t{to.splits} * rows * w.rows <= partial_.size());
    out.partial = to.partial = partial_.data();
    out.splits = to.splits;
  } else {
    out.values = y.data;
  }
  TROUPE_CHECK(multiply_fp8(quantized, rows, w, to, stream));
  return out;
}

result<layer_output> forward_pass::linear(const activation_matrix& x, const weight_matrix& w,
                                          const activation_matrix& y, std::uint32_t rows,
                                          cudaStream_t stream) const {
  if (takes_fp8(w, rows)) return linear_fp8(x, w, y, false, rows, stream);
  layer_output out;
  TROUPE_TRY(const bool unpacked, unpack_for(w, rows, stream));
  if (!narrow(w, rows, unpacked)) {
    TROUPE_CHECK(multiply_wide(x, rows, w, {&y}, {{}, true, !unpacked}, stream));
    out.values = y.data;
    return out;
  }
  if (takes_wide(w, rows, wide_rows)) {
    const wide_shape shape = shape_of_partial(rows, w.rows, w.columns, limits_.multiprocessors);
    TROUPE_ASSERT(std::size_t{shape.splits} * rows * w.rows <= partial_.size());
    TROUPE_CHECK(
        multiply_wide(x, rows, w, {nullptr, false, partial_.data()}, {shape, true, true}, stream));
    out.partial = partial_.data();
    out.splits = shape.splits;
    return out;
  }
  narrow_options options;
  options.splits = splits(w, rows);
  options.tile_groups = tile_groups(rows);
  options.unpacked = unpacked;
  options.early = !unpacked;  // else weights would be fetched before they are there
  TROUPE_ASSERT(std::size_t{options.splits} * rows * w.rows <= partial_.size());
  TROUPE_CHECK(multiply_narrow(x, rows, w, {partial_.data(), nullptr}, options, stream));
  out.partial = partial_.data();
  out.splits = options.splits;
  return out;
}

result<void> forward_pass::attention(const forward_shape& shape, std::uint32_t layer,
                                     const rotary_arguments& rotary, cudaStream_t stream) const {
  if (!shape.single) TROUPE_CHECK(rotate_and_store(rotary, true, stream));
  const step_pointers step = on_device(shape);
  for (std::size_t i = 0; i < shape.rounds.size(); ++i) {
    const attention_round& round = shape.rounds[i];
    attention_arguments a{};
    a.queries = queries_.data();
    a.output = attended_.data;
    a.items = step.items + round.first_item;
    a.num_items = step.num_items + i;
    a.block_tables = step.block_tables;
    a.partial_output = attention_partial_.data();
    a.partial_softmax = softmax_partial_.data();
    a.counters = counters_.data();
    a.layer = layer;
    a.rotary = shape.single ? &rotary : nullptr;
    TROUPE_CHECK(
        attend(planning_.shape, layout_, arena_map_, round.tile, round.items, a, true, stream));
  }
  return {};
}

rotary_arguments forward_pass::rotary_of(std::uint32_t index, const forward_shape& shape,
                                         const layer_output& qkv) const {
  const device_layer& w = weights_.layers[index];
  const step_pointers step = on_device(shape);
  rotary_arguments rotary{};
  rotary.qkv = qkv;
  rotary.bias = w.qkv_bias;
  rotary.q_norm = w.q_norm;
  rotary.k_norm = w.k_norm;
  rotary.epsilon = config_.rms_norm_eps;
  rotary.angles = angles_.data();
  rotary.positions = step.positions;
  rotary.slots = step.slots;
  rotary.queries = queries_.data();
  rotary.arena = arena_;
  rotary.block_bytes = layout_.block_bytes();
  rotary.layer_offset = index * layout_.layer_bytes();
  rotary.rows = shape.rows;
  rotary.num_heads = config_.num_attention_heads;
  rotary.num_kv_heads = config_.num_key_value_heads;
  rotary.head_dim = config_.head_dim;
  rotary.dimensions = config_.rope.dimensions;
  rotary.block_tokens = layout_.block_tokens;
  rotary.interleaved = config_.rope.interleaved;
  return rotary;
}

// `before` is what the layer before left to be added to the residual; returns the same for the next.
result<layer_output> forward_pass::layer(const forward_shape& shape, std::uint32_t index,
                                         const layer_output& before, cudaStream_t stream) const {
  const device_layer& w = weights_.layers[index];
  norm_arguments norm{residual_.data(),    before,  shape.rows, w.attn_norm,
                      normed_.data,        nullptr, shape.rows, config_.hidden_size,
                      config_.rms_norm_eps};
  const auto quantize_for = [&](const weight_matrix& next) {
    const bool fp8 = takes_fp8(next, shape.rows);
    norm.quantized = fp8 ? quantized_values_.data() : nullptr;
    norm.scales = fp8 ? quantized_scales_.data() : nullptr;
  };
  quantize_for(w.qkv);
  TROUPE_CHECK(add_and_normalize(norm, true, stream));

  TROUPE_TRY(const layer_output qkv, linear(normed_, w.qkv, qkv_, shape.rows, stream));
  TROUPE_CHECK(attention(shape, index, rotary_of(index, shape, qkv), stream));

  TROUPE_TRY(norm.update, linear(attended_, w.o, out_, shape.rows, stream));
  norm.weight = w.ffn_norm;
  quantize_for(w.gate_up);
  TROUPE_CHECK(add_and_normalize(norm, true, stream));
  if (takes_fp8(w.gate_up, shape.rows)) {
    TROUPE_CHECK(linear_fp8(normed_, w.gate_up, gated_, true, shape.rows, stream));
    return linear(gated_, w.down, out_, shape.rows, stream);
  }
  TROUPE_TRY(const bool unpacked, unpack_for(w.gate_up, shape.rows, stream));
  if (narrow(w.gate_up, shape.rows, unpacked) &&
      !takes_wide(w.gate_up, shape.rows, wide_feature_rows)) {
    TROUPE_CHECK(multiply_narrow(normed_, shape.rows, w.gate_up, {nullptr, gated_.data},
                                 {1, tile_groups(shape.rows), !unpacked, unpacked}, stream));
  } else {
    TROUPE_CHECK(multiply_wide(normed_, shape.rows, w.gate_up, {&gated_, true},
                               {{}, true, !unpacked}, stream));
  }
  return linear(gated_, w.down, out_, shape.rows, stream);
}

row_norm forward_pass::norm_after_residual() const {
  return {squares_.data(), config_.hidden_size / residual_band, config_.rms_norm_eps};
}

result<void> forward_pass::fused_layer(const forward_shape& shape, std::uint32_t index,
                                       cudaStream_t stream) const {
  const device_layer& w = weights_.layers[index];
  std::uint8_t *normed = integers_in(normed_), *gated = integers_in(gated_);
  const auto add = [&](const single_input& x, const weight_matrix& by, const float* weight) {
    return multiply_into_residual(x, by, {residual_.data(), weight, normed, squares_.data()},
                                  limits_.multiprocessors, stream);
  };
  layer_output qkv{partial_.data(), nullptr, splits(w.qkv)};
  TROUPE_ASSERT(std::size_t{qkv.splits} * w.qkv.rows <= partial_.size());
  TROUPE_CHECK(multiply_single(normed, w.qkv, {partial_.data()},
                               {qkv.splits, norm_after_residual()}, stream));
  TROUPE_CHECK(attention(shape, index, rotary_of(index, shape, qkv), stream));
  TROUPE_CHECK(add({attended_.data}, w.o, w.ffn_norm));
  TROUPE_CHECK(
      multiply_single(normed, w.gate_up, {nullptr, gated}, {1, norm_after_residual()}, stream));
  const bool is_last = index + 1 == config_.num_hidden_layers;
  return add({nullptr, gated}, w.down,
             is_last ? weights_.norm : weights_.layers[index + 1].attn_norm);
}

result<layer_output> forward_pass::enqueue_layers(const forward_shape& shape,
                                                  cudaStream_t stream) const {
  const step_pointers step = on_device(shape);
  embed_arguments first{weights_.embed.is_packed() ? nullptr : weights_.embed.data,
                        weights_.embed.packed,
                        step.tokens,
                        residual_.data(),
                        argmax_.data(),
                        shape.rows,
                        config_.hidden_size};
  const bool fused = fuses_norms(shape.rows);
  if (fused) {
    first.weight = weights_.layers[0].attn_norm;
    first.normed = integers_in(normed_);
    first.squares = squares_.data();
  }
  TROUPE_CHECK(embed(first, false, stream));
  layer_output update;
  for (std::uint32_t i = 0; i < config_.num_hidden_layers; ++i) {
    if (fused) {
      TROUPE_CHECK(fused_layer(shape, i, stream));
    } else {
      TROUPE_TRY(update, layer(shape, i, update, stream));
    }
  }
  return update;
}

result<void> forward_pass::enqueue_logits(const forward_shape& shape, const layer_output& last,
                                          std::uint32_t first, std::uint32_t count,
                                          cudaStream_t stream) const {
  TROUPE_ASSERT(shape.gather || first == 0);
  if (fuses_norms(shape.rows) && can_multiply_single(weights_.lm_head) && !shape.gather) {
    TROUPE_CHECK(multiply_single(integers_in(normed_), weights_.lm_head,
                                 {logits_.data(), nullptr, argmax_.data()},
                                 {1, norm_after_residual()}, stream));
    return leave_to_host(argmax_.data(), argmax_host_.data(), count, stream);
  }
  const norm_arguments norm{residual_.data(),
                            last,
                            shape.rows,
                            weights_.norm,
                            normed_.data,
                            shape.gather ? on_device(shape).gather + first : nullptr,
                            count,
                            config_.hidden_size,
                            config_.rms_norm_eps};
  // After the first piece a copy of its logits comes before this, and must be over before they are overwritten.
  TROUPE_CHECK(add_and_normalize(norm, first == 0, stream));
  if (takes_wide(weights_.lm_head, count, wide_feature_rows)) {
    TROUPE_CHECK(multiply_wide(normed_, count, weights_.lm_head, {nullptr, false, logits_.data()},
                               {{}, true, true}, stream));
  } else {
    TROUPE_CHECK(multiply_narrow(normed_, count, weights_.lm_head, {logits_.data(), nullptr},
                                 {1, tile_groups(count), true}, stream));
  }
  TROUPE_CHECK(
      find_argmax(logits_.data(), count, config_.vocab_size, argmax_.data() + first, true, stream));
  return leave_to_host(argmax_.data() + first, argmax_host_.data() + first, count, stream);
}

result<void> forward_pass::enqueue(const forward_shape& shape, cudaStream_t stream) const {
  TROUPE_TRY(const layer_output last, enqueue_layers(shape, stream));
  return shape.logits == 0 ? result<void>{} : enqueue_logits(shape, last, 0, shape.logits, stream);
}

}  // namespace troupe::gpu::cuda
