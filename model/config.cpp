#include <algorithm>
#include <cmath>

#include "model/architecture.hpp"

namespace troupe::model {

namespace {

class config_reader {
 public:
  config_reader(const architecture& arch, const model_source& source)
      : source_(source), meta_(*source.meta), prefix_(std::string(arch.name) + ".") {
    config_.architecture = arch.name;
    config_.rope.interleaved = arch.interleaved_rope && source.interleaved_rope;
  }

  result<model_config> read() {
    TROUPE_TRY(config_.name, meta_.get_or<std::string>("general.name", ""));
    TROUPE_CHECK(refuse_other_graphs());
    TROUPE_TRY(config_.num_hidden_layers, integer("block_count", 1, 4096));
    TROUPE_TRY(config_.hidden_size, integer("embedding_length", 1, 1u << 20));
    TROUPE_TRY(config_.intermediate_size, integer("feed_forward_length", 1, 1u << 22));
    TROUPE_TRY(config_.max_position_embeddings, integer("context_length", 1, 1u << 28));
    TROUPE_CHECK(sliding_window());
    TROUPE_CHECK(attention());
    TROUPE_CHECK(vocabulary());
    // No default: a guess would change every logit a little.
    TROUPE_TRY(config_.rms_norm_eps, meta_.get<float>(key("attention.layer_norm_rms_epsilon")));
    if (!(config_.rms_norm_eps > 0.0f && config_.rms_norm_eps < 1.0f))
      return wrong("attention.layer_norm_rms_epsilon", std::to_string(config_.rms_norm_eps),
                   "between 0 and 1");
    TROUPE_CHECK(rope());
    return std::move(config_);
  }

 private:
  std::string key(std::string_view name) const { return prefix_ + std::string(name); }

  tl::unexpected<error> wrong(std::string_view name, const std::string& value,
                              const std::string& wanted) const {
    return fail(ec::corrupt_file,
                meta_.source() + ": " + key(name) + " is " + value + ", it must be " + wanted);
  }

  result<std::uint32_t> integer(std::string_view name, std::uint32_t least,
                                std::uint32_t most) const {
    TROUPE_TRY(auto value, meta_.get<std::uint32_t>(key(name)));
    if (value < least || value > most)
      return wrong(name, std::to_string(value),
                   "from " + std::to_string(least) + " to " + std::to_string(most));
    return value;
  }

  result<std::uint32_t> integer_or(std::string_view name, std::uint32_t fallback,
                                   std::uint32_t least, std::uint32_t most) const {
    if (!meta_.contains(key(name))) return fallback;
    return integer(name, least, most);
  }

  // More than `least`, at most `most`.
  result<float> real(std::string_view name, float fallback, float least, float most) const {
    TROUPE_TRY(auto value, meta_.get_or<float>(key(name), fallback));
    if (!(value > least && value <= most))
      return wrong(name, std::to_string(value),
                   "more than " + std::to_string(least) + ", at most " + std::to_string(most));
    return value;
  }

  // Keys that change the arithmetic in a way that no slot of ours has. Present and neutral is
  // harmless.
  result<void> refuse_other_graphs() const {
    struct neutral {
      std::string_view name;
      float value;
    };
    for (auto [name, value] : {neutral{"expert_count", 0.0f},
                               {"attn_logit_softcapping", 0.0f},
                               {"final_logit_softcapping", 0.0f},
                               {"logit_scale", 1.0f},
                               {"residual_scale", 1.0f},
                               {"embedding_scale", 1.0f},
                               {"attention.max_alibi_bias", 0.0f},
                               {"attention.clamp_kqv", 0.0f}}) {
      TROUPE_TRY(auto found, meta_.get_or<float>(key(name), value));
      if (found != value)
        return fail(ec::unsupported, meta_.source() + ": " + key(name) + " is " +
                                         std::to_string(found) +
                                         ", a variant that this build cannot run");
    }
    return {};
  }

  // Within its window a sliding-window model attends to everything, so a shorter context gives its
  // exact answers.
  result<void> sliding_window() {
    TROUPE_TRY(auto window, integer_or("attention.sliding_window", 0, 0, 1u << 28));
    if (window != 0)
      config_.max_position_embeddings = std::min(config_.max_position_embeddings, window);
    return {};
  }

  result<void> attention() {
    TROUPE_TRY(config_.num_attention_heads, integer("attention.head_count", 1, 4096));
    TROUPE_TRY(config_.num_key_value_heads,
               integer_or("attention.head_count_kv", config_.num_attention_heads, 1, 4096));
    if (config_.num_attention_heads % config_.num_key_value_heads != 0)
      return wrong(
          "attention.head_count_kv", std::to_string(config_.num_key_value_heads),
          "a divisor of the " + std::to_string(config_.num_attention_heads) + " attention heads");
    if (!meta_.contains(key("attention.key_length")) &&
        config_.hidden_size % config_.num_attention_heads != 0)
      return wrong(
          "embedding_length", std::to_string(config_.hidden_size),
          "a multiple of the " + std::to_string(config_.num_attention_heads) + " attention heads");
    TROUPE_TRY(config_.head_dim,
               integer_or("attention.key_length", config_.hidden_size / config_.num_attention_heads,
                          2, 4096));
    TROUPE_TRY(auto value_dim, integer_or("attention.value_length", config_.head_dim, 1, 4096));
    if (value_dim != config_.head_dim)
      return fail(ec::unsupported, meta_.source() + ": " + key("attention.value_length") + " is " +
                                       std::to_string(value_dim) + " and the key length " +
                                       std::to_string(config_.head_dim) +
                                       "; this build needs them equal");
    return {};
  }

  const stored_tensor* stored(std::string_view name) const {
    for (const auto& entry : source_.tensors)
      if (entry.name == name) return &entry;
    return nullptr;
  }

  result<void> vocabulary() {
    auto* embedding = stored("token_embd.weight");
    if (!embedding)
      return fail(ec::corrupt_file, meta_.source() + ": the tensor 'token_embd.weight' is missing");
    const auto rows = embedding->shape[1];
    if (rows > (1u << 24))
      return fail(ec::corrupt_file, meta_.source() + ": 'token_embd.weight' has " +
                                        std::to_string(rows) + " rows, more than any vocabulary");
    config_.vocab_size = static_cast<std::uint32_t>(rows);
    config_.tie_word_embeddings = stored("output.weight") == nullptr;
    // A token id beyond the embedding would read past it.
    if (auto* tokens = meta_.find("tokenizer.ggml.tokens");
        tokens && tokens->type == value_type::array && tokens->count() > rows)
      return fail(ec::corrupt_file, meta_.source() + ": the vocabulary has " +
                                        std::to_string(tokens->count()) +
                                        " tokens, more than the " + std::to_string(rows) +
                                        " rows of 'token_embd.weight'");
    return {};
  }

  result<void> rope() {
    auto& rope = config_.rope;
    TROUPE_TRY(rope.theta, real("rope.freq_base", 10000.0f, 0.0f, 1e15f));
    TROUPE_TRY(rope.dimensions,
               integer_or("rope.dimension_count", config_.head_dim, 2, config_.head_dim));
    if (rope.dimensions % 2 != 0)
      return wrong("rope.dimension_count", std::to_string(rope.dimensions), "even");
    TROUPE_CHECK(rope_scaling());
    return rope_factors();
  }

  result<void> rope_scaling() {
    auto& rope = config_.rope;
    TROUPE_TRY(auto kind, meta_.get_or<std::string>(key("rope.scaling.type"), "none"));
    // Older files have only the reciprocal of nothing else than linear scaling.
    TROUPE_TRY(auto linear, real("rope.scale_linear", 1.0f, 0.0f, 1e6f));
    TROUPE_TRY(rope.factor, real("rope.scaling.factor", linear, 0.0f, 1e6f));
    if (kind == "none" && !meta_.contains(key("rope.scaling.type")) && rope.factor != 1.0f)
      kind = "linear";
    if (kind == "none") {
      rope.factor = 1.0f;
      return {};
    }
    if (kind == "linear") {
      rope.scaling = rope_scaling_kind::linear;
      return {};
    }
    if (kind != "yarn" && kind != "llama3")
      return fail(ec::unsupported, meta_.source() + ": " + key("rope.scaling.type") + " is " +
                                       printable(kind) +
                                       "; this build knows none, linear, yarn and llama3");
    TROUPE_TRY(rope.original_max_position_embeddings,
               integer_or("rope.scaling.original_context_length", config_.max_position_embeddings,
                          1, 1u << 28));
    if (kind == "llama3") {
      rope.scaling = rope_scaling_kind::llama3;
      TROUPE_TRY(rope.low_freq_factor, real("rope.scaling.low_freq_factor", 1.0f, 0.0f, 1e6f));
      TROUPE_TRY(rope.high_freq_factor,
                 real("rope.scaling.high_freq_factor", 4.0f, rope.low_freq_factor, 1e6f));
      return {};
    }
    rope.scaling = rope_scaling_kind::yarn;
    TROUPE_TRY(rope.beta_fast, real("rope.scaling.yarn_beta_fast", 32.0f, 0.0f, 1e6f));
    TROUPE_TRY(rope.beta_slow, real("rope.scaling.yarn_beta_slow", 1.0f, 0.0f, 1e6f));
    TROUPE_TRY(auto multiplier, real("rope.scaling.attn_factor", 1.0f, 0.0f, 1e6f));
    // YaRN's temperature (arXiv 2309.00071, equation 22), where the file does not replace it.
    const float temperature = rope.factor <= 1.0f ? 1.0f : 0.1f * std::log(rope.factor) + 1.0f;
    TROUPE_TRY(rope.attention_factor,
               real("rope.scaling.attention_factor", multiplier * temperature, 0.0f, 1e6f));
    return {};
  }

  // Llama 3 in GGUF carries the outcome of its scaling as one divisor a pair.
  result<void> rope_factors() {
    auto* entry = stored("rope_freqs.weight");
    if (!entry) return {};
    auto& rope = config_.rope;
    if (entry->raw_type != static_cast<std::uint32_t>(tensor_type::f32) || entry->dimensions != 1 ||
        entry->shape[0] != rope.dimensions / 2)
      return fail(ec::corrupt_file, meta_.source() + ": 'rope_freqs.weight' must be F32 with " +
                                        std::to_string(rope.dimensions / 2) + " values");
    rope.freq_factors.resize(rope.dimensions / 2);
    dequantize_row({entry->name, tensor_type::f32, 1, entry->shape[0], entry->data}, 0,
                   rope.freq_factors);
    for (float factor : rope.freq_factors)
      if (!(factor > 0.0f && std::isfinite(factor)))
        return fail(
            ec::corrupt_file,
            meta_.source() + ": 'rope_freqs.weight' holds a value that is not positive and finite");
    return {};
  }

  const model_source& source_;
  const metadata& meta_;
  std::string prefix_;
  model_config config_;
};

}  // namespace

result<model_config> read_config(const architecture& arch, const model_source& source) {
  return config_reader(arch, source).read();
}

}  // namespace troupe::model
